"""``compare``: two models on the same pictures."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import write_dataset
from runs import SETTINGS, TINY, write_colours
from scipy.stats import binomtest

import resnetv2
from resnetv2.errors import ConfigError, DataError
from resnetv2.evaluation.comparison import Pair, compare_classes, compare_labels, compare_numbers
from resnetv2.evaluation.intervals import mcnemar, paired_difference_interval


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", test=5)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for name, epochs in (("a", 1), ("b", 3)):
        resnetv2.train(data, out=out / name, set=TINY, **{**SETTINGS, "epochs": epochs})
    return out


def test_the_figures_are_those_of_evaluate_on_each(runs, data):
    result = resnetv2.compare(runs / "a", runs / "b" / "best.safetensors", data=data, device="cpu")
    alone = [resnetv2.evaluate(runs / name / "best.safetensors", data, device="cpu") for name in "ab"]
    for key in ("top1", "log_loss", "brier"):
        figure = result["figures"][key]
        assert [figure["first"], figure["second"]] == [report[key] for report in alone]
        low, high = figure["difference_ci95"]
        assert low <= figure["difference"] == figure["second"] - figure["first"] <= high
    assert result["n"] == 15
    said = [[answer.label for answer in resnetv2.predict(runs / n / "best.safetensors", [data / "test"])] for n in "ab"]
    paths = [str(path.relative_to(data)) for path in sorted((data / "test").rglob("*.png"))]
    expected = [path for path, first, second in zip(paths, *said, strict=True) if first != second]
    assert sorted(item["path"] for item in result["differ"]) == expected


def test_a_model_does_not_differ_from_itself(runs, data):
    result = resnetv2.compare(runs / "a", runs / "a", data=data, device="cpu")
    assert (result["differ"], result["only_first"], result["only_second"], result["p"]) == ([], 0, 0, 1.0)
    assert result["verdict"] == "These 15 pictures cannot tell the two models apart."
    low, high = result["figures"]["top1"]["difference_ci95"]
    assert low < 0 < high, "15 pictures do not prove that two models are the same"


def test_classes_are_matched_by_name_in_whatever_order_a_model_has_them(runs, data):
    first = resnetv2.load(runs / "a" / "best.safetensors", device="cpu")
    order = [2, 0, 1]
    turned = replace(first.header, classes=tuple(first.classes[i] for i in order))

    class Turned:
        def __call__(self, pictures):
            return first.session(pictures)[:, order]

    second = resnetv2.Classifier(turned, Turned())
    result = resnetv2.compare(first, second, data=data, device="cpu")
    assert result["differ"] == []
    assert result["figures"]["log_loss"]["difference"] == 0


def test_other_classes_and_other_tasks_are_refused_with_their_names(runs, data):
    first = resnetv2.load(runs / "a" / "best.safetensors", device="cpu")
    other = replace(first.header, classes=("red", "green", "violet"))
    with pytest.raises(ConfigError, match="only the first model has 'blue'; only the second model has 'violet'"):
        resnetv2.compare(first, resnetv2.Classifier(other, first.session), data=data)
    other = replace(first.header, task="multilabel")
    with pytest.raises(ConfigError, match="different tasks: classification and multilabel"):
        resnetv2.compare(first, resnetv2.Classifier(other, first.session), data=data)


def test_only_pictures_that_neither_run_was_trained_on_count(tmp_path):
    root = write_dataset(tmp_path / "unsplit", {"": {"a": 30, "b": 30}}, size=32)
    settings = {**SETTINGS, "epochs": 1}
    resnetv2.train(root, out=tmp_path / "one", set=TINY, **settings)
    grouped = {**settings, "group_by": r"(\d)\.png"}  # another split of the same pictures
    resnetv2.train(root, out=tmp_path / "two", set=TINY, **grouped)
    sets = []
    for name in ("one", "two"):
        lines = (tmp_path / name / "index.csv").read_text().splitlines()
        sets.append({line.split(",")[0] for line in lines if ",test," in line})
    both = sets[0] & sets[1]
    assert both != sets[0]
    assert both != sets[1], "else this shows nothing"
    if both:
        result = resnetv2.compare(tmp_path / "one", tmp_path / "two", data=root, device="cpu")
        assert (result["n"], result["left_out"]) == (len(both), len(sets[0] ^ sets[1]))
    else:
        with pytest.raises(DataError, match="no picture is in this split of both"):
            resnetv2.compare(tmp_path / "one", tmp_path / "two", data=root, device="cpu")


def test_progress_counts_both_models(runs, data):
    calls = []
    resnetv2.compare(
        runs / "a", runs / "b", data=data, batch_size=8, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(7, 30), (15, 30), (22, 30), (30, 30)]


# --- the statistics ---


def test_probabilities_that_differ_where_answers_do_not_are_told():
    pair = answers(400, 0, (1.0, 1.0))
    surer = replace(pair, second=3 * pair.first)
    result = compare_classes(surer)
    assert (result["only_first"], result["only_second"]) == (0, 0)
    higher = "second" if result["figures"]["log_loss"]["difference"] > 0 else "first"
    assert result["verdict"].startswith(
        "By top-1 these 400 pictures cannot tell the two models apart. Log loss differs by more"
    )
    assert f"that of the {higher} is higher." in result["verdict"]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (0, 6), (9, 3), (40, 60)])
def test_mcnemar_is_the_binomial_test_of_who_is_right_alone(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alone", [(0.05, 0.08), (0.01, 0.01)])
def test_the_interval_of_a_difference_covers_the_truth_in_95_of_100_draws(alone):
    n, rng = 400, np.random.default_rng(0)
    covered = 0
    for first, second, _ in rng.multinomial(n, (*alone, 1 - sum(alone)), 2_000):
        low, high = paired_difference_interval(int(first), int(second), n)
        covered += low <= alone[1] - alone[0] <= high
    # never too short; where the two hardly ever disagree it is a little long
    assert 0.94 <= covered / 2_000 <= (0.96 if min(alone) > 0.02 else 0.985)


def answers(n, seed, skill, task="classification"):
    rng = np.random.default_rng(seed)
    header = SimpleNamespace(task=task, classes=("a", "b", "c"))
    labels = rng.integers(0, 3, n)
    if task == "multilabel":
        labels = (rng.random((n, 3)) < 0.4).astype(np.uint8)
    if task == "regression":
        labels = rng.normal(size=n)
        return Pair(header, *(labels[:, None] + s * rng.normal(size=(n, 1)) for s in skill), labels)
    truth = np.eye(3)[labels] if task == "classification" else labels
    return Pair(header, *(s * (2 * truth - 1) + rng.normal(size=(n, 3)) for s in skill), labels)


@pytest.mark.parametrize(
    ("task", "compare"),
    [("classification", compare_classes), ("multilabel", compare_labels), ("regression", compare_numbers)],
)
def test_a_better_model_is_told_and_chance_is_not(task, compare):
    better, worse = (2.0, 0.7) if task != "regression" else (0.1, 0.5)
    assert compare(answers(500, 0, (worse, better), task))["verdict"].startswith("The second model is better")
    assert compare(answers(500, 0, (better, worse), task))["verdict"].startswith("The first model is better")
    told = sum("is better" in compare(answers(200, seed, (1, 1), task))["verdict"] for seed in range(200))
    assert told <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5  # 5 % of doubt, three standard errors


def test_the_map_of_a_pair_has_an_interval_that_the_sameness_of_pictures_narrows():
    pair = answers(300, 0, (1, 1.02), "multilabel")
    alike = replace(pair, second=pair.first * 1.0 + 0.01 * np.random.default_rng(1).normal(size=pair.first.shape))
    widths = [np.ptp(compare_labels(p)["figures"]["map"]["difference_ci95"]) for p in (pair, alike)]
    assert widths[1] < widths[0] / 4


def test_a_folder_without_a_model_is_named(tmp_path, data):
    shutil.copytree(data / "test", tmp_path / "data" / "test")
    with pytest.raises(resnetv2.ModelFileError, match="is a folder"):
        resnetv2.compare(tmp_path, tmp_path, data=data)
