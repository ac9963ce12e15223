"""``evaluate``: every picture once, classes by name."""

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from pictures import noise, write_dataset, write_picture
from runs import SETTINGS, TINY, write_colours
from sklearn.metrics import accuracy_score, confusion_matrix

import resnetv2
from resnetv2.data.index import read_index
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
    report = resnetv2.evaluate(model, data, batch_size=batch_size, device="cpu")
    assert report.keys() == whole.keys()
    for name, figure in whole.items():
        # PyTorch takes other kernels for other batches: logits differ by about 1e-7, and so do means of probabilities
        smooth = name.startswith(("log_loss", "brier", "ece"))
        assert report[name] == (pytest.approx(figure, rel=1e-6) if smooth else figure), name


def test_classes_are_matched_by_name_when_the_data_lacks_some(model, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    shutil.rmtree(tmp_path / "data" / "test" / "blue")
    part = resnetv2.evaluate(model, tmp_path / "data", device="cpu")
    whole = resnetv2.evaluate(model, data, device="cpu")
    assert part["confusion"][1:] == whole["confusion"][1:]
    blue = part["per_class"][0]
    assert (blue["label"], blue["n"], blue["recall"]) == ("blue", 0, None)
    assert "'blue'" in part["undefined"]["per_class.recall"]


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


# --- the split of the run ---


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    """Pictures without a split, of which the first two of a colour are one."""
    root = write_dataset(tmp_path_factory.mktemp("data") / "unsplit", {"": {"a": 24, "b": 24}}, size=40)
    for name in "ab":
        for i in range(6):
            shutil.copy(root / name / f"{i}.png", root / name / f"{i}-copy.png")
    return root


@pytest.fixture(scope="module")
def run(unsplit, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(unsplit, out=out, set=TINY, **{**SETTINGS, "epochs": 1}).out


def split_sizes(run):
    with (run / "index.csv").open(newline="") as file:
        return Counter(row["split"] for row in csv.DictReader(file))


def test_the_split_is_that_of_the_run(run, unsplit, capsys):
    sizes = split_sizes(run)
    assert sizes != read_index(unsplit).counts(), "else this shows nothing"
    for split, size in sizes.items():
        report = resnetv2.evaluate(run / "best.safetensors", unsplit, split=split, device="cpu")
        assert (report["n"], report["skipped"]) == (size, [])
        assert f"splits as in the model's run: {run / 'index.csv'}" in capsys.readouterr().err
    log = json.loads((run / "metrics.jsonl").read_text())
    assert resnetv2.evaluate(run / "best.safetensors", unsplit, split="val", device="cpu")["top1"] == log["val_top1"]
    listed = resnetv2.evaluate(run / "best.safetensors", run / "index.csv", split="val", device="cpu")
    assert listed["n"] == sizes["val"]


def test_the_data_may_have_moved(run, unsplit, tmp_path):
    moved = shutil.copytree(unsplit, tmp_path / "elsewhere")
    assert resnetv2.evaluate(run / "best.safetensors", moved, device="cpu")["n"] == split_sizes(run)["test"]


def test_pictures_that_came_later_are_left_out_and_told(run, unsplit, tmp_path):
    data = shutil.copytree(unsplit, tmp_path / "data")
    for i in range(5):
        write_picture(data / "a" / f"new-{i}.png")
    report = resnetv2.evaluate(run / "best.safetensors", data, split="all", device="cpu")
    assert report["n"] == 60
    assert report["skipped"] == [{"path": f"a/new-{i}.png", "reason": f"not in {run / 'index.csv'}"} for i in range(5)]


def test_pictures_of_the_run_that_are_gone_are_an_error_that_names_them(run, unsplit, tmp_path):
    data = shutil.copytree(unsplit, tmp_path / "data")
    (data / "b" / "7.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 60 pictures") as caught:
        resnetv2.evaluate(run / "best.safetensors", data, device="cpu")
    assert str(caught.value).splitlines()[1:] == ["  b/7.png"]


def test_a_model_without_its_list_is_warned_of_pictures_it_was_trained_on(run, unsplit, tmp_path, capsys):
    model = shutil.copy(run / "best.safetensors", tmp_path / "best.safetensors")
    resnetv2.evaluate(model, unsplit, split="test", device="cpu")
    assert "warning: the test split was assigned now and is not that of the model's run" in capsys.readouterr().err
    for split in ("train", "all"):
        resnetv2.evaluate(model, unsplit, split=split, device="cpu")
    assert "warning" not in capsys.readouterr().err


def test_a_list_of_another_run_beside_a_model_is_not_taken(run, unsplit, tmp_path, capsys):
    model = shutil.copy(run / "best.safetensors", tmp_path / "best.safetensors")
    lines = (run / "index.csv").read_text().splitlines()
    (tmp_path / "index.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    resnetv2.evaluate(model, unsplit, device="cpu")
    said = capsys.readouterr().err
    assert "splits as in" not in said
    assert "warning" in said


def test_other_pictures_of_the_same_names_are_other_data(run, unsplit, tmp_path, capsys):
    data = shutil.copytree(unsplit, tmp_path / "data")
    for path in data.rglob("*.png"):
        write_picture(path, noise(20, 20, len(str(path)) + int(path.name.split(".")[0].split("-")[0])))
    resnetv2.evaluate(run / "best.safetensors", data, split="train", device="cpu")
    assert "splits as in" not in capsys.readouterr().err


def test_a_split_that_the_data_says_is_taken_from_there(model, data, capsys):
    assert (model.parent / "index.csv").is_file()
    resnetv2.evaluate(model, data, device="cpu")
    assert "split" not in capsys.readouterr().err
