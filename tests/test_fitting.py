"""``calibrate``: only on the validation split, only what the pictures can show, and nothing of the user's changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import SETTINGS, TINY, command, write_colours
from test_calibration import honest
from test_exporting import write_network

import resnetv2
from resnetv2.errors import ConfigError, DataError, Error
from resnetv2.evaluation.fitting import find_limit, fit
from resnetv2.inference import softmax
from resnetv2.weights.modelfile import read_model_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of three colours, of which some are in the wrong folder: nobody can answer all of them rightly."""
    root = write_colours(tmp_path_factory.mktemp("data") / "colours", train=12, val=20, test=10)
    for split in ("val", "test"):
        (root / split / "red" / "000.png").rename(root / split / "green" / "wrong.png")
        (root / split / "blue" / "000.png").rename(root / split / "red" / "wrong.png")
    return root


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return resnetv2.train(data, out=tmp_path_factory.mktemp("runs") / "run", set=TINY, **SETTINGS).best


def calibrate(model, data, tmp_path, **options):
    return resnetv2.calibrate(model, data, out=tmp_path / "calibrated.safetensors", device="cpu", **options)


def test_a_calibrated_file_has_the_same_network_and_the_old_one_is_untouched(model, data, tmp_path):
    before = model.read_bytes()
    report = calibrate(model, data, tmp_path)
    assert model.read_bytes() == before
    old, new = read_model_file(model), read_model_file(Path(report["out"]))
    for name, value in old.weights.items():
        np.testing.assert_array_equal(new.weights[name], value)
    np.testing.assert_array_equal(new.golden.logits, old.golden.logits)
    assert resnetv2.verify(report["out"], device="cpu").ok
    assert new.header.calibration.n == report["n"] == 60
    assert new.header.calibration.temperature == report["temperature"]
    assert (old.header.calibration, old.likeness) == (None, None)
    assert resnetv2.info(report["out"])["calibration"]["limit"] == report["limit"]


def test_the_probabilities_are_those_of_logits_divided_by_the_temperature(model, data, tmp_path):
    report = calibrate(model, data, tmp_path)
    assert report["log_loss"]["after"] < report["log_loss"]["before"]
    picture = data / "test" / "red" / "001.png"
    (answer,) = resnetv2.predict(report["out"], [picture], top=3, device="cpu")
    logits = resnetv2.load(model, device="cpu").logits([picture])
    expected = np.sort(softmax(logits / report["temperature"])[0])[::-1]
    assert [p for _, p in answer.top] == pytest.approx(expected, rel=1e-5)  # float32 logits, divided before or after
    assert (answer.abstains, answer.distance) == (None, None), "it was not asked to abstain"
    val = resnetv2.evaluate(report["out"], data, split="val", device="cpu")
    assert val["log_loss"] == pytest.approx(report["log_loss"]["after"], rel=1e-6)  # as the logits
    assert val["ece"] == pytest.approx(report["ece"]["after"], rel=1e-3)  # a confidence may lie on the edge of a bin


def test_calibrating_again_begins_anew(model, data, tmp_path):
    first = calibrate(model, data, tmp_path)
    again = resnetv2.calibrate(first["out"], data, out=tmp_path / "again.safetensors", device="cpu")
    assert Path(again["out"]).read_bytes() == Path(first["out"]).read_bytes()


# --- only the validation split ---


@pytest.mark.parametrize(
    ("split", "why"),
    [("test", "would no longer be those of pictures"), ("train", "is far too sure"), ("all", "neither trained nor")],
)
def test_another_split_is_refused_with_the_reason(model, data, tmp_path, split, why):
    with pytest.raises(ConfigError, match=f"calibration is for the split 'val', got '{split}': .*{why}"):
        calibrate(model, data, tmp_path, split=split)
    done = command("calibrate", model, data, "--out", tmp_path / "x.safetensors", "--split", split)
    assert (done.returncode, why in done.stderr, list(tmp_path.iterdir())) == (2, True, [])


def test_a_calibrated_model_is_not_written_among_the_pictures(model, data, tmp_path):
    (tmp_path / "link").symlink_to(data)
    for folder in (data, data / "new", tmp_path / "link"):
        with pytest.raises(ConfigError, match="which is only read: choose another place"):
            resnetv2.calibrate(model, data, out=folder / "calibrated.safetensors", device="cpu")
    assert sorted(path.name for path in data.iterdir()) == ["test", "train", "val"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_of_the_runs_other_splits_are_known_under_any_name(model, data, tmp_path, split):
    other = shutil.copytree(data, tmp_path / "other")
    source = other / split / "green" / "002.png"
    shutil.copy(source, other / "val" / "blue" / "a name of its own.png")
    with pytest.raises(DataError, match=rf"1 of these 61 pictures are of another split.*\n.*its own.*'{split}'"):
        calibrate(model, other, tmp_path)
    assert not (tmp_path / "calibrated.safetensors").exists()


def test_data_that_lacks_a_split_is_refused(model, data, tmp_path):
    alone = Path(shutil.copy(model, tmp_path / "alone.safetensors"))  # without the run's list beside it
    for absent, message in (("val", "assigned now and is not that of the model's run"), ("train", "no 'train' split")):
        part = shutil.copytree(data, tmp_path / absent, ignore=lambda _, names, a=absent: {a} & set(names))
        with pytest.raises(DataError, match=message):
            calibrate(alone, part, tmp_path)


# --- what the pictures cannot show ---


def test_pictures_of_one_class_are_refused(model, data, tmp_path):
    one = shutil.copytree(data, tmp_path / "one")
    for name in ("green", "blue"):
        shutil.rmtree(one / "val" / name)
    with pytest.raises(DataError, match="all of the class 'red': how sure answers may be is undefined"):
        calibrate(model, one, tmp_path)


def test_a_temperature_that_nothing_tells_stays_1_with_the_reason():
    labels = np.arange(30) % 3
    calibration, report = fit(5 * np.eye(3)[labels], labels, np.ones(30), None)
    assert (report["temperature"], report["temperature_ci95"]) == (1.0, None)
    assert "every answer is right on these 30 pictures" in calibration.undefined["temperature"]
    calibration, _ = fit(5 * np.eye(3)[(labels + 1) % 3], labels, np.ones(30), None)
    assert "no better than chance" in calibration.undefined["temperature"]


def test_an_error_rate_that_cannot_be_shown_is_refused(model, data, tmp_path):
    with pytest.raises(DataError, match=r"0\.10% takes 2,995 pictures to show and there are \d+"):
        calibrate(model, data, tmp_path, error_rate=0.001)
    for rate in (0, 1, -0.5, 2):
        with pytest.raises(ConfigError, match="error_rate must lie between 0 and 1"):
            calibrate(model, data, tmp_path, error_rate=rate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("task", "classes"), [("multilabel", ("a", "b")), ("regression", ("age",))])
def test_networks_that_give_no_class_are_refused(data, tmp_path, task, classes):
    network = write_network(tmp_path / "model.safetensors", task, classes)
    with pytest.raises(ConfigError, match=f"one class, and .* is for {task}"):
        calibrate(network, data, tmp_path)


def test_what_exists_is_not_overwritten_and_an_artefact_is_no_source(model, data, tmp_path):
    with pytest.raises(Error, match="exists: choose another --out"):
        resnetv2.calibrate(model, data, out=model)
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        resnetv2.calibrate(model, data, out=tmp_path / "model.onnx")
    artefact = resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx").out
    with pytest.raises(ConfigError, match="calibrate the model file, then export that"):
        calibrate(artefact, data, tmp_path)


# --- what is promised is kept ---


@pytest.mark.parametrize("n", [20, 98, 99, 500])
def test_further_pictures_lie_beyond_the_limit_as_seldom_as_promised(n):
    rng = np.random.default_rng(n)
    beyond = []
    for _ in range(4_000):
        distances = rng.chisquare(5, n + 1)
        limit, rate = find_limit(distances[:n])
        assert limit in distances
        beyond.append(distances[n] > limit)
    assert rate == pytest.approx(max(0.01, 1 / (n + 1)), rel=0.2)  # whole pictures: 495 of 501 are 98.8 %
    # two standard errors of 4,000 draws
    assert np.mean(beyond) <= rate + 2 * (rate / 4_000) ** 0.5


def test_the_error_rate_is_kept_by_95_of_100_calibrations_temperature_and_limit_included():
    def draw(n, seed):
        logits, labels = honest(n, 4, 2.0, seed, spread=4.0)
        strange = np.random.default_rng(seed).random(n)
        labels = np.where(strange > 0.97, (labels + 1) % 4, labels)  # the strangest are answered wrongly
        return logits, labels, strange

    logits, labels, strange = draw(30_000, 0)
    broken = refused = 0
    for seed in range(1, 201):
        try:
            found, _ = fit(*draw(600, seed), 0.1)
        except DataError:
            refused += 1
            continue
        given = (softmax(found.scale(logits)).max(axis=1) >= found.threshold) & (strange <= found.limit)
        broken += (logits.argmax(axis=1) != labels)[given].mean() > 0.1
    assert refused < 10, "a threshold exists, and is nearly always found"
    # 5 % and two standard errors of 200 draws
    assert broken / 200 <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


def test_the_command_says_what_was_found(model, data, tmp_path):
    done = command("calibrate", model, data, "--out", tmp_path / "a.safetensors", "--error-rate", "0.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "a.safetensors")
    for words in (
        "temperature  ",
        "95 % interval",
        "log loss  ",
        "unlike the training data  from distance",
        "not sure",
    ):
        assert words in done.stdout
    assert "with 95 % certainty at most" in done.stdout
