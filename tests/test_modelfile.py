import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, noise, write_picture
from safetensors.numpy import save_file

import resnetv2
from resnetv2.config import architecture
from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.preprocess import Preprocessing
from resnetv2.weights.modelfile import (
    SCHEMA_VERSION,
    Golden,
    Header,
    ModelFile,
    read_header,
    read_model_file,
    write_model_file,
)
from resnetv2.weights.sealed import read_seal, read_sealed, write_sealed

CLASSES = ("cat", "dog", "Käse 🧀")
HEADER = Header(
    architecture=architecture("resnet18v2", "keras", num_classes=3),
    preprocessing=Preprocessing(image_size=32, resize=40, fit="squash", mean=(1.5, 2.0, 3.0)),
    classes=CLASSES,
    provenance={"recipe": {"lr": None, "crop": [0.35, 1.0]}, "source": "https://example.org"},
    metrics={"val": {"top1": 0.75, "n": 8}},
)
MODEL = ModelFile(
    HEADER,
    {"conv.weight": np.arange(8, dtype=np.float32).reshape(2, 4) / 3, "norm.bias": np.zeros(2, np.float32)},
    Golden((encode(noise(5, 5, 1)), encode(noise(5, 5, 2), "JPEG")), np.array([[1, 2, 3], [-1, 0.5, 0]], np.float32)),
)


@pytest.fixture
def path(tmp_path):
    """Return a model file."""
    write_model_file(tmp_path / "model.safetensors", MODEL)
    return tmp_path / "model.safetensors"


@pytest.fixture
def reseal(path):
    """Return a function that changes header and tensors and gives them a digest that fits."""

    def change_and_seal(change):
        header, tensors = read_sealed(path)
        change(header, tensors)
        write_sealed(path, header, tensors)
        return path

    return change_and_seal


def assert_refused(path, words, *readers):
    """Reading must end in one error that names the file."""
    for read in readers or (read_header, read_model_file):
        with pytest.raises(ModelFileError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert words in str(caught.value)


# --- round trip ---


def test_everything_comes_back(path):
    found = read_model_file(path)
    assert found.header == HEADER
    assert read_header(path) == HEADER
    assert sorted(found.weights) == sorted(MODEL.weights)
    for name, value in MODEL.weights.items():
        np.testing.assert_array_equal(found.weights[name], value)
        assert found.weights[name].dtype == np.float32
    assert found.golden.pictures == MODEL.golden.pictures
    np.testing.assert_array_equal(found.golden.logits, MODEL.golden.logits)


def test_a_file_that_was_read_and_written_is_the_same_to_the_byte(path, tmp_path):
    write_model_file(tmp_path / "again", read_model_file(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_file_without_golden_samples_comes_back(path):
    write_model_file(path, ModelFile(HEADER, MODEL.weights, Golden((), np.zeros((0, 3), np.float32))))
    found = read_model_file(path).golden
    assert found.pictures == ()
    assert found.logits.shape == (0, 3)


def test_many_golden_samples_keep_their_order(path):
    pictures = tuple(encode(noise(3, 3, i)) for i in range(12))
    logits = np.arange(36, dtype=np.float32).reshape(12, 3)
    write_model_file(path, ModelFile(HEADER, {}, Golden(pictures, logits)))
    assert read_model_file(path).golden.pictures == pictures


def test_the_header_is_json_that_says_what_the_file_is():
    values = json.loads(json.dumps(HEADER.to_dict()))
    assert values["kind"] == "model"
    assert values["schema_version"] == SCHEMA_VERSION == 3
    assert values["classes"] == list(CLASSES)
    assert set(values) == {
        "kind",
        "schema_version",
        "task",
        "architecture",
        "preprocessing",
        "classes",
        "provenance",
        "metrics",
        "calibration",
    }


# --- what a header may be ---


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("cat", "dog"), "2 class names for 3 classes"),
        ((), "0 class names for 3 classes"),
        (("cat", "dog", "cat"), "class names must differ"),
    ],
)
def test_class_names_fit_the_network_and_differ(classes, words):
    with pytest.raises(ConfigError, match=words):
        Header(architecture=HEADER.architecture, preprocessing=HEADER.preprocessing, classes=classes)


@pytest.mark.parametrize("classes", [["cat", "dog"], ["cat", "dog", "cow", "hen"], [], ["cat", "cat", "dog"]])
def test_a_file_with_other_class_names_than_classes_is_refused(reseal, classes):
    assert_refused(reseal(lambda header, _: header.update(classes=classes)), "class names")


# --- damage ---


def test_a_truncated_file_is_refused_at_many_lengths(path):
    data = path.read_bytes()
    for length in [*range(0, len(data), 37), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:length])
        assert_refused(path, "truncated, damaged or foreign")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"cat\\", \\"dog\\"', b'\\"dog\\", \\"cat\\"'),  # the order of the classes
        (b'\\"cat\\"', b'\\"cow\\"'),
        (b'\\"resize\\": 40', b'\\"resize\\": 41'),
        (b'\\"top1\\": 0.75', b'\\"top1\\": 0.95'),
        (np.float32(1 / 3).tobytes(), np.nextafter(np.float32(1 / 3), np.float32(1)).tobytes()),  # one bit of a weight
        (MODEL.golden.logits[0].tobytes(), MODEL.golden.logits[1].tobytes()),
        (MODEL.golden.pictures[0], MODEL.golden.pictures[0][:-1] + b"\0"),
    ],
)
def test_a_file_that_was_edited_is_refused(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    assert old != new
    path.write_bytes(data.replace(old, new))
    assert_refused(path, "its SHA-256 does not match", read_model_file)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("golden.picture.0"),
        lambda tensors: tensors.pop("golden.picture.1"),
        lambda tensors: tensors.pop("golden.logits"),
        lambda tensors: tensors.update({"golden.picture.2": np.zeros(3, np.uint8)}),
        lambda tensors: tensors.update({"golden.picture.7": tensors.pop("golden.picture.1")}),
        lambda tensors: tensors.update({"golden.logits": np.zeros((3, 3), np.float32)}),
        lambda tensors: tensors.update({"golden.logits": np.zeros((2, 4), np.float32)}),
        lambda tensors: tensors.update({"golden.logits": np.zeros(2, np.float32)}),
        lambda tensors: tensors.update({"golden.logits": np.float32(1)}),
    ],
)
def test_golden_samples_that_do_not_fit_together_are_refused(reseal, change):
    path = reseal(lambda _, tensors: change(tensors))
    assert_refused(path, "its golden samples are not whole", read_model_file)


# --- headers of other writers ---

FIELDS = (
    "kind",
    "schema_version",
    "task",
    "architecture",
    "preprocessing",
    "classes",
    "provenance",
    "metrics",
    "calibration",
)


@pytest.mark.parametrize("version", [4, 10**6])
def test_a_newer_file_says_how_to_upgrade_whatever_else_it_holds(path, reseal, version):
    reseal(lambda header, _: header.update(schema_version=version, classes={"new": "form"}, more=5))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\xaa")  # its digest may be another one, too
    assert_refused(
        path, f"has schema version {version} and this resnetv2 reads up to 3: pip install --upgrade resnetv2"
    )


@pytest.mark.parametrize("name", FIELDS)
def test_a_header_without_a_field_is_refused(reseal, name):
    assert_refused(reseal(lambda header, _: header.pop(name)), "no model file" if name == "kind" else name)


@pytest.mark.parametrize(
    ("version", "classes"), [(1, ("a", "b", "c")), (2, ("blue", "green", "red")), (3, ("blue", "green", "red"))]
)
def test_a_file_of_every_version_is_read_and_keeps_its_promise(version, classes):
    path = Path(__file__).parent / "golden" / f"model-v{version}.safetensors"
    assert read_seal(path)["schema_version"] == version
    header = read_header(path)
    assert (header.task, header.classes) == ("classification", classes)
    assert (header.calibration is not None) == (version == 3)
    assert resnetv2.verify(path, device="cpu").ok


def test_a_task_that_does_not_exist_is_refused(reseal):
    assert_refused(reseal(lambda header, _: header.update(task="regresion")), "did you mean 'regression'")


def test_a_header_with_an_unknown_field_is_refused(reseal):
    assert_refused(reseal(lambda header, _: header.update(colour="RGB")), "colour")


@pytest.mark.parametrize("part", ["architecture", "preprocessing"])
def test_an_unknown_field_within_the_header_is_refused(reseal, part):
    assert_refused(reseal(lambda header, _: header[part].update(colour="RGB")), "unknown " + part)


WRONG = [None, True, 5, -1, 0.5, float("inf"), "text", "", [], [1], {}, {"a": 1}, [["a", 1]]]
FITTING = {
    "provenance": ({}, {"a": 1}),
    "metrics": ({}, {"a": 1}),
    "calibration": ({},),
    "architecture": (),
    "preprocessing": ({},),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_another_type_is_refused(path, reseal, name):
    before = path.read_bytes()
    for value in WRONG:
        if value in FITTING.get(name, ()) or (name == "schema_version" and value == 5):
            continue
        path.write_bytes(before)
        reseal(lambda header, _, value=value: header.update({name: value}))
        assert_refused(path, "no model file" if name == "kind" else "damaged header")


@pytest.mark.parametrize(
    ("part", "name"),
    [("architecture", n) for n in HEADER.architecture.to_dict()]
    + [("preprocessing", n) for n in HEADER.preprocessing.to_dict()],
)
def test_a_part_of_another_type_is_refused(path, reseal, part, name):
    before = path.read_bytes()
    for value in (None, "5", [], {}, [None], ["a", "b", "c"], {"a": 1}, float("nan"), float("inf"), -5):
        path.write_bytes(before)
        reseal(lambda header, _, value=value: header[part].update({name: value}))
        assert_refused(path, "damaged header")


@pytest.mark.parametrize(
    "classes", ["abc", {"a": 1, "b": 2, "c": 3}, [1, 2, 3], ["a", "b", None], [["a"], ["b"], ["c"]]]
)
def test_class_names_that_are_no_texts_are_refused(reseal, classes):
    assert_refused(reseal(lambda header, _: header.update(classes=classes)), "classes must be")


def test_a_deeply_nested_header_is_refused(path):
    for depth in (300, 600, 900, 100_000):
        nested = '{"a":' * depth + "1" + "}" * depth
        text = f'{{"kind": "model", "schema_version": 3, "architecture": {nested}, "preprocessing": {nested}}}'
        save_file({}, path, {"resnetv2": text})
        assert_refused(path, "damaged header")


# --- files that are something else ---


def test_a_checkpoint_is_no_model_file(path):
    write_sealed(path, {"kind": "checkpoint", "schema_version": 1, "progress": {}}, MODEL.weights)
    assert_refused(path, "is no model file but a 'checkpoint'; use best.safetensors of the run")


def test_a_foreign_safetensors_file_is_refused(path):
    save_file(dict(MODEL.weights), path, {"format": "pt"})
    assert_refused(path, "not one that resnetv2 wrote")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "empty").touch()
    assert_refused(tmp_path / "empty", "no readable model file")
    assert_refused(write_picture(tmp_path / "x.png"), "no readable model file")
    assert_refused(tmp_path / "nowhere", "no such file")
    assert_refused(tmp_path, "is a folder")


# --- the light install ---

LIGHT = """
import sys
from pathlib import Path
from resnetv2.weights.modelfile import read_header, read_model_file, write_model_file

path = Path(sys.argv[1])
read_header(path)
write_model_file(path, read_model_file(path))
print("torch" in sys.modules)
"""


def test_reading_and_writing_never_import_torch(path):
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", LIGHT, path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert path.read_bytes() == before
