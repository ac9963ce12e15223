"""``evaluate``: every picture once, classes by name."""

import shutil

import numpy as np
import pytest
from runs import SETTINGS, TINY, write_colours
from sklearn.metrics import accuracy_score, confusion_matrix

import resnetv2
from resnetv2.errors import DataError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", test=5)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(data, out=out, set=TINY, **{**SETTINGS, "epochs": 1}).best


def test_the_figures_are_those_of_scikit_learn_on_the_predictions(model, data):
    report = resnetv2.evaluate(model, data, device="cpu")
    answers = resnetv2.predict(model, [data / "test"], device="cpu")
    truth = [answer.path.split("/")[-2] for answer in answers]
    said = [answer.label for answer in answers]
    assert report["n"] == 15
    assert report["top1"] == accuracy_score(truth, said)
    assert report["confusion"] == confusion_matrix(truth, said, labels=["blue", "green", "red"]).tolist()
    assert report["top5"] is None, "three classes"
    low, high = report["top1_ci95"]
    assert low < report["top1"] < high or report["top1"] in (0, 1)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_the_batch_size_does_not_change_the_figures(model, data, batch_size):
    whole = resnetv2.evaluate(model, data, device="cpu")
    assert resnetv2.evaluate(model, data, batch_size=batch_size, device="cpu") == whole


def test_classes_are_matched_by_name_when_the_data_lacks_some(model, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    shutil.rmtree(tmp_path / "data" / "test" / "blue")
    part = resnetv2.evaluate(model, tmp_path / "data", device="cpu")
    whole = resnetv2.evaluate(model, data, device="cpu")
    assert part["confusion"][1:] == whole["confusion"][1:]
    assert part["per_class"][0] == {"label": "blue", "n": 0, "recall": None}


def test_classes_that_the_model_does_not_know_are_an_error_that_lists_both_sets(model, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    (tmp_path / "data" / "test" / "red").rename(tmp_path / "data" / "test" / "rouge")
    with pytest.raises(DataError) as error:
        resnetv2.evaluate(model, tmp_path / "data", device="cpu")
    assert "does not know: 'rouge'" in str(error.value)
    assert "'blue', 'green', 'red'" in str(error.value)
    assert "'blue', 'green', 'rouge'" in str(error.value)


def test_a_missing_split_names_those_that_exist(model, data, tmp_path):
    shutil.copytree(data / "val", tmp_path / "data" / "val")
    with pytest.raises(DataError, match="has no 'test' split; it has 'val'"):
        resnetv2.evaluate(model, tmp_path / "data", device="cpu")


def test_an_unreadable_picture_is_named(model, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    (tmp_path / "data" / "test" / "red" / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"cannot read .*bad\.png"):
        resnetv2.evaluate(model, tmp_path / "data", device="cpu")


def test_progress_is_told(model, data):
    calls = []
    resnetv2.evaluate(model, data, batch_size=6, device="cpu", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 15), (10, 15), (15, 15)]


def test_the_per_class_counts_add_up(model, data):
    report = resnetv2.evaluate(model, data, split="train", device="cpu")
    assert sum(entry["n"] for entry in report["per_class"]) == report["n"] == 30
    assert np.array(report["confusion"]).sum() == 30
