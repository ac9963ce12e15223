"""The learning-rate range test: what it suggests, and when it says nothing."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from resnetv2.errors import ConfigError
from resnetv2.training.ranges import read_range, scan_rates, smooth, write_range_plot

RATES = np.geomspace(1e-5, 10, 100)


def valley(seed=0, noise=0.12):
    """A loss that falls around a rate of 0.03, is flat to about 1, and runs away above."""
    rng = np.random.default_rng(seed)

    def step(rate):
        x = math.log10(rate)
        return 2.3 - 1.3 / (1 + math.exp(-2.2 * (x + 1.5))) + 6 * max(0, x - 0.2) ** 2 + rng.normal(0, noise)

    return step


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss():
    rates = np.geomspace(1e-4, 10, 60)
    test = read_range(rates, (np.log10(rates) + 0.5) ** 2)
    assert test.suggested == pytest.approx(10**-0.5 / 10, rel=0.1)  # the grid's rates are 22 % apart
    assert f"{test.suggested:.1e}" == f"{float(f'{test.suggested:.1e}'):.1e}", "two digits"
    assert "lowest" in test.reason


def test_noise_moves_the_suggestion_little():
    suggested = [scan_rates(valley(seed)).suggested for seed in range(20)]
    assert None not in suggested
    assert max(suggested) / min(suggested) < 2.5
    assert 0.02 < np.median(suggested) < 0.2


def test_a_flat_curve_says_nothing_however_noisy():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        test = read_range(RATES, 2.3 + 0.1 * rng.standard_normal(100))
        assert test.suggested is None
        assert "no clear fall" in test.reason
    assert read_range(RATES, np.full(100, 2.3)).suggested is None
    assert read_range(RATES, np.zeros(100)).suggested is None


def test_a_flat_curve_that_runs_away_says_nothing():
    losses = 2.3 + 0.05 * np.random.default_rng(0).standard_normal(100) + np.where(RATES > 1, RATES, 0)
    assert read_range(RATES, losses).suggested is None


def test_a_curve_that_only_rises_or_still_falls_says_nothing():
    assert read_range(RATES, 2 + np.log10(RATES / RATES[0])).suggested is None
    falling = read_range(RATES, 2 - 0.2 * np.log10(RATES))
    assert falling.suggested is None
    assert "still falls at the highest rate, 10: raise it" in falling.reason


def test_the_scan_ends_where_the_loss_runs_away_or_is_no_number():
    seen = []

    def step(rate):
        seen.append(rate)
        return 2 - 10 * rate if rate < 0.1 else 1e3 * rate

    test = scan_rates(step)
    assert len(seen) == len(test.rates) < 75
    assert seen == RATES[: len(seen)].tolist()
    assert test.suggested is not None

    def broken(rate):
        return math.nan if rate > 1e-3 else 2.0

    test = scan_rates(broken)
    assert np.isfinite(test.losses).all()
    assert test.rates.max() <= 1e-3


def test_a_loss_that_is_no_number_at_once_says_so():
    test = scan_rates(lambda _: math.inf)
    assert len(test.rates) == 0
    assert test.suggested is None
    assert "begin with a lower rate" in test.reason


@pytest.mark.parametrize("options", [{"low": 0}, {"low": 1, "high": 0.1}, {"steps": 9}, {"high": math.inf}])
def test_a_range_that_is_none_is_refused(options):
    with pytest.raises(ConfigError, match="rates that rise"):
        scan_rates(lambda _: 1.0, **options)


def test_smoothing_keeps_lines_inside_constants_everywhere_and_the_length():
    line = np.linspace(5, 1, 50)
    np.testing.assert_allclose(smooth(line)[5:-5], line[5:-5], rtol=1e-12)  # symmetric weights
    for n in (1, 2, 3, 10, 101):
        np.testing.assert_allclose(smooth(np.full(n, 3.0)), 3.0, rtol=1e-12)
    assert smooth(np.zeros(0)).shape == (0,)


def test_a_real_network_learns_at_the_suggested_rate_and_not_at_the_highest():
    generator = torch.Generator().manual_seed(0)
    x, teacher = torch.randn(512, 16, generator=generator), torch.randn(16, 4, generator=generator)
    y = (x @ teacher).argmax(1)

    def make():
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))

    def stepper(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)

        def step(rate):
            optimizer.param_groups[0]["lr"] = rate
            places = torch.randint(512, (32,), generator=generator)
            loss = F.cross_entropy(model(x[places]), y[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    test = scan_rates(stepper(make()), high=100)
    losses = []
    for rate in (test.suggested, test.rates[-1]):
        step = stepper(make())
        losses.append(np.mean([step(rate) for _ in range(100)][-20:]))
    assert losses[0] < 0.5, "chance is log 4 = 1.39"
    assert not losses[1] < 1.39


def test_the_values_are_plain_for_json():
    written = json.loads(json.dumps(scan_rates(valley()).to_dict()))
    assert written["suggested"] == scan_rates(valley()).suggested
    assert len(written["rates"]) == len(written["losses"]) == len(written["smoothed"])


@pytest.mark.parametrize("step", [valley(), lambda _: 2.0, lambda _: math.nan], ids=["valley", "flat", "broken"])
def test_it_is_drawn_as_png_and_svg_with_equal_bytes_each_time(tmp_path, step):
    test = scan_rates(step)
    png, svg = write_range_plot(tmp_path / "range.png", test), write_range_plot(tmp_path / "range.svg", test)
    assert Image.open(png).width > 1000
    text = svg.read_text()
    assert test.reason in text
    again = write_range_plot(tmp_path / "again.svg", test)
    assert again.read_bytes() == svg.read_bytes()
