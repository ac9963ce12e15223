"""Classifier, predict, verify and info on a real model file."""

import json

import numpy as np
import pytest
from PIL import Image
from runs import SETTINGS, TINY, write_colours

import resnetv2
from resnetv2.errors import ConfigError, DataError, ModelFileError
from resnetv2.inference import softmax
from resnetv2.weights.modelfile import Golden, ModelFile, read_model_file, write_model_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(data, out=out, set=TINY, **SETTINGS).best


def test_predict_answers_every_picture_of_a_folder_in_natural_order(model, data):
    answers = resnetv2.predict(model, [data / "test" / "red"], top=2, device="cpu")
    assert [answer.path for answer in answers] == [str(data / "test" / "red" / f"{i:03d}.png") for i in range(4)]
    for answer in answers:
        assert answer.error is None
        assert len(answer.top) == 2
        assert answer.top[0] == (answer.label, answer.probability)
        assert answer.probability >= answer.top[1][1]


def test_probabilities_of_all_classes_sum_to_one(model, data):
    answer = resnetv2.predict(model, [data / "test" / "red" / "000.png"], top=99, device="cpu")[0]
    assert sorted(label for label, _ in answer.top) == ["blue", "green", "red"]
    assert sum(p for _, p in answer.top) == pytest.approx(1, abs=1e-12)  # three float64 roundings


def test_an_unreadable_picture_gets_its_error_and_the_others_their_answers(model, data, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes((data / "test" / "red" / "000.png").read_bytes()[:60])
    pictures = [data / "test" / "red" / "000.png", bad, tmp_path / "absent.png", data / "test" / "blue" / "000.png"]
    answers = resnetv2.predict(model, pictures, device="cpu")
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    assert answers[1].to_dict() == {"path": str(bad), "error": answers[1].error}
    assert "No such file" in answers[2].error
    assert json.loads(json.dumps(answers[0].to_dict()))["label"] == answers[0].label


def test_only_unreadable_pictures_are_answered_too(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    assert resnetv2.predict(model, [tmp_path / "bad.png"], device="cpu")[0].error == "the file is empty"


def test_a_picture_gets_the_same_answer_alone_and_among_others(model, data):
    classifier = resnetv2.load(model, device="cpu")
    paths = sorted((data / "test").rglob("*.png"))
    together = classifier.logits(paths)
    alone = np.concatenate([classifier.logits([path]) for path in paths])
    scale = np.abs(together).max()
    assert np.abs(together - alone).max() <= 1e-5 * scale  # the order of float32 sums differs with the batch


def test_the_orientation_in_exif_is_applied(model, data, tmp_path):
    picture = Image.open(data / "test" / "red" / "000.png")
    half = Image.new("RGB", picture.size, (0, 0, 0))
    half.paste(picture.crop((0, 0, picture.width, picture.height // 2)))
    upright, turned = tmp_path / "upright.png", tmp_path / "turned.png"
    half.save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    half.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    classifier = resnetv2.load(model, device="cpu")
    assert np.array_equal(classifier.logits([upright]), classifier.logits([turned]))


def test_an_empty_folder_is_an_error(model, tmp_path):
    with pytest.raises(DataError, match="no pictures in"):
        resnetv2.predict(model, [tmp_path], device="cpu")


def test_top_must_be_positive(model, data):
    with pytest.raises(ConfigError, match="top must be at least 1, got 0"):
        resnetv2.predict(model, [data / "test" / "red" / "000.png"], top=0, device="cpu")


def test_verify_finds_weights_that_no_longer_give_the_golden_logits(model, tmp_path):
    file = read_model_file(model)
    weights = dict(file.weights)
    weights["stem.conv.weight"] = weights["stem.conv.weight"] * np.float32(1.01)
    changed = tmp_path / "changed.safetensors"
    write_model_file(
        changed, ModelFile(file.header, weights, file.golden)
    )  # a file whole in itself, with a digest that fits
    with pytest.raises(ModelFileError, match="does not give the logits it promised: 4 golden samples"):
        resnetv2.verify(changed, device="cpu")


def test_verify_refuses_a_file_without_golden_samples(model, tmp_path):
    file = read_model_file(model)
    path = tmp_path / "bare.safetensors"
    write_model_file(path, ModelFile(file.header, file.weights, Golden((), np.zeros((0, 3), np.float32))))
    with pytest.raises(ModelFileError, match="no golden samples"):
        resnetv2.verify(path, device="cpu")


def test_weights_that_do_not_fit_are_all_named_in_one_error(model, tmp_path):
    file = read_model_file(model)
    weights = dict(file.weights)
    weights["extra.weight"] = weights.pop("norm.weight")
    weights["head.fc.bias"] = np.zeros(7, np.float32)
    path = tmp_path / "misfit.safetensors"
    write_model_file(path, ModelFile(file.header, weights, file.golden))
    with pytest.raises(ModelFileError) as error:
        resnetv2.load(path, device="cpu")
    for part in ("absent: norm.weight", "unknown: extra.weight", "head.fc.bias is (7,), expected (3,)"):
        assert part in str(error.value)


def test_info_gives_the_header_as_plain_values(model):
    header = resnetv2.info(model)
    assert json.loads(json.dumps(header)) == header
    assert header["classes"] == ["blue", "green", "red"]
    assert header["schema_version"] == 2
    assert header["architecture"]["block"] == "basic"


def test_softmax_survives_large_logits():
    rows = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    assert np.array_equal(rows, [[1, 0], [0.5, 0.5]])
