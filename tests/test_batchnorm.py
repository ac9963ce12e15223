"""Batch norm's statistics: exact ones, still ones, and their checksum."""

import copy

import pytest
import torch
from torch import nn

from resnetv2.config import architecture
from resnetv2.errors import DataError
from resnetv2.model import ResNetV2
from resnetv2.training.average import MovingAverage
from resnetv2.training.batchnorm import batch_norms, freeze, recalibrate, statistics_digest


def make_model(**options):
    torch.manual_seed(0)
    config = architecture("resnet18v2", "torch", num_classes=3, width_factor=0.25)
    return ResNetV2(config, **options)


def pictures(n=20, seed=0):
    return 2 * torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) + 0.5


def statistics(model):
    return {name: b.clone() for name, b in model.named_buffers() if "running" in name}


def close(ours, theirs):
    """Float32 sums of thousands of numbers in two orders."""
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=2e-5, atol=2e-6)


def test_one_batch_gives_the_statistics_that_training_without_memory_takes_from_it():
    model = make_model()
    expected = copy.deepcopy(model)
    for norm in batch_norms(expected):
        norm.momentum = 1.0
    expected.train()(pictures())
    assert recalibrate(model, [pictures()], 20) == 20
    close(statistics(model), statistics(expected))


def test_batches_of_unequal_size_give_the_statistics_of_all_their_pictures():
    """Of the first norm's inputs, that is; deeper ones depend on how the pictures were divided."""
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    x = pictures(21)
    assert recalibrate(conv, x.split([2, 9, 1, 5, 3, 1]), 100) == 21
    y = conv[0](x)
    close(statistics(conv), {"1.running_mean": y.mean((0, 2, 3)), "1.running_var": y.var((0, 2, 3))})


def test_only_the_first_n_pictures_count_and_no_batch_more_is_asked_for():
    asked = []

    def batches():
        for seed in range(9):
            asked.append(seed)
            yield pictures(8, seed)

    one, other = make_model(), make_model()
    assert recalibrate(one, batches(), 20) == 20
    assert asked == [0, 1, 2]
    recalibrate(other, [pictures(8, 0), pictures(8, 1), pictures(8, 2)[:4]], 20)
    assert statistics_digest(one) == statistics_digest(other)


def test_pictures_that_come_alone_are_taken_in_pairs_or_with_a_neighbour():
    """At 32 pixels the last maps are single cells, of which one picture has no variance."""
    for sizes in ([1, 1, 1, 1, 1], [4, 1], [1, 4], [2, 1, 2]):
        model = make_model()
        assert recalibrate(model, pictures(5).split(sizes), 5) == 5
        assert all(torch.isfinite(value).all() for value in statistics(model).values())


def test_fewer_than_two_pictures_are_refused_and_change_nothing():
    model = make_model()
    before = statistics_digest(model)
    for batches in ([], [pictures(1)]):
        with pytest.raises(DataError, match="at least two pictures"):
            recalibrate(model, batches, 9)
    assert statistics_digest(model) == before


def test_it_is_deterministic_and_leaves_modes_weights_and_what_is_random_alone():
    model = make_model(drop_rate=0.5, drop_path_rate=0.5).train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: p.clone() for name, p in model.named_parameters()}
    generator = torch.get_rng_state()
    recalibrate(model, pictures().split(5), 20)
    once = statistics_digest(model)
    recalibrate(model, pictures().split(5), 20)
    assert statistics_digest(model) == once
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), generator), "dropout and stochastic depth are off"
    assert not any(module._forward_pre_hooks for module in model.modules())
    plain = make_model()
    recalibrate(plain, pictures().split(5), 20)
    assert statistics_digest(plain) == once


def test_a_batch_that_fails_changes_nothing():
    model = make_model().train()
    before = statistics_digest(model)
    with pytest.raises(RuntimeError):
        recalibrate(model, [pictures(4), torch.zeros(4, 5, 32, 32)], 8)
    assert statistics_digest(model) == before
    assert all(module.training for module in model.modules())
    model(pictures(4))
    assert statistics_digest(model) != before, "training takes statistics as ever"


def test_it_mends_an_average_whose_statistics_are_of_old_weights():
    model = make_model()
    x = pictures(64)
    with torch.no_grad():
        for norm in batch_norms(model):
            norm.running_mean.add_(1)
            norm.running_var.mul_(9)
    with torch.no_grad():
        before = model.eval().forward_features(x).mean()
        recalibrate(model, x.split(32), 64)
        after = model.forward_features(x).mean()
    assert before < 0.2
    assert 0.3 < after < 0.5, "the mean of relu of a standard normal is 0.399"


def test_a_network_without_batch_norm_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    assert recalibrate(model, [pictures()], 20) == 0


def train_some(model, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(steps):
        model.train()
        optimizer.zero_grad()
        model(pictures(8, seed)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("memory", ["saved", "recompute"])
def test_frozen_statistics_are_the_same_bits_after_training_while_weights_move(memory):
    model = make_model(memory=memory)
    recalibrate(model, [pictures()], 20)
    before, weights = statistics_digest(model), copy.deepcopy(list(model.parameters()))
    freeze(model)
    train_some(model)
    assert statistics_digest(model) == before
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True)]
    assert all(moved), "also the norms' own weights and biases"
    assert model.training
    assert not any(norm.training for norm in batch_norms(model))


def test_frozen_training_sees_what_evaluation_sees():
    model = make_model()
    recalibrate(model, [pictures()], 20)
    expected = copy.deepcopy(model).eval()(pictures(4, 1))
    freeze(model)
    assert torch.equal(model.train()(pictures(4, 1)), expected)


def test_without_freezing_training_changes_the_digest():
    model = make_model()
    before = statistics_digest(model)
    train_some(model, 1)
    assert statistics_digest(model) != before


def test_frozen_networks_keep_names_copies_and_classes_and_freeze_twice_as_once():
    model = make_model()
    names = list(model.state_dict())
    freeze(model)
    freeze(model)
    assert list(model.state_dict()) == names
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in batch_norms(model))
    average = MovingAverage(model, 0.9)
    before = statistics_digest(average.average)
    train_some(model)
    average.update(3)
    assert statistics_digest(average.average) == before
    twin = copy.deepcopy(model).train()
    assert not any(norm.training for norm in batch_norms(twin))


def test_frozen_statistics_can_still_be_recalibrated():
    model, plain = make_model(), make_model()
    freeze(model)
    for each in (model, plain):
        recalibrate(each, [pictures()], 20)
    assert statistics_digest(model) == statistics_digest(plain)
    assert not any(norm.training for norm in batch_norms(model))


def test_the_digest_sees_one_bit_and_where_it_is():
    model = make_model()
    before = statistics_digest(model)
    assert statistics_digest(copy.deepcopy(model)) == before
    norms = batch_norms(model)
    norms[3].running_mean[2] = torch.nextafter(norms[3].running_mean[2], torch.tensor(1.0))
    assert statistics_digest(model) != before
