"""The network that a run begins with."""

import numpy as np
import pytest
from runs import SETTINGS, TINY, write_colours

import resnetv2
from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.preprocess import Preprocessing
from resnetv2.recipes import TrainConfig
from resnetv2.runtime.pytorch import build_model
from resnetv2.training.batchnorm import statistics_digest
from resnetv2.training.start import make_model, make_preprocessing, read_start
from resnetv2.weights.modelfile import read_model_file

CLASSES = ("blue", "green", "red")
FINETUNE = {"image_size": 32, "batch_size": 8, "epochs": 1, "device": "cpu", "recipe": "finetune"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(colours, out=out, set=TINY, **{**SETTINGS, "epochs": 1}).best


def values(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def network(path):
    file = read_model_file(path)
    return build_model(file.header.architecture, file.weights)


def test_without_weights_a_run_begins_at_random_by_its_seed():
    assert read_start(None) is None
    config = TrainConfig(arch="resnet18v2", model={"width_factor": 0.25}, seed=4)
    one, other = (values(make_model(config, "classification", CLASSES, None)) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_head_stays_where_the_classes_are_the_same_and_gives_way_where_not(trained, capsys):
    start = read_start(str(trained))
    config = TrainConfig(weights=str(trained), recipe="finetune")
    same = values(make_model(config, "classification", CLASSES, start))
    stored = read_model_file(trained).weights
    assert all(np.array_equal(same[name], stored[name]) for name in stored)
    assert capsys.readouterr().err == ""
    for task, classes in (("classification", ("a", "b")), ("multilabel", CLASSES), ("regression", ("target",))):
        other = values(make_model(config, task, classes, start))
        differ = {name for name in stored if not np.array_equal(other[name], stored[name])}
        assert differ <= {"head.fc.weight", "head.fc.bias"}
        assert other["head.fc.weight"].shape[0] == len(classes)
        assert "3 classes gives way to a new one" in capsys.readouterr().err


def test_pictures_are_read_the_weights_way_in_the_runs_size(trained):
    start = read_start(str(trained))
    config = TrainConfig(weights=str(trained), recipe="finetune", image_size=48)
    assert make_preprocessing(config, start) == Preprocessing(image_size=48, resize=48)
    assert make_preprocessing(TrainConfig(image_size=160, val_image_size=224, crop_pct=0.875), None).resize == 256


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.safetensors"):
        read_start(str(tmp_path / "none.safetensors"))


def test_a_run_from_weights_begins_with_them_and_says_where_it_came_from(trained, colours, tmp_path):
    run = resnetv2.train(
        colours, out=tmp_path / "run", weights=trained, lr=1e-12, set={"workers": 1, "weight_decay": 0.0}, **FINETUNE
    )
    before, after = read_model_file(trained), read_model_file(run.last)
    learnt = [name for name in before.weights if "running" not in name and "num_batches" not in name]
    assert all(np.allclose(before.weights[name], after.weights[name], atol=1e-8) for name in learnt)  # a rate of 1e-12
    assert after.header.provenance["weights"] == str(trained)
    assert after.header.provenance["weights_sha256"] == read_start(str(trained)).digest
    assert after.header.architecture == before.header.architecture


def test_frozen_statistics_stay_to_the_bit_and_trained_ones_do_not(trained, colours, tmp_path):
    digests = {}
    for bn in ("frozen", "train", "recalibrate"):
        run = resnetv2.train(colours, out=tmp_path / bn, weights=trained, set={"bn": bn, "workers": 1}, **FINETUNE)
        digests[bn] = statistics_digest(network(run.last))
        assert not np.array_equal(
            read_model_file(run.last).weights["stem.conv.weight"], read_model_file(trained).weights["stem.conv.weight"]
        ), "the weights were trained"
    assert digests["frozen"] == statistics_digest(network(trained))
    assert len(set(digests.values())) == 3


def test_weights_decay_toward_where_they_began_only_if_there_is_such_a_place(trained, colours, tmp_path):
    with pytest.raises(ConfigError, match="name them with --weights"):
        resnetv2.train(colours, out=tmp_path / "none", set={"l2_sp": 0.1}, **SETTINGS)
    apart = []
    for pull in (0.0, 5.0):
        settings = {"l2_sp": pull, "weight_decay": 0.0, "workers": 1, "ema_decay": 0.0}
        run = resnetv2.train(colours, out=tmp_path / f"{pull}", weights=trained, lr=0.05, set=settings, **FINETUNE)
        one, other = read_model_file(trained).weights, read_model_file(run.last).weights
        names = [name for name in one if name.endswith("conv.weight") or ".conv" in name]
        apart.append(sum(float(((one[n] - other[n]) ** 2).sum()) for n in names))
    assert apart[1] < apart[0]
