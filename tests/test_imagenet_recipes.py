"""Recipes for ImageNet, each in a form so small that it runs here."""

import json

import pytest
from runs import write_colours

import resnetv2
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.weights.modelfile import read_model_file

SMALL = {"epochs": 4, "batch_size": 8, "image_size": 64, "device": "cpu", "arch": "resnet18v2"}
SHRUNK = {"model": {"width_factor": 0.25}, "workers": 1, "val_image_size": 64, "warmup_epochs": 1, "lr": 0.01}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.mark.parametrize("name", IMAGENET_RECIPES)
def test_its_tiny_form_runs_with_all_its_settings_in_force(name, colours, tmp_path):
    grows = "start_image_size" in IMAGENET_RECIPES[name].settings
    settings = {**SHRUNK, **({"start_image_size": 32} if grows else {})}
    run = resnetv2.train(colours, out=tmp_path / "run", recipe=name, set=settings, **SMALL)
    config = json.loads((run.out / "config.json").read_text())
    shrunk = {*SMALL, *settings}
    for key, value in IMAGENET_RECIPES[name].settings.items():
        if key not in shrunk:
            assert config[key] == (list(value) if isinstance(value, tuple) else value), key
    assert run.epochs == 4
    file = read_model_file(run.last)
    assert file.header.provenance["recipe"]["recipe"] == name
    assert file.header.preprocessing.image_size == 64
    log = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert len({line["val_loss"] for line in log}) == 4, "every epoch changed the network"
    assert run.val_score == max(line["val_top1"] for line in log)
