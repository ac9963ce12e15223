"""A calibrated model may say that it does not know, in every runtime, and evaluation counts the same answers."""

import html
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from runs import SETTINGS, TINY, command, write_colours
from test_exporting import ENDINGS

import resnetv2
from resnetv2 import exporting
from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.evaluation.abstention import abstention_report, tell_abstention
from resnetv2.runtime.graph import build_graph
from resnetv2.weights.calibration import UNLIKE, UNSURE, Calibration
from resnetv2.weights.likeness import NAMES
from resnetv2.weights.sealed import read_sealed, write_sealed

CALIBRATION = Calibration(
    temperature=2.0, threshold=0.6, error_rate=0.05, limit=3.0, unlike_rate=0.01, n=99, data="of these"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of three colours; two of each 25 validation pictures are in the wrong folder."""
    root = write_colours(tmp_path_factory.mktemp("data") / "colours", train=12, val=25, test=10)
    for i in range(2):
        for name, other in (("red", "green"), ("green", "blue"), ("blue", "red")):
            (root / "val" / name / f"{i:03d}.png").rename(root / "val" / other / f"wrong-{i}.png")
    return root


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return resnetv2.train(data, out=tmp_path_factory.mktemp("runs") / "run", set=TINY, **SETTINGS).best


@pytest.fixture(scope="module")
def calibrated(model, data):
    out = model.parent / "calibrated.safetensors"
    resnetv2.calibrate(model, data, out=out, error_rate=0.35, device="cpu")
    return out


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """Pictures of stripes, which are nothing like one noisy colour."""
    folder = tmp_path_factory.mktemp("strange")
    for i in range(6):
        pixels = np.zeros((24, 24, 3), np.uint8)
        pixels[:: i + 2] = 255
        pixels[:, 1 :: i + 2] = (255, 0, 255)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def reseal(path, out, change):
    header, tensors = read_sealed(path)
    change(header, tensors)
    write_sealed(out, header, tensors)
    return out


# --- what is answered ---


@pytest.mark.parametrize(
    ("probability", "distance", "reason"),
    [(0.6, 3.0, None), (0.59, 3.0, UNSURE), (0.9, 3.01, UNLIKE), (0.1, 9.0, UNLIKE), (0.9, float("nan"), UNLIKE)],
)
def test_an_answer_is_given_from_the_threshold_on_and_up_to_the_limit(probability, distance, reason):
    assert CALIBRATION.reason(probability, distance) == reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"threshold": 1.5, "limit": -1}, "threshold must be a number from 0 to 1, got 1.5; limit must be"),
        ({"error_rate": "0.1"}, "error_rate must be a number"),
        ({"n": 0}, "n must be a whole number"),
        ({"data": None}, "data must be a text"),
        ({"undefined": {"a": 1}}, "undefined must hold texts"),
        ({"colour": 1}, "unknown calibration field 'colour'"),
    ],
)
def test_a_calibration_that_means_nothing_is_refused_with_all_that_is_wrong(changes, message):
    with pytest.raises(ConfigError, match=message):
        Calibration.from_dict(CALIBRATION.to_dict() | changes)


def test_pictures_that_are_nothing_like_the_training_pictures_are_not_answered(calibrated, data, strange):
    for answer in resnetv2.predict(calibrated, [strange], device="cpu", abstain=True):
        assert (answer.label, answer.probability, answer.abstains) == (None, None, UNLIKE)
        assert answer.distance > resnetv2.info(calibrated)["calibration"]["limit"]
        assert len(answer.top) == 3, "what it would have said"
        values = json.loads(json.dumps(answer.to_dict()))
        assert (values["label"], values["abstains"], values["distance"]) == (None, UNLIKE, answer.distance)
    known = resnetv2.predict(calibrated, [data / "test"], device="cpu", abstain=True)
    answered = [answer for answer in known if answer.abstains is None]
    assert len(answered) > 20
    for answer in answered:
        assert (answer.label, answer.probability) == answer.top[0]
        assert answer.to_dict()["abstains"] is None


def test_without_abstain_everything_is_answered(calibrated, strange):
    for answer in resnetv2.predict(calibrated, [strange], device="cpu"):
        assert answer.label == answer.top[0][0]
        assert set(answer.to_dict()) == {"path", "label", "probability", "top"}


def test_an_unreadable_picture_is_no_abstention(calibrated, data, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    for pictures in ([tmp_path / "bad.png"], [tmp_path / "bad.png", data / "test" / "red" / "000.png"]):
        answer = resnetv2.predict(calibrated, pictures, device="cpu", abstain=True)[0]
        assert (answer.error, answer.abstains) == ("the file is empty", None)


def test_a_model_that_is_not_calibrated_cannot_abstain(model, data):
    with pytest.raises(ConfigError, match="not calibrated, so it does not know when to abstain: resnetv2 calibrate"):
        resnetv2.predict(model, [data / "test"], device="cpu", abstain=True)
    done = command("predict", model, data / "test", "--abstain")
    assert (done.returncode, done.stdout, "resnetv2 calibrate" in done.stderr) == (2, "", True)


def test_the_table_and_the_lines_say_why(calibrated, data, strange):
    done = command("predict", calibrated, strange, data / "test" / "red", "--abstain")
    assert done.returncode == 0, done.stderr
    assert "abstains: unlike the training data" in done.stdout
    done = command("predict", calibrated, strange, "--abstain", "--json")
    assert {json.loads(line)["abstains"] for line in done.stdout.splitlines()} == {UNLIKE}


# --- evaluation ---


def test_evaluation_counts_what_predict_answers(calibrated, data):
    report = resnetv2.evaluate(calibrated, data, device="cpu")
    found = report["abstention"]
    answers = resnetv2.predict(calibrated, [data / "test"], device="cpu", abstain=True)
    reasons = [answer.abstains for answer in answers]
    right = sum(answer.label == answer.path.split("/")[-2] for answer in answers)
    assert (found["unsure"], found["unlike"]) == (reasons.count(UNSURE), reasons.count(UNLIKE))
    assert found["answered"] == reasons.count(None) == round(found["coverage"] * report["n"])
    assert found["accuracy"] == pytest.approx(right / found["answered"])
    assert "calibrated on 75 validation pictures (temperature" in found["note"]
    done = command("evaluate", calibrated, data)
    assert f"{found['answered']} pictures (" in done.stdout


def test_the_page_says_what_is_answered(calibrated, data, tmp_path):
    report = resnetv2.evaluate(calibrated, data, html=tmp_path / "page.html", device="cpu")
    assert html.escape(report["abstention"]["note"]) in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_evaluating_on_the_pictures_that_it_was_calibrated_on_says_so(calibrated, data):
    report = resnetv2.evaluate(calibrated, data, split="val", device="cpu")
    assert "which are these: that flatters them" in report["abstention"]["note"]


def test_other_models_have_no_abstention(model, data):
    assert resnetv2.evaluate(model, data, device="cpu")["abstention"] is None


def test_the_mean_of_several_views_may_abstain_and_says_that_it_was_not_calibrated(calibrated, data):
    plain, mean = (resnetv2.evaluate(calibrated, data, tta=tta, device="cpu")["abstention"] for tta in (None, "flip"))
    assert mean["answered"] + mean["unsure"] + mean["unlike"] == 30
    assert mean["unlike"] == plain["unlike"], "that is told from the plain view"
    assert mean["note"].endswith("what that promises does not cover the mean of several.")
    assert "several" not in plain["note"]


def test_of_two_models_one_may_be_calibrated_and_the_same_answers_are_no_difference(model, calibrated, data):
    result = resnetv2.compare(model, calibrated, data=data, device="cpu")
    assert result["figures"]["top1"]["difference"] == 0
    assert result["figures"]["log_loss"]["difference"] != 0
    assert result["differ"] == []


def test_where_nothing_is_answered_the_accuracy_is_undefined():
    logits, labels = np.eye(3), np.arange(3)
    found = abstention_report(logits, labels, np.array([9.0, 9.0, 1.0]), CALIBRATION)
    assert (found["answered"], found["unsure"], found["unlike"], found["accuracy"]) == (0, 1, 2, None)
    assert found["undefined"]["accuracy"] == "no picture is answered"
    told = tell_abstention(found, CALIBRATION, same=False)
    assert "answers 0 pictures" in told
    assert "2 are unlike its training data" in told
    assert "1 is unlike" in tell_abstention({**found, "unlike": 1}, CALIBRATION, same=False)


# --- where it is kept ---


@pytest.mark.parametrize("to", ENDINGS)
def test_an_artefact_abstains_as_the_model_file_does(to, calibrated, data, strange, tmp_path):
    out = resnetv2.export(calibrated, to=to, out=tmp_path / f"model.{ENDINGS[to]}").out
    assert resnetv2.info(out)["calibration"] == resnetv2.info(calibrated)["calibration"]
    pictures = [strange, data / "test"]
    ours, theirs = (resnetv2.predict(path, pictures, device="cpu", abstain=True) for path in (out, calibrated))
    assert [(a.label, a.abstains) for a in ours] == [(a.label, a.abstains) for a in theirs]
    # float32 sums in another order move features by about 1e-6, and the least variance is some 1e-3 of the others
    assert [a.distance for a in ours] == pytest.approx([a.distance for a in theirs], rel=1e-2)
    assert resnetv2.verify(out).ok


def test_without_torch_it_abstains_too(calibrated, strange, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here')")
    blocked = {"PYTHONPATH": f"{tmp_path}:{resnetv2.__path__[0]}/.."}
    out = resnetv2.export(calibrated, to="onnx", out=tmp_path / "model.onnx").out
    for path in (out, calibrated):
        done = command("predict", path, strange, "--abstain", "--json", **blocked)
        assert {json.loads(line)["abstains"] for line in done.stdout.splitlines()} == {UNLIKE}, done.stderr


def test_an_artefact_whose_features_are_others_is_not_written(calibrated, tmp_path, monkeypatch):
    def stretched(config, preprocessing, weights):  # half of the features four times as large, and the same logits
        by = np.where(np.arange(len(weights["norm.weight"])) % 2, 4, 1).astype(np.float32)
        changed = {f"norm.{part}": by * weights[f"norm.{part}"] for part in ("weight", "bias")}
        changed["head.fc.weight"] = weights["head.fc.weight"] / by
        return build_graph(config, preprocessing, {**weights, **changed})

    monkeypatch.setattr(exporting, "build_graph", stretched)
    with pytest.raises(ModelFileError, match=r"nothing was written: the artefact is .*% off in how far the golden"):
        resnetv2.export(calibrated, to="onnx", out=tmp_path / "new" / "model.onnx")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_must_abstain_as_float32_does(to, calibrated, data, strange, tmp_path):
    pytest.importorskip("nncf")
    out = tmp_path / f"model.{ENDINGS[to]}"
    options = {"to": to, "int8": True, "calibrate": data, "check": data, "max_drop": 1.0}
    report = resnetv2.export(calibrated, out=out, **options, min_agreement=0.0).report
    ours, theirs = (
        resnetv2.predict(path, [data / "test"], device="cpu", runtime=runtime, abstain=True)
        for path, runtime in ((out, to), (calibrated, to))
    )
    same = np.mean([(a.label, a.abstains) == (b.label, b.abstains) for a, b in zip(ours, theirs, strict=True)])
    assert report["agreement"] == pytest.approx(same)
    with pytest.raises(ModelFileError, match=r"its top-1 is .* lower"):
        resnetv2.export(calibrated, out=tmp_path / f"2.{ENDINGS[to]}", **(options | {"max_drop": -1.0}))
    assert {a.abstains for a in resnetv2.predict(out, [strange], abstain=True)} == {UNLIKE}


def test_a_folder_for_timm_says_that_the_calibration_stays_behind_and_keeps_the_temperature(
    calibrated, data, tmp_path, capsys
):
    resnetv2.export(calibrated, to="timm", out=tmp_path / "folder")
    assert capsys.readouterr().err.count("note: timm does not know of calibration") == 1
    temperature = resnetv2.info(calibrated)["calibration"]["temperature"]
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert f"divide logits by {temperature:.6g} before the softmax" in card
    assert "abstain" in card
    classifier = resnetv2.from_pretrained(tmp_path / "folder", device="cpu")
    pictures = [data / "test" / "red" / "000.png"]
    (ours,), (theirs,) = (list(each.predict(pictures)) for each in (classifier, resnetv2.load(calibrated, "cpu")))
    assert ours.probability == pytest.approx(theirs.probability, rel=1e-5)  # float32 sums in another order
    with pytest.raises(ConfigError, match="keep its temperature, and not the features of its training pictures"):
        list(classifier.predict(pictures, abstain=True))


def test_a_folder_of_a_model_that_is_not_calibrated_says_nothing_of_it(model, tmp_path, capsys):
    folder = resnetv2.save_pretrained(model, tmp_path / "folder")
    assert "calibration" not in capsys.readouterr().err + (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_whose_training_features_are_not_whole_is_refused(name, calibrated, tmp_path):
    path = reseal(calibrated, tmp_path / "m.safetensors", lambda _, tensors: tensors.pop(name))
    with pytest.raises(ModelFileError, match="damaged: the features of its training pictures are not whole"):
        resnetv2.load(path, device="cpu")


def test_training_features_without_a_calibration_are_refused(calibrated, tmp_path):
    path = reseal(calibrated, tmp_path / "m.safetensors", lambda header, _: header.update(calibration={}))
    with pytest.raises(ModelFileError, match="features of training pictures, but no calibration"):
        resnetv2.load(path, device="cpu")


def test_a_calibration_of_another_task_is_refused(calibrated, tmp_path):
    path = reseal(calibrated, tmp_path / "m.safetensors", lambda header, _: header.update(task="multilabel"))
    with pytest.raises(ModelFileError, match="calibration is for networks that give one class of several"):
        resnetv2.info(path)


def test_new_weights_lose_the_calibration_of_the_old_ones(calibrated, data, tmp_path):
    tuned = resnetv2.train(data, out=tmp_path / "run", weights=calibrated, epochs=1, device="cpu", image_size=32)
    assert resnetv2.info(tuned.best)["calibration"] == {}
    copy = shutil.copy(calibrated, tmp_path / "copy.safetensors")
    converted = resnetv2.convert(copy, out=tmp_path / "converted.safetensors").out
    assert resnetv2.info(converted)["calibration"] == {}
