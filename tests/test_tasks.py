"""Pictures with several classes, and pictures with a number: from a list to a model file and its answers."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from runs import SETTINGS, TINY, command

import resnetv2
from resnetv2.data.index import read_index
from resnetv2.errors import ConfigError, DataError
from resnetv2.tasks import check_task
from resnetv2.weights.modelfile import read_header


def paint(path, red, blue, seed):
    """Write grey noise whose left half is red by ``red`` and whose right half is blue by ``blue``, both 0 … 1."""
    pixels = np.full((24, 24, 3), 110.0) + np.random.default_rng(seed).normal(0, 12, (24, 24, 3))
    pixels[:, :12, 0] += 120 * red
    pixels[:, 12:, 2] += 120 * blue
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_list(folder, column, label, count=60):
    """Write painted pictures and their list; ``label`` gives the text for (red, blue)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = []
    for i in range(count):
        red, blue = rng.integers(0, 2, 2) if column == "labels" else rng.random(2)
        paint(folder / f"{i:03d}.png", red, blue, i)
        rows.append((f"{i:03d}.png", label(red, blue), "train" if i < count * 2 // 3 else "val" if i % 2 else "test"))
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_path", column, "split"), *rows])
    return folder / "list.csv"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Pictures that are red, blue, both or neither, and a run on them."""
    data = write_list(
        tmp_path_factory.mktemp("several") / "data",
        "labels",
        lambda red, blue: "|".join(name for name, there in (("red", red), ("blue", blue)) if there),
    )
    options = {**TINY, "hflip": 0, "crop_scale": (0.9, 1)}
    return data, resnetv2.train(
        data, out=data.parent.parent / "run", set=options, **{**SETTINGS, "epochs": 8, "lr": 0.03}
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Pictures whose target is 100 + 40 · red, and a run on them."""
    data = write_list(tmp_path_factory.mktemp("measured") / "data", "target", lambda red, _: f"{100 + 40 * red:.4f}")
    settings = {**SETTINGS, "epochs": 12, "lr": 0.02}
    return data, resnetv2.train(data, out=data.parent.parent / "run", set={"model": TINY["model"]}, **settings)


def test_several_classes_are_learnt_and_measured(several):
    data, run = several
    assert (run.metric, run.val_n) == ("map", 10)
    assert run.val_score > 0.9, "chance is about a half"
    header = read_header(run.best)
    assert (header.task, header.classes) == ("multilabel", ("blue", "red"))
    report = resnetv2.evaluate(run.best, data, split="val", device="cpu")
    assert report["map"] == pytest.approx(run.val_score, abs=1e-12)  # the same sums in another order
    assert report["task"] == "multilabel"
    assert resnetv2.verify(run.best, device="cpu").ok


def test_a_picture_is_answered_with_every_class_it_has(several):
    data, run = several
    index = read_index(data)
    answers = resnetv2.predict(run.best, [index.place(i) for i in range(60)], device="cpu")
    right = [set(answer.labels) == set(index.label(i).split("|")) - {""} for i, answer in enumerate(answers)]
    assert np.mean(right) > 0.8
    none = next(i for i in range(60) if not index.labels[i].any())
    assert answers[none].label is None
    assert {name for name, _ in answers[none].top} == {"red", "blue"}
    assert set(answers[none].to_dict()) == {"path", "labels", "top"}


def test_a_number_is_learnt_in_its_own_units(measured):
    data, run = measured
    assert run.metric == "mae"
    assert run.val_score < 6, "guessing the mean errs by 10"
    low, high = run.val_score_ci95
    assert low < run.val_score < high
    header = read_header(run.best)
    assert (header.task, header.classes, header.metrics["val"]["mae"]) == ("regression", ("target",), run.val_score)
    report = resnetv2.evaluate(run.best, data, split="val", device="cpu")
    assert report["mae"] == pytest.approx(run.val_score, rel=1e-5)  # the scaled head rounds float32 anew
    assert resnetv2.verify(run.best, device="cpu").ok
    index = read_index(data)
    answer = resnetv2.predict(run.best, [index.place(0)], device="cpu")[0]
    assert 90 < answer.value < 150
    assert set(answer.to_dict()) == {"path", "value"}


def test_the_commands_print_what_the_task_has(several, measured):
    for (data, run), words in ((several, ("mean average precision", "f1")), (measured, ("mean absolute error", "R²"))):
        shown = command("evaluate", run.best, data, "--device", "cpu")
        assert shown.returncode == 0, shown.stderr
        assert all(word in shown.stdout for word in words)
        picture = data.parent / "000.png"
        table = command("predict", run.best, picture, "--device", "cpu")
        line = command("predict", run.best, picture, "--device", "cpu", "--json")
        assert "000.png" in table.stdout
        assert json.loads(line.stdout)["path"] == str(picture)


def test_a_resumed_run_on_numbers_is_refused_other_data(measured, several):
    _, run = measured
    with pytest.raises(DataError):
        resnetv2.train(several[0], out=run.out, resume=True)


def test_a_model_is_evaluated_on_data_of_its_task_only(several, measured):
    with pytest.raises(DataError, match="needs the columns image_path,target"):
        resnetv2.evaluate(measured[1].best, several[0], device="cpu")
    with pytest.raises(DataError, match="needs the columns image_path,labels"):
        resnetv2.evaluate(several[1].best, measured[0], device="cpu")


@pytest.mark.parametrize("setting", ["mixup", "cutmix"])
def test_labels_of_several_classes_are_mixed(several, tmp_path, setting):
    run = resnetv2.train(several[0], out=tmp_path / "run", set={**TINY, setting: 1.0}, **{**SETTINGS, "epochs": 1})
    assert run.epochs == 1


def test_what_a_task_does_not_have_is_refused(several, measured, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'regression'"):
        check_task("regresion")
    for data, setting, words in (
        (measured[0], {"class_weights": "balanced"}, "no classes"),
        (measured[0], {"mixup": 0.2}, "no classes"),
        (measured[0], {"loss": "cross_entropy"}, "no 'cross_entropy' loss for 'regression'"),
        (several[0], {"loss": "mse"}, "no 'mse' loss for 'multilabel'"),
        (several[0], {"sampling": "balanced"}, "one class"),
    ):
        with pytest.raises(ConfigError, match=words):
            resnetv2.train(data, out=tmp_path / "run", set={**TINY, **setting}, **SETTINGS)
        assert not (tmp_path / "run").exists()
