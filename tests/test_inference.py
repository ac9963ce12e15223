"""Classifier, predict, verify and info on a real model file."""

import json

import numpy as np
import pytest
from PIL import Image
from runs import SETTINGS, TINY, write_colours

import resnetv2
from resnetv2.config import architecture
from resnetv2.errors import ConfigError, DataError, Error, ModelFileError
from resnetv2.inference import Classifier, softmax
from resnetv2.preprocess import Preprocessing
from resnetv2.weights.modelfile import Golden, Header, ModelFile, read_model_file, write_model_file


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
    assert header["schema_version"] == 3
    assert header["architecture"]["block"] == "basic"


def test_softmax_survives_large_logits():
    rows = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    assert np.array_equal(rows, [[1, 0], [0.5, 0.5]])


class Brightness:
    """A session whose logits (N, 2) are a picture's mean and its negative, with memory for ``most`` pictures."""

    runtime = "brightness"

    def __init__(self, most=1000):
        self.most = most
        self.sizes = []

    def __call__(self, pictures):
        self.sizes.append(len(pictures))
        if len(pictures) > self.most:
            raise MemoryError("Cannot allocate memory")
        mean = pictures.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
        return np.stack([mean, -mean], axis=1)


def by_brightness(session, side=8):
    header = Header(
        architecture=architecture("resnet18v2", num_classes=2),
        preprocessing=Preprocessing(image_size=side, resize=side, mean=(0, 0, 0), std=(1, 1, 1)),
        classes=("light", "dark"),
    )
    return Classifier(header, session)


def write_greys(folder, count):
    """Write pictures of one grey each, and return their paths."""
    paths = [folder / f"{value}.png" for value in range(count)]
    for value, path in enumerate(paths):
        Image.new("RGB", (8, 8), (value, value, value)).save(path)
    return paths


def test_answers_keep_the_order_of_the_pictures_while_threads_decode(tmp_path):
    paths = write_greys(tmp_path, 150)  # more than are decoded ahead
    paths[77].write_bytes(b"damaged")
    answers = list(by_brightness(Brightness()).predict(paths, top=1))
    assert [answer.path for answer in answers] == list(map(str, paths))
    assert [i for i, answer in enumerate(answers) if answer.error] == [77]
    probabilities = [1 / (1 + np.exp(-2.0 * i)) for i in range(150) if i != 77]
    assert [a.probability for a in answers if not a.error] == pytest.approx(probabilities)


def test_only_some_pictures_are_decoded_before_they_are_asked_for(tmp_path):
    (path,) = write_greys(tmp_path, 1)
    taken = []

    def endless():
        while True:
            taken.append(path)
            yield path

    for side, most in ((8, 96), (2048, 21)):  # three batches, or 256 MiB
        taken.clear()
        answers = by_brightness(Brightness(), side).predict(endless())
        next(answers)
        assert len(taken) <= most
        answers.close()


def test_a_batch_that_does_not_fit_into_memory_is_halved_from_then_on(tmp_path, capfd):
    paths = write_greys(tmp_path, 70)
    session = Brightness(most=9)
    ours = list(by_brightness(session).predict(paths))
    assert ours == list(by_brightness(Brightness()).predict(paths))
    assert session.sizes[:4] == [32, 16, 8, 8]
    assert max(session.sizes[2:]) == 8
    said = capfd.readouterr().err
    assert "out of memory with 32 pictures at once; going on with 16" in said
    assert said.count("out of memory") == 2


def test_a_single_picture_that_does_not_fit_into_memory_is_an_error(tmp_path):
    with pytest.raises(Error, match="out of memory with a single picture: Cannot allocate memory"):
        list(by_brightness(Brightness(most=0)).predict(write_greys(tmp_path, 3)))
