"""Losses, against timm's and PyTorch's own."""

import itertools

import numpy as np
import pytest
import torch
from peers import import_timm
from torch.nn import functional as F

from resnetv2.data.sampling import balanced_weights
from resnetv2.errors import ConfigError
from resnetv2.training.losses import KINDS, effective_weights, make_loss, one_or_more_hot
from resnetv2.training.mix import Mix

import_timm()
from timm.loss import BinaryCrossEntropy  # noqa: E402  once torchvision's operators are declared


def outputs_and_labels(n=16, classes=5):
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(n, classes, generator=generator)
    return outputs, torch.randint(classes, (n,), generator=generator)


def mixed(n=16, classes=5):
    _, labels = outputs_and_labels(n, classes)
    return Mix(0.8, 0, classes)(torch.zeros(n, 3, 8, 8), labels, np.random.default_rng(1))[1]


@pytest.mark.parametrize(
    ("weighted", "smoothing", "soft"), list(itertools.product((False, True), (0.0, 0.1), (False, True)))
)
def test_cross_entropy_is_pytorchs_to_the_bit(weighted, smoothing, soft):
    outputs, labels = outputs_and_labels()
    targets = mixed() if soft else labels
    weights = torch.tensor([1.0, 2, 3, 4, 5]) if weighted else None
    loss = make_loss("classification", "cross_entropy", weights, smoothing, 5)
    assert torch.equal(loss(outputs, targets), F.cross_entropy(outputs, targets, weights, label_smoothing=smoothing))


@pytest.mark.parametrize(
    ("smoothing", "weighted", "sum_classes"), list(itertools.product((0.0, 0.1), (False, True), (False, True)))
)
def test_bce_of_classes_is_timms(smoothing, weighted, sum_classes):
    outputs, labels = outputs_and_labels()
    weights = torch.tensor([1.0, 2, 3, 4, 5]) if weighted else None
    ours = make_loss("classification", "bce", weights, smoothing, 5, sum_classes=sum_classes)(outputs, labels)
    timms = BinaryCrossEntropy(smoothing, weight=weights, sum_classes=sum_classes)(outputs, labels)
    torch.testing.assert_close(ours, timms, rtol=1e-6, atol=0)  # float32 sums in two orders


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_bce_of_mixed_pictures_is_timms_with_its_threshold(share):
    outputs, _ = outputs_and_labels()
    ours = make_loss("classification", "bce", num_classes=5, share=share)(outputs, mixed())
    assert torch.equal(ours, BinaryCrossEntropy(0.0, target_threshold=share)(outputs, mixed()))


def test_a_mixed_picture_has_both_its_classes_whole_and_smoothing_lowers_them_alike():
    targets = torch.tensor([[0.9, 0.1, 0, 0], [0, 0, 1, 0]])
    hot = one_or_more_hot(targets, 4, 0.1, 0.0)
    torch.testing.assert_close(hot, torch.tensor([[0.925, 0.925, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]]))
    assert torch.equal(one_or_more_hot(torch.tensor([0, 2]), 4, 0.1, 0.0)[1], hot[1])
    assert one_or_more_hot(targets, 4, 0.0, 0.2).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize(("smoothing", "weighted"), list(itertools.product((0.0, 0.1), (False, True))))
def test_multilabel_bce_is_timms(smoothing, weighted):
    outputs, _ = outputs_and_labels()
    targets = (torch.rand(16, 5, generator=torch.Generator().manual_seed(1)) < 0.3).long()
    weights = torch.tensor([1.0, 2, 3, 4, 5]) if weighted else None
    ours = make_loss("multilabel", "bce", weights, smoothing, 5)(outputs, targets)
    timms = BinaryCrossEntropy(smoothing, pos_weight=weights, smooth_dense=True)(outputs, targets.float())
    torch.testing.assert_close(ours, timms, rtol=1e-6, atol=0)  # float32 sums in two orders


def test_pos_weight_counts_a_present_class_as_often_as_it_says():
    outputs, _ = outputs_and_labels(4, 1)
    targets = torch.tensor([[1.0], [0], [0], [0]])
    weighted = make_loss("multilabel", "bce", torch.tensor([3.0]), 0.0, 1)(outputs, targets) * 4
    thrice = make_loss("multilabel", "bce", num_classes=1)(
        torch.cat([outputs[:1].expand(3, 1), outputs[1:]]), torch.tensor([[1.0]] * 3 + [[0.0]] * 3)
    )
    torch.testing.assert_close(weighted, thrice * 6)


@pytest.mark.parametrize(("kind", "reference"), [("mse", F.mse_loss), ("smooth_l1", F.smooth_l1_loss)])
def test_regression_takes_a_column_or_a_list_of_numbers_and_refuses_other_shapes(kind, reference):
    outputs, _ = outputs_and_labels(8, 1)
    targets = torch.randn(8, 1, generator=torch.Generator().manual_seed(1))
    loss = make_loss("regression", kind)
    assert torch.equal(loss(outputs, targets), reference(outputs, targets))
    assert torch.equal(loss(outputs, targets[:, 0]), loss(outputs, targets)), "no silent (8, 8) of differences"
    with pytest.raises(RuntimeError, match="invalid for input"):
        loss(outputs.expand(8, 2), targets)


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task, kinds in KINDS.items() for kind in kinds])
def test_half_precision_outputs_give_a_float32_loss_with_gradients(task, kind):
    outputs = torch.zeros(4, 3, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 0]) if task == "classification" else torch.ones(4, 3)
    loss = make_loss(task, kind, num_classes=3)(outputs, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad.any()


def test_effective_numbers_go_from_equal_weights_to_inverse_frequency():
    counts = [5000, 500, 50, 5]
    assert effective_weights(counts, 0.0).tolist() == [1, 1, 1, 1]
    inverse = torch.tensor(1 / np.array(counts))
    torch.testing.assert_close(
        effective_weights(counts, 1 - 1e-12).double(),
        inverse / inverse.mean(),
        rtol=1e-6,  # float32; β is not quite 1
        atol=0,
    )
    labels = np.repeat(np.arange(4), counts)
    ratio = effective_weights(counts, 1 - 1e-12).double() / torch.from_numpy(balanced_weights(labels, 4))
    torch.testing.assert_close(ratio, ratio[:1].expand(4), rtol=1e-6, atol=0)  # likewise: balanced, up to a factor


def test_effective_numbers_are_the_papers_formula():
    counts, beta = [6000, 100, 3], 0.999
    weights = torch.tensor([(1 - beta) / (1 - beta**n) for n in counts], dtype=torch.float64)
    torch.testing.assert_close(effective_weights(counts, beta), (weights / weights.sum() * 3).float())


def test_a_class_without_pictures_and_an_impossible_beta_are_refused():
    with pytest.raises(ConfigError, match=r"none in classes \[1\]"):
        effective_weights([3, 0], 0.9)
    with pytest.raises(ConfigError, match=r"got 1\.0"):
        effective_weights([3, 1], 1.0)


def test_what_does_not_go_together_is_refused_all_at_once():
    with pytest.raises(ConfigError, match="classification: cross_entropy, bce"):
        make_loss("regression", "bce")
    with pytest.raises(ConfigError, match="no 'bce' loss for 'detection'"):
        make_loss("detection", "bce")
    with pytest.raises(ConfigError) as error:
        make_loss("regression", "mse", torch.ones(2), 1.5)
    assert "label_smoothing" in str(error.value)
    assert "no classes to weight" in str(error.value)
    assert "(0,)" in str(error.value)
