"""Features of the training pictures: distances are Mahalanobis's, whatever the numbers of pictures and features."""

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from resnetv2.errors import ConfigError
from resnetv2.weights.likeness import AXES, NAMES, TrainingFeatures


def gaussians(n, d, classes=3, seed=0):
    """Return features of classes that lie apart, with one covariance, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    features = 5 * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) @ mixing
    return unit(features), labels


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_with_all_axes_the_distance_is_sklearns_from_the_nearest_mean():
    features, labels = gaussians(400, 12)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(3)])
    peer = EmpiricalCovariance(assume_centered=True).fit(features - means[labels])
    new = gaussians(50, 12, seed=1)[0]
    expected = np.min([peer.mahalanobis(new - mean) for mean in means], axis=0) / 12
    expected *= (400 - 3) / 400  # its covariance is divided by n, ours by n less the means that were taken from it
    ours = TrainingFeatures.of(features, labels).distances(new)
    assert ours == pytest.approx(expected, rel=1e-4)  # ours is kept in float32


def test_the_distance_is_about_1_for_more_of_the_same_and_grows_away_from_it():
    features, labels = gaussians(6000, 100)
    likeness = TrainingFeatures.of(features[:5000], labels[:5000])
    same = likeness.distances(features[5000:])
    # with 64 of 100 axes kept, the rest share one variance: its least directions count too little, never too much
    assert same.mean() == pytest.approx(1, abs=0.05)
    noise = np.random.default_rng(2).normal(size=(1000, 100))
    assert (likeness.distances(features[5000:] + 5 * noise) > same).all()


@pytest.mark.parametrize(("n", "d"), [(3, 50), (4, 50), (30, 50), (200, 50), (7, 2)])
def test_distances_are_finite_however_few_the_pictures(n, d):
    features, labels = gaussians(n, d)
    likeness = TrainingFeatures.of(features, labels)
    assert likeness.axes.shape == (max(min(AXES, d - 1, n - 3), 0), d)
    assert np.isfinite(likeness.distances(features)).all()
    far = likeness.distances(features + 1e3)
    assert (far > likeness.distances(features)).all()


def test_features_that_never_vary_are_no_division_by_zero():
    likeness = TrainingFeatures.of(np.zeros((10, 4), np.float32), np.arange(10) % 2)
    assert np.isfinite(likeness.distances(np.zeros((2, 4), np.float32))).all()
    features, labels = gaussians(100, 6)
    features[:, 2] = 0
    likeness = TrainingFeatures.of(features, labels)
    strange = features[:1] + np.eye(6)[2]
    assert likeness.distances(strange) > 100 * likeness.distances(features[:1])


def test_a_class_without_pictures_has_no_mean():
    features, labels = gaussians(40, 5)
    assert len(TrainingFeatures.of(features, labels * 10).means) == 3


def test_the_distances_of_many_pictures_are_those_of_each(monkeypatch):
    features, labels = gaussians(100, 8)
    likeness = TrainingFeatures.of(features, labels)
    whole = likeness.distances(features)
    monkeypatch.setattr("resnetv2.weights.likeness._ROWS", 24 * 7)
    # sums of matrix products are taken in another order in batches of another size
    assert likeness.distances(features) == pytest.approx(whole, rel=1e-9)


def test_what_was_kept_gives_the_same_distances_and_half_of_it_is_refused():
    features, labels = gaussians(100, 8)
    likeness = TrainingFeatures.of(features, labels)
    tensors = likeness.to_tensors()
    again = TrainingFeatures.from_tensors(tensors, 8)
    np.testing.assert_array_equal(again.distances(features), likeness.distances(features))
    wrong = [{name: value for name, value in tensors.items() if name != absent} for absent in NAMES]
    wrong += [tensors | {NAMES[0]: tensors[NAMES[0]][:0]}, tensors | {NAMES[2]: -tensors[NAMES[2]]}]
    wrong += [tensors | {name: value * np.float32(np.nan)} for name, value in tensors.items()]
    wrong += [tensors | {name: value.astype(np.float64)} for name, value in tensors.items()]
    for each in wrong:
        with pytest.raises(ConfigError, match="are not whole"):
            TrainingFeatures.from_tensors(each, 8)
    with pytest.raises(ConfigError, match="are not whole"):
        TrainingFeatures.from_tensors(tensors, 9)
