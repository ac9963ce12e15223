"""What an epoch waited for, on a clock that the test turns."""

from types import SimpleNamespace

import pytest

from resnetv2.training import speed
from resnetv2.training.speed import Speed, Stopwatch


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def run(clock, decode, compute, workers=2, batches=5, pictures=10):
    """Take batches that keep the caller waiting for ``decode`` seconds each and compute for ``compute`` seconds."""
    loader = SimpleNamespace(seconds=7.0, workers=workers)

    def deliver():
        for _ in range(batches):
            clock.now += decode
            loader.seconds += decode * workers
            yield SimpleNamespace(labels=[0] * pictures)

    stopwatch = Stopwatch(loader)
    for _ in stopwatch.watch(deliver()):
        clock.now += compute
    return stopwatch.speed()


@pytest.mark.parametrize(("decode", "compute", "limit"), [(0.5, 2.0, "model"), (2.0, 0.5, "loader")])
def test_the_slower_of_loader_and_model_is_the_limit(clock, decode, compute, limit):
    found = run(clock, decode, compute)
    assert found.limit == limit
    assert found.waited_s == pytest.approx(5 * decode)  # sums of floats, here and below
    assert found.computed_s == pytest.approx(5 * compute)
    assert found.images_per_s == pytest.approx(50 / (5 * decode + 5 * compute))
    assert found.loader_images_per_s == pytest.approx(50 / (5 * decode))
    assert found.model_images_per_s == pytest.approx(50 / (5 * compute))


def test_an_epoch_without_batches_has_rates_of_nought(clock):
    found = run(clock, 1, 1, batches=0)
    assert (found.images_per_s, found.loader_images_per_s, found.model_images_per_s) == (0, 0, 0)


def test_the_figures_in_json_name_the_limit():
    figures = Speed(1.0, 2.0, 3.0, 4.0, 5.0).to_dict()
    assert figures["limit"] == "loader"
    assert figures["waited_s"] == 4.0
    assert len(figures) == 7
