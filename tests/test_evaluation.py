"""``evaluate``: every picture once, classes by name."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pictures import noise, write_dataset, write_picture
from runs import SETTINGS, TINY, write_colours
from sklearn.metrics import accuracy_score, confusion_matrix

import resnetv2
from resnetv2.data.index import read_index
from resnetv2.errors import ConfigError, DataError
from resnetv2.evaluation.answers import _MEANS, ask, five_crops
from resnetv2.inference import sigmoid, softmax


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
    exact = ("n", "top1", "top1_ci95", "top5", "balanced_accuracy", "macro", "weighted", "confusion", "undefined")
    assert [report[name] for name in exact] == [whole[name] for name in exact]
    # PyTorch takes other kernels for other batches: logits differ by about 1e-7, and so do means of probabilities
    figures, others = (list(numbers(value)) for value in (whole, report))
    assert others == pytest.approx(figures, rel=1e-6)


def numbers(value):
    """Yield every number in a report."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)


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


def test_a_class_that_is_spelt_a_little_differently_is_told_its_nearest_name(model, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    (tmp_path / "data" / "test" / "green").rename(tmp_path / "data" / "test" / "Green")
    with pytest.raises(DataError, match="'Green' may be 'green'"):
        resnetv2.evaluate(model, tmp_path / "data", device="cpu")


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


def test_a_page_is_written_outside_of_the_data_only(model, data, tmp_path):
    resnetv2.evaluate(model, data, device="cpu", html=tmp_path / "page.html")
    assert "top-1" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="which is only read"):
        resnetv2.evaluate(model, data, device="cpu", html=data / "page.html")
    assert not (data / "page.html").exists()


def test_a_page_does_not_replace_what_is_no_page(model, data):
    before = model.read_bytes()
    for write in (
        lambda: resnetv2.evaluate(model, data, device="cpu", html=model),
        lambda: resnetv2.check(data, model=model, html=model),
        lambda: resnetv2.search(model, data, html=model),
    ):
        with pytest.raises(ConfigError, match=r"a page ends in \.html, got .*best\.safetensors"):
            write()
    assert model.read_bytes() == before


def test_pictures_that_cannot_be_read_are_left_out_where_asked_and_counted(model, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    bad = tmp_path / "data" / "test" / "red" / "bad.png"
    bad.write_bytes(b"\x89PNG")
    report = resnetv2.evaluate(model, tmp_path / "data", on_bad_image="skip", device="cpu")
    assert report["n"] == 15
    assert [item["path"] for item in report["skipped"]] == ["test/red/bad.png"]
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="16 of 16 pictures cannot be read"):
        resnetv2.evaluate(model, tmp_path / "data", on_bad_image="skip", device="cpu")


# --- several views ---


def test_flipping_averages_the_probabilities_of_a_picture_and_its_mirror_image(model, data):
    classifier = resnetv2.load(model, device="cpu")
    samples = read_index(data).split("test")
    pixels = classifier.header.preprocessing.decode(list(samples.paths))
    expected = (softmax(classifier.session(pixels)) + softmax(classifier.session(pixels[:, :, ::-1].copy()))) / 2
    # float32 logits of other batches differ by about 1e-7
    np.testing.assert_allclose(softmax(ask(classifier, samples, batch_size=4, tta="flip")), expected, atol=1e-6)


def test_five_crops_are_the_middle_and_the_corners():
    pictures = np.arange(2 * 6 * 6 * 3, dtype=np.uint8).reshape(2, 6, 6, 3)
    views = list(five_crops(pictures, 4))
    places = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)]
    for view, (top, left) in zip(views, places, strict=True):
        np.testing.assert_array_equal(view, pictures[:, top : top + 4, left : left + 4])


def test_the_middle_of_five_crops_is_the_picture_as_it_is_without_them(model, data):
    classifier = resnetv2.load(model, device="cpu")
    loose = replace(classifier.header.preprocessing, resize=40)
    classifier.header = replace(classifier.header, preprocessing=loose)
    samples = read_index(data).split("test")
    whole = replace(loose, image_size=40).decode(list(samples.paths))
    middle = next(five_crops(whole, 32))
    np.testing.assert_array_equal(middle, loose.decode(list(samples.paths)))
    views = [softmax(classifier.session(view)) for view in five_crops(whole, 32)]
    np.testing.assert_allclose(softmax(ask(classifier, samples, tta="five-crop")), np.mean(views, axis=0), atol=1e-6)


def test_five_crops_of_a_network_that_sees_pictures_whole_are_refused(model, data):
    with pytest.raises(ConfigError, match="five crops need something around the middle one"):
        resnetv2.evaluate(model, data, device="cpu", tta="five-crop")
    with pytest.raises(ConfigError, match="unknown tta 'flop'"):
        resnetv2.evaluate(model, data, device="cpu", tta="flop")


@pytest.mark.parametrize(("task", "columns"), [("multilabel", 3), ("regression", 1)])
def test_views_of_other_tasks_are_averaged_as_they_answer(task, columns):
    views = list(np.random.default_rng(0).normal(size=(2, 5, columns)) * 3)
    mean = _MEANS[task](views)
    read = sigmoid if task == "multilabel" else np.asarray
    np.testing.assert_allclose(read(mean), (read(views[0]) + read(views[1])) / 2, rtol=1e-12)


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
