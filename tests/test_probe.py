import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from resnetv2.errors import DataError
from resnetv2.training.probe import DECADES, deal_folds, fit_classes, fit_tags, fit_values

# Minimised to a gradient of 1e-3, so to a millionth of the loss: logits of a few units are right to some thousandths.
CLOSE = 5e-3


def made(n=120, f=40, k=4, views=1, noise=1.0, seed=0):
    """Return features float32 (views, n, f), positive and of very different sizes, and labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    centres = rng.standard_normal((k, f))
    base = centres[labels] * 0.5 + noise * rng.standard_normal((n, f))
    features = base + 0.3 * rng.standard_normal((views, n, f))
    return (np.maximum(features, -1) * 10.0 ** rng.uniform(-2, 2, f) + 5).astype(np.float32), labels


def standard(features):
    """Return features (M, f) as the penalty sees them."""
    return (features - features.mean(axis=0)) / features.std(axis=0) / features.shape[1] ** 0.5


def answers(probe, features):
    return features.astype(np.float64) @ probe.weight.T.astype(np.float64) + probe.bias


def log_probabilities(logits):
    return F.log_softmax(torch.from_numpy(logits), dim=1).numpy()


# --- the optimum, against scikit-learn ---


@pytest.mark.parametrize(("n", "f"), [(120, 40), (60, 200)], ids=["more pictures", "more features"])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_chosen_model_is_scikit_learns_of_the_same_strength(n, f, class_weights):
    features, labels = made(n, f)
    labels[labels == 3] = np.where(np.arange((labels == 3).sum()) % 3, 0, 3)  # classes of different size
    probe = fit_classes(features, labels, 4, class_weights=class_weights)
    x, weight = standard(features[0].astype(np.float64)), {"none": None, "balanced": "balanced"}[class_weights]
    peer = LogisticRegression(C=1 / (probe.strength * n), class_weight=weight, tol=1e-8, max_iter=10_000).fit(x, labels)
    np.testing.assert_allclose(
        log_probabilities(answers(probe, features[0])), peer.predict_log_proba(x), atol=CLOSE, rtol=CLOSE
    )


def test_held_out_answers_are_scikit_learns_on_the_other_folds():
    features, labels = made()
    probe = fit_classes(features, labels, 4)
    x, losses = standard(features[0].astype(np.float64)), []
    for fold in range(5):
        seen = probe.folds != fold
        peer = LogisticRegression(C=1 / (probe.strength * seen.sum()), tol=1e-8, max_iter=10_000)
        expected = peer.fit(x[seen], labels[seen]).predict_log_proba(x[~seen])
        # Folds are minimised to a gradient of 2e-2 only: enough to compare strengths.
        np.testing.assert_allclose(log_probabilities(probe.logits[~seen]), expected, atol=0.1)
        losses += (-expected[np.arange(len(expected)), labels[~seen]]).tolist()
    place = probe.strengths.index(probe.strength)
    assert probe.losses[place] == pytest.approx(np.mean(losses), abs=2e-3)
    assert probe.scores[place] == (probe.logits.argmax(axis=1) == labels).mean()


def test_tags_are_scikit_learns_logistic_regressions():
    features, labels = made()
    tags = np.stack([labels == 0, labels < 2, labels != 2], axis=1).astype(np.int64)
    for class_weights, weight in (("none", None), ("balanced", "balanced")):
        probe = fit_tags(features, tags, class_weights=class_weights)
        x = standard(features[0].astype(np.float64))
        for tag in range(3):
            peer = LogisticRegression(
                C=1 / (probe.strength * len(x)), class_weight=weight, tol=1e-8, max_iter=10_000
            ).fit(x, tags[:, tag])
            expected = peer.decision_function(x)
            np.testing.assert_allclose(answers(probe, features[0])[:, tag], expected, atol=CLOSE * 10, rtol=CLOSE)
        assert probe.logits.shape == (120, 3)
        assert probe.scores[probe.strengths.index(probe.strength)] == ((probe.logits > 0) == tags).mean()


def test_values_are_scikit_learns_ridge_in_any_unit():
    features, _ = made(seed=1)
    targets = 1e4 + 300 * (features[0, :, 0] / features[0, :, 0].std() + np.random.default_rng(2).standard_normal(120))
    probe = fit_values(features, targets)
    x = standard(features[0].astype(np.float64))
    expected = Ridge(alpha=probe.strength * len(x)).fit(x, targets).predict(x)
    np.testing.assert_allclose(answers(probe, features[0])[:, 0], expected, rtol=CLOSE * 300 / 1e4)
    place = probe.strengths.index(probe.strength)
    assert probe.losses[place] == pytest.approx(((probe.logits[:, 0] - targets) ** 2).mean() / 2, rel=1e-3)
    assert probe.scores[place] == pytest.approx(1 - 2 * probe.losses[place] / targets.var(), rel=1e-3)
    assert 0.2 < probe.scores[place] < 0.8


# --- the choice of the strength ---


def test_the_strength_with_the_least_held_out_loss_is_chosen_and_noise_asks_for_a_stronger_one():
    chosen = []
    for noise in (0.3, 3.0, 100.0):
        features, labels = made(200, noise=noise)
        probe = fit_classes(features, labels, 4)
        assert probe.strength == probe.strengths[int(np.argmin(probe.losses))]
        assert list(probe.strengths) == sorted(probe.strengths, reverse=True)
        assert len(probe.strengths) == len(probe.losses) == len(probe.scores)
        chosen.append(probe.strength)
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[2] >= DECADES[0]


def test_the_search_finds_the_best_of_all_strengths():
    features, labels = made(200)
    probe = fit_classes(features, labels, 4)
    x, losses = standard(features[0].astype(np.float64)), {}
    for strength in [10.0 ** (-step / 2) for step in range(-1, 14)]:
        total = 0.0
        for fold in range(5):
            seen = probe.folds != fold
            peer = LogisticRegression(C=1 / (strength * seen.sum()), tol=1e-6, max_iter=10_000).fit(
                x[seen], labels[seen]
            )
            total -= peer.predict_log_proba(x[~seen])[np.arange((~seen).sum()), labels[~seen]].sum()
        losses[strength] = total / len(labels)
    best = min(losses, key=losses.get)
    assert probe.strength == pytest.approx(best)


def test_two_fits_give_the_same_bits():
    features, labels = made(views=2)
    one, two = (fit_classes(features, labels, 4) for _ in range(2))
    for name in ("weight", "bias", "folds", "logits"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
    assert fit_classes(features, labels, 4, seed=1).folds.tolist() != one.folds.tolist()


# --- views ---


def test_two_equal_views_are_one():
    features, labels = made()
    once, twice = fit_classes(features, labels, 4), fit_classes(np.concatenate([features] * 2), labels, 4)
    assert once.strength == twice.strength
    # A number added to all classes of a picture changes nothing and costs nothing: logits are compared without it.
    one, other = (log_probabilities(answers(probe, features[0])) for probe in (once, twice))
    np.testing.assert_allclose(other, one, atol=CLOSE, rtol=CLOSE)
    np.testing.assert_allclose(twice.losses, once.losses, atol=1e-3)


def test_views_are_learned_from_and_the_first_is_judged():
    features, labels = made(views=3)
    probe = fit_classes(features, labels, 4)
    flat = features.reshape(-1, 40)
    x = standard(flat.astype(np.float64))
    peer = LogisticRegression(C=1 / (probe.strength * len(x)), tol=1e-8, max_iter=10_000).fit(x, np.tile(labels, 3))
    np.testing.assert_allclose(
        log_probabilities(answers(probe, flat)), peer.predict_log_proba(x), atol=CLOSE, rtol=CLOSE
    )
    assert probe.logits.shape == (120, 4)
    assert probe.folds.shape == (120,)


# --- folds ---


def test_classes_are_spread_over_folds_as_evenly_as_numbers_allow():
    labels = np.repeat(np.arange(4), (50, 13, 7, 2))
    folds = deal_folds(labels[:, None], None, 5, 0)
    table = np.array([np.bincount(folds[labels == k], minlength=5) for k in range(4)])
    assert (np.ptp(table, axis=1) <= 1).all()
    assert np.ptp(table.sum(axis=0)) <= 1


def test_groups_are_never_parted_and_classes_are_spread_even_so():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    groups = [f"g{g}" if g < 40 else "" for g in rng.integers(0, 60, 300)]
    folds = deal_folds(labels[:, None], groups, 5, 0)
    for name in set(groups) - {""}:
        assert len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1
    table = np.array([np.bincount(folds[labels == k], minlength=5) for k in range(3)])
    assert (np.ptp(table, axis=1) <= 2).all()


def test_tags_are_spread_the_rarest_first():
    rng = np.random.default_rng(0)
    tags = rng.random((200, 4)) < (0.5, 0.2, 0.05, 0.025)
    folds = deal_folds(tags, None, 5, 0, as_marks=True)
    table = np.array([[tags[folds == f, k].sum() for f in range(5)] for k in range(4)])
    assert (np.ptp(table[1:], axis=1) <= 2).all()
    assert np.ptp(np.bincount(folds)) <= 20


def test_there_are_no_more_folds_than_groups():
    labels = np.array([0, 1, 0, 1, 0])
    assert set(deal_folds(labels[:, None], ["a", "a", "b", "b", "b"], 5, 0).tolist()) == {0, 1}
    with pytest.raises(DataError, match="two groups of them; there is 5 pictures of one group"):
        deal_folds(labels[:, None], ["a"] * 5, 5, 0)
    with pytest.raises(DataError, match="there is 1 picture"):
        deal_folds(labels[:1, None], None, 5, 0)


# --- little data, odd data ---


@pytest.mark.parametrize("counts", [(1, 1), (3, 2), (1, 30), (1, 1, 1, 1), (40, 40, 1)])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_classes_smaller_than_the_folds_work(counts, class_weights):
    labels = np.repeat(np.arange(len(counts)), counts)
    features, _ = made(len(labels))
    probe = fit_classes(features, labels, len(counts) + 1, class_weights=class_weights)  # and a class without pictures
    for array in (probe.weight, probe.bias, probe.logits, np.array(probe.losses)):
        assert np.isfinite(array).all()
    assert (answers(probe, features[0]).argmax(axis=1) < len(counts)).all()
    assert probe.weight.shape == (len(counts) + 1, 40)
    assert probe.weight.dtype == probe.bias.dtype == probe.logits.dtype == np.float32


def test_features_that_say_nothing_have_no_weight():
    features, labels = made()
    features[..., 3] = 7.25
    features[..., 4] = 0
    probe = fit_classes(features, labels, 4)
    assert (probe.weight[:, 3:5] == 0).all()
    assert np.isfinite(probe.weight).all()


def test_features_that_all_say_nothing_leave_the_shares_of_the_classes():
    labels = np.array([0, 0, 0, 1] * 10)
    probe = fit_classes(np.ones((1, 40, 6), np.float32), labels, 2)
    chances = np.exp(log_probabilities(answers(probe, np.ones((1, 6)))))
    np.testing.assert_allclose(chances, [[0.75, 0.25]], atol=1e-3)


def test_a_target_that_never_changes_is_answered():
    features, _ = made(20)
    probe = fit_values(features, np.full(20, 3.5))
    np.testing.assert_allclose(answers(probe, features[0]), 3.5, atol=1e-5)


def test_balanced_weights_lift_the_rare_class():
    features, labels = made(400, k=2, noise=4.0)
    keep = (labels == 0) | (np.arange(400) % 8 == 0)
    features, labels = features[:, keep], labels[keep]
    recalls = [
        (fit_classes(features, labels, 2, class_weights=w).logits.argmax(axis=1) == labels)[labels == 1].mean()
        for w in ("none", "balanced")
    ]
    assert recalls[1] > recalls[0] + 0.1
