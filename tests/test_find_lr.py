"""The learning-rate range test on pictures."""

import json

import pytest
from PIL import Image
from runs import SETTINGS, TINY, command, write_colours

import resnetv2
from resnetv2.errors import ConfigError

SMALL = {**TINY, **{key: value for key, value in SETTINGS.items() if key != "epochs"}}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


def files_under(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_it_suggests_a_rate_within_its_range_draws_it_and_writes_nothing_else(colours, tmp_path):
    before, told = files_under(colours), []
    plot = tmp_path / "rates.png"
    test = resnetv2.find_lr(
        colours,
        set=SMALL,
        low=1e-4,
        high=1.0,
        steps=30,
        plot=plot,
        progress=lambda done, total: told.append((done, total)),
    )
    assert test.suggested is not None, test.reason
    assert 1e-4 <= test.suggested <= 1.0
    assert told == [(i, 30) for i in range(1, len(test.losses) + 1)]
    assert Image.open(plot).size > (400, 200)
    assert files_under(colours) == before
    assert files_under(tmp_path) == [str(plot)]


def test_equal_settings_give_equal_curves_and_a_suggested_rate_trains(colours, tmp_path):
    one, other = (resnetv2.find_lr(colours, set=SMALL, low=1e-4, high=1.0, steps=25) for _ in range(2))
    assert one.to_dict() == other.to_dict()
    run = resnetv2.train(colours, out=tmp_path / "run", lr=one.suggested, set={**SMALL, "epochs": 1})
    assert json.loads((run.out / "config.json").read_text())["lr"] == one.suggested


def test_weights_are_what_it_begins_with(colours, tmp_path):
    trained = resnetv2.train(colours, out=tmp_path / "run", set={**SMALL, "epochs": 4, "lr": 0.02}).best
    settings = {key: value for key, value in SMALL.items() if key not in ("arch", "model")}
    fresh = resnetv2.find_lr(colours, set=SMALL, steps=10)
    warm = resnetv2.find_lr(colours, weights=trained, set=settings, steps=10)
    assert warm.losses[0] < fresh.losses[0]


def test_recipes_that_train_no_whole_network_and_plots_among_the_pictures_are_refused(colours):
    for recipe in ("probe", "lp-ft"):
        with pytest.raises(ConfigError, match=f"'{recipe}' trains no whole network"):
            resnetv2.find_lr(colours, weights="none.safetensors", set={**SMALL, "recipe": recipe})
    with pytest.raises(ConfigError, match="'probe' trains no whole network"):
        resnetv2.find_lr(colours, set={"recipe": "probe", "weights": "x"})
    with pytest.raises(ConfigError, match="only read"):
        resnetv2.find_lr(colours, plot=colours / "x.png")


def test_the_command_prints_what_to_type(colours):
    words = ("--steps=25", "--low=1e-4", "--high=1", "--set=image_size=32", "--set=arch=resnet18v2", "--set=device=cpu")
    words = (*words, "--set=model.width_factor=0.25", "--set=batch_size=8")
    done = command("find-lr", colours, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--lr ")
    done = command("find-lr", colours, *words, "--json")
    assert json.loads(done.stdout)["suggested"] > 0
