"""Learning rates and picture sizes over a run, against their sources' formulas."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from resnetv2.errors import ConfigError
from resnetv2.training.schedules import SCHEDULES, image_size_at, rate_at


def test_the_cosine_falls_to_zero_after_a_linear_warm_up_as_pytorchs_schedulers_do():
    total, warmup = 7 * 13, 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    rise = LinearLR(optimizer, 1 / (warmup + 1), 1, warmup)
    schedule = SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, total - warmup)], [warmup])
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [rate_at("cosine", 0.3, step, total, warmup) for step in range(total)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)  # PyTorch's go from each step to the next and add up errors


def test_linear_falls_to_zero_after_the_last_step_as_interpolation_between_its_corners_does():
    total, warmup = 90, 10
    steps = np.arange(warmup, total)
    expected = np.interp(steps, [warmup, total], [1.7, 0.0])
    ours = [rate_at("linear", 1.7, int(step), total, warmup) for step in steps]
    np.testing.assert_allclose(ours, expected, rtol=1e-13)  # two orders of the same few operations


def test_step_divides_by_ten_at_30_60_and_90_percent_as_bit_does():
    rates = [rate_at("step", 0.003, step, 500, 100) for step in (100, 149, 150, 299, 300, 449, 450, 499)]
    np.testing.assert_allclose(rates, [3e-3, 3e-3, 3e-4, 3e-4, 3e-5, 3e-5, 3e-6, 3e-6], rtol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_in_a_straight_line_and_never_exceeds_its_peak(schedule):
    rates = [rate_at(schedule, 0.5, step, 40, 8) for step in range(40)]
    np.testing.assert_allclose(np.diff(rates[:8]), 0.5 / 9, rtol=1e-12)  # differences of rounded numbers
    assert rates[8] == max(rates) == 0.5
    assert min(rates) > 0
    assert all(later <= earlier for earlier, later in pairwise(rates[8:]))


def test_constant_without_warm_up_is_constant():
    assert {rate_at("constant", 0.1, step, 9) for step in range(9)} == {0.1}


def test_an_unknown_schedule_and_a_warm_up_without_end_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        rate_at("cosin", 0.1, 0, 10)
    with pytest.raises(ConfigError, match="10 of 10 steps"):
        rate_at("cosine", 0.1, 0, 10, 10)


def ffcv(epoch, low, high, start, end):
    """FFCV's rule for its ImageNet recipes, in its words."""
    if epoch <= start:
        return low
    if epoch >= end:
        return high
    return int(np.round(np.interp(epoch, [start, end], [low, high]) / 32)) * 32


@pytest.mark.parametrize(("epochs", "start", "end"), [(16, 11, 13), (32, 23, 27), (88, 65, 76)])
def test_sizes_rise_as_in_ffcv(epochs, start, end):
    ours = [image_size_at(e / epochs, 160, 192, (start / epochs, end / epochs), 32) for e in range(epochs)]
    assert ours == [ffcv(e, 160, 192, start, end) for e in range(epochs)]
    assert set(ours) == {160, 192}


def composer(share, width, initial_scale, delay, finetune, increment):
    """Composer's progressive resizing, in its words."""
    done = min((share - delay) / (1 - finetune - delay), 1) if share >= delay else 0.0
    return round(width * (initial_scale + (1 - initial_scale) * done) / increment) * increment


def test_sizes_rise_as_in_composer():
    shares = [e / 90 for e in range(90)]
    ours = [image_size_at(share, 88, 176, (0.4, 0.8), 4) for share in shares]
    assert ours == [composer(share, 176, 0.5, 0.4, 0.2, 4) for share in shares]
    assert {size % 4 for size in ours} == {0}
    assert ours == sorted(ours)
    assert len(set(ours)) > 10


def test_a_size_never_leaves_its_ends_even_where_they_are_no_multiples():
    sizes = {image_size_at(share / 100, 50, 70, (0.1, 0.9), 32) for share in range(100)}
    assert sizes == {50, 64, 70}


@pytest.mark.parametrize(
    ("first", "last", "ramp", "multiple"),
    [(192, 160, (0.1, 0.9), 32), (0, 160, (0.1, 0.9), 32), (128, 160, (0.9, 0.1), 32), (128, 160, (0, 1.5), 32)],
)
def test_sizes_that_cannot_be_are_refused(first, last, ramp, multiple):
    with pytest.raises(ConfigError, match="progressive sizes must rise"):
        image_size_at(0.5, first, last, ramp, multiple)


def test_a_ramp_of_no_length_is_a_step():
    assert [image_size_at(s, 160, 192, (0.5, 0.5), 32) for s in (0.49, 0.5)] == [160, 192]
    assert math.isclose(rate_at("step", 1.0, 0, 1), 1.0)
