"""Artefacts answer as the model file does, or are not written; each fault is injected for real."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import randomise
from pictures import noise, write_dataset, write_picture
from runs import command

import resnetv2
from resnetv2 import exporting
from resnetv2.errors import ConfigError, ConvertError, DataError, Error, ModelFileError
from resnetv2.inference import Classifier
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.artefact import SCHEMA_VERSION
from resnetv2.runtime.exported import ExportedSession
from resnetv2.runtime.graph import build_graph
from resnetv2.runtime.pytorch import build_model, model_file
from resnetv2.weights.golden import golden_pictures
from resnetv2.weights.modelfile import Golden, Header, read_model_file, write_model_file

ENDINGS = {"onnx": "onnx", "openvino": "xml", "torch": "pt2"}
CLASSES = ("blue", "green", "red")
SIDE = 32
GOLDEN = exporting.Classifier.logits
BIAS = np.float32([0.1, 0, 0])  # what makes another network


def write_network(path, task="classification", classes=CLASSES, width_factor=0.25):
    """Write a model file of a small random network."""
    model = resnetv2.create_model(
        "resnet18v2", num_classes=len(classes), depths=(1, 1, 1, 1), width_factor=width_factor
    )
    randomise(model)
    header = Header(
        architecture=model.config,
        preprocessing=Preprocessing(image_size=SIDE, resize=SIDE, mean=(124, 116, 104), std=(58, 57, 57)),
        classes=classes,
        task=task,
    )
    write_model_file(path, model_file(model, header, golden_pictures(SIDE), torch.device("cpu")))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = {name: dict.fromkeys(CLASSES, count) for name, count in (("train", 12), ("val", 1), ("test", 5))}
    return write_dataset(tmp_path_factory.mktemp("data") / "pictures", splits, 24)


@pytest.fixture(scope="module")
def artefacts(model, data, tmp_path_factory):
    """One of each format, checked on data."""
    folder = tmp_path_factory.mktemp("artefacts")
    outs = {to: folder / f"model.{ending}" for to, ending in ENDINGS.items()}
    return {to: resnetv2.export(model, to=to, out=out, check=data) for to, out in outs.items()}


def test_an_archive_names_no_folder_of_this_machine(artefacts):
    with zipfile.ZipFile(artefacts["torch"].out) as archive:
        for name in archive.namelist():
            assert str(Path(resnetv2.__file__).parent).encode() not in archive.read(name), name


@pytest.mark.parametrize("to", ENDINGS)
def test_an_artefact_verifies_and_predicts_as_the_model_file(to, model, data, artefacts):
    exported = artefacts[to]
    assert exported.report["golden"]["n"] == 3
    assert exported.report["check"]["n"] == 15
    assert max(found["worst"] for found in exported.report.values()) <= 1e-5  # float32 sums in another order
    assert resnetv2.verify(exported.out).ok
    ours, theirs = (resnetv2.predict(path, [data / "test"], device="cpu") for path in (exported.out, model))
    assert [(answer.path, answer.label) for answer in ours] == [(answer.path, answer.label) for answer in theirs]
    # 1e-5 of the largest logit, which is about 10
    assert [a.probability for a in ours] == pytest.approx([a.probability for a in theirs], abs=1e-4)


@pytest.mark.parametrize("to", ENDINGS)
def test_info_of_an_artefact_is_the_model_files_and_what_was_measured(to, model, artefacts):
    found, header = resnetv2.info(artefacts[to].out), resnetv2.info(model)
    assert (found.pop("kind"), found.pop("precision"), found.pop("runtime")) == ("artefact", "float32", to)
    assert found.pop("report") == artefacts[to].report
    del found["path"], header["path"], header["kind"]
    assert found == header


@pytest.mark.parametrize("to", ENDINGS)
def test_an_artefact_evaluates_to_the_same_figures(to, model, data, artefacts):
    ours, theirs = (resnetv2.evaluate(path, data, device="cpu") for path in (artefacts[to].out, model))
    assert (ours["top1"], ours["confusion"]) == (theirs["top1"], theirs["confusion"])


@pytest.mark.parametrize(("task", "classes"), [("multilabel", CLASSES), ("regression", ("age",))])
def test_networks_of_every_task_are_exported_with_their_task(task, classes, tmp_path):
    model = write_network(tmp_path / "model.safetensors", task, classes)
    out = resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx").out
    assert resnetv2.verify(out).ok
    picture = tmp_path / "picture.png"
    picture.write_bytes(golden_pictures(SIDE)[0])
    ours, theirs = (resnetv2.predict(path, [picture], device="cpu")[0] for path in (out, model))
    assert (ours.labels, ours.label) == (theirs.labels, None)
    if task == "regression":
        assert ours.value == pytest.approx(theirs.value, rel=1e-4)  # the bound on export; there is no other logit


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_network_that_answers_otherwise_is_not_written(to, model, tmp_path, monkeypatch):
    def damaged(config, preprocessing, weights):
        return build_graph(config, preprocessing, {**weights, "head.fc.bias": weights["head.fc.bias"] + BIAS})

    monkeypatch.setattr(exporting, "build_graph", damaged)
    with pytest.raises(ModelFileError, match=r"nothing was written.*worst of 3 is golden sample \d: .* of the largest"):
        resnetv2.export(model, to=to, out=tmp_path / "new" / f"model.{ENDINGS[to]}")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_worst_picture_of_the_check_is_named(model, data, tmp_path, monkeypatch):
    file = read_model_file(model)
    promised = Golden(file.golden.pictures, file.golden.logits)

    def other_network(config, preprocessing, weights):  # right on the golden samples would need luck: these are few
        return build_graph(config, preprocessing, {**weights, "head.fc.bias": weights["head.fc.bias"] + BIAS})

    monkeypatch.setattr(exporting, "build_graph", other_network)
    monkeypatch.setattr(exporting.Classifier, "logits", lambda *_: promised.logits)
    with pytest.raises(ModelFileError, match=r"worst of 15 is .*test.*\.png"):
        resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx", check=data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ENDINGS)
def test_an_artefact_that_was_changed_is_refused(to, artefacts, tmp_path):
    source = artefacts[to].out
    copies = [tmp_path / source.name]
    copies[0].write_bytes(source.read_bytes())
    if to == "openvino":
        copies.append(copies[0].with_suffix(".bin"))
        copies[1].write_bytes(source.with_suffix(".bin").read_bytes())
    assert resnetv2.verify(copies[0]).ok
    whole = bytearray(copies[-1].read_bytes())
    whole[len(whole) // 2] ^= 1
    copies[-1].write_bytes(whole)
    with pytest.raises(ModelFileError, match=r"was changed after it was written|no readable|damaged"):
        resnetv2.verify(copies[0])


@pytest.mark.parametrize("to", ENDINGS)
def test_a_file_that_only_looks_like_an_artefact_is_refused(to, tmp_path):
    path = tmp_path / f"model.{ENDINGS[to]}"
    with pytest.raises(ModelFileError, match="no such file"):
        resnetv2.verify(path)
    path.write_bytes(b"no network")
    with pytest.raises(ModelFileError, match=str(path)):
        resnetv2.verify(path)


def test_an_artefact_of_a_newer_version_says_to_upgrade(artefacts, tmp_path):
    text = artefacts["openvino"].out.read_text()
    newer = tmp_path / "model.xml"
    newer.write_text(text.replace("schema_version&quot;: 2,", "schema_version&quot;: 9,"))
    newer.with_suffix(".bin").write_bytes(artefacts["openvino"].out.with_suffix(".bin").read_bytes())
    with pytest.raises(ModelFileError, match=r"schema version 9 .*pip install --upgrade resnetv2"):
        resnetv2.load(newer)


KEPT = sorted(path for path in (Path(__file__).parent / "golden" / "artefacts").glob("*") if path.suffix != ".bin")


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_artefacts_of_every_version_and_kind_stay_loadable(path, tmp_path):
    assert resnetv2.verify(path).ok
    picture = tmp_path / "picture.png"
    picture.write_bytes(golden_pictures(SIDE)[0])
    assert resnetv2.predict(path, [picture], device="cpu")[0].label in CLASSES


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "DEFAULT"])
def test_int8_gives_the_same_logits_whatever_the_processor_can_do(instructions):
    """Older instructions add products in 16 bits: weights of all 8 bits would give other logits there."""
    kept = next(str(path) for path in KEPT if path.name.endswith("int8.xml"))
    code = "import sys, resnetv2; print(resnetv2.verify(sys.argv[1]).worst)"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    words = [sys.executable, "-c", code, kept]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) <= 1e-3  # roundings of the float32 layers may move a value to the next of 256 steps


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["sample_inputs", "constants", "another member", "a name twice"])
def test_an_archive_that_would_run_code_is_refused_unread(place, artefacts, tmp_path):
    path, sign = tmp_path / "evil.pt2", tmp_path / "it ran"
    buffer = io.BytesIO()
    torch.save((Evil(sign),), buffer)
    with zipfile.ZipFile(artefacts["torch"].out) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            if place == "sample_inputs" and name.endswith("sample_inputs/model.pt"):
                data = buffer.getvalue()
            if place == "constants" and name.endswith("constants_config.json"):
                config = json.loads(data)
                next(iter(config["config"].values()))["path_name"] = "opaque_obj_0"
                data = json.dumps(config).encode()
            archive.writestr(name, data)
        folder = name.partition("/")[0]
        if place == "another member":
            archive.writestr(f"{folder}/data/weights/model.pt", buffer.getvalue())
        if place == "a name twice":
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(f"{folder}/data/sample_inputs/model.pt", buffer.getvalue())
    with pytest.raises(ModelFileError, match=r"could run any code|which no export writes"):
        ExportedSession(path, "cpu")
    assert not sign.exists()


def test_one_artefact_of_each_kind_and_version_is_kept():
    kinds = {(path.name[:7], path.suffix, resnetv2.info(path)["precision"]) for path in KEPT}
    each = [*((f".{ending}", "float32") for ending in ENDINGS.values()), (".onnx", "int8"), (".xml", "int8")]
    assert kinds == {(f"schema{version}", *kind) for version in range(1, SCHEMA_VERSION + 1) for kind in each}


def test_an_artefact_has_the_one_runtime_it_was_proved_in(artefacts):
    with pytest.raises(ConfigError, match="was exported for the runtime 'onnx', got 'torch'"):
        resnetv2.load(artefacts["onnx"].out, runtime="torch")
    with pytest.raises(ConfigError, match="device must be auto or cpu, got 'cuda'"):
        resnetv2.load(artefacts["openvino"].out, device="cuda")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "tensorrt"}, ConfigError, "unknown format 'tensorrt'.*transformers"),
        ({"out": "model.bin"}, ConfigError, r"ends in \.onnx, got model\.bin"),
        ({"calibrate": "pictures"}, ConfigError, "calibrate is for int8"),
        ({"min_agreement": 99}, ConfigError, "min_agreement is a share from 0 to 1"),
        ({"int8": True}, ConfigError, "int8 needs pictures to calibrate with"),
        ({"to": "torch", "out": "model.pt2", "int8": True}, ConfigError, "int8 is for onnx and openvino"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, error, message, model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        resnetv2.export(model, **{"to": "onnx", "out": "model.onnx", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_timm_is_what_save_pretrained_writes_and_is_read_back_first(model, tmp_path, monkeypatch):
    done = command("export", model, "--to", "timm", "--out", tmp_path / "folder")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, str(tmp_path / "folder")), done.stderr
    assert "golden: 3 pictures, the same labels, worst logit" in done.stdout
    resnetv2.save_pretrained(model, tmp_path / "other")
    ours, theirs = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("folder", "other"))
    assert ours == theirs
    with pytest.raises(ConfigError, match="a folder for timm holds the weights as they are"):
        resnetv2.export(model, to="timm", out=tmp_path / "new", int8=True)
    with pytest.raises(ConvertError, match="has no such network"):
        resnetv2.export(model, to="transformers", out=tmp_path / "new")
    with pytest.raises(Error, match="exists and is not an empty folder"):
        resnetv2.export(model, to="timm", out=tmp_path / "folder")
    monkeypatch.setattr(exporting, "from_pretrained", lambda *_, **__: resnetv2.load(model, device="cpu"))
    monkeypatch.setattr(exporting.Classifier, "logits", lambda self, pictures: np.roll(GOLDEN(self, pictures), 1, 1))
    with pytest.raises(ModelFileError, match=r"nothing was written.*golden sample"):
        resnetv2.export(model, to="timm", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_for_timm_in_place_of_a_model_file_names_what_loads_it(model, tmp_path):
    folder = resnetv2.save_pretrained(model, tmp_path / "folder")
    for ask in (resnetv2.info, resnetv2.verify, resnetv2.load):
        with pytest.raises(
            ModelFileError, match=r"folder for timm or transformers: load it by resnetv2\.from_pretrained"
        ):
            ask(folder)


def test_a_classifier_that_is_given_a_folder_says_that_it_takes_files(model, data):
    (answer,) = resnetv2.load(model, device="cpu").predict([data])
    assert answer.error == "a folder, and a picture file is expected here"


def test_what_exists_is_not_overwritten_and_an_artefact_is_no_source(model, artefacts, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(Error, match=r"model\.bin exists"):
        resnetv2.export(model, to="openvino", out=tmp_path / "model.xml")
    with pytest.raises(ConfigError, match="is an artefact already"):
        resnetv2.export(artefacts["onnx"].out, to="openvino", out=tmp_path / "other.xml")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_says_what_it_costs_and_is_refused_beyond_the_bounds(to, model, data, tmp_path):
    pytest.importorskip("nncf")
    options = {"to": to, "int8": True, "calibrate": data, "check": data, "min_agreement": 0.0}
    out = tmp_path / f"model.{ENDINGS[to]}"
    with pytest.raises(ModelFileError, match=r"nothing was written: on 15 pictures of int8, its top-1 is"):
        resnetv2.export(model, out=out, **options, max_drop=-1.0)
    assert list(tmp_path.iterdir()) == []
    report = resnetv2.export(model, out=out, **options, max_drop=1.0).report
    assert report["n"] == 15
    assert 0 <= report["agreement"] <= 1
    assert report["bytes"]["int8"] < 0.5 * report["bytes"]["float32"]
    assert resnetv2.info(out)["precision"] == "int8"
    assert resnetv2.verify(out).worst <= 1e-5  # of its own answers, on the same machine


def test_int8_needs_enough_pictures_of_the_models_classes(model, data, tmp_path):
    few = write_dataset(tmp_path / "few", {"train": dict.fromkeys(CLASSES, 2), "val": dict.fromkeys(CLASSES, 1)}, 24)
    others = write_dataset(tmp_path / "others", {"train": {"violet": 40}, "val": {"violet": 1}}, 24)
    strangers = r"(?s)'violet'; the model knows 'blue', 'green', 'red'; the data has 'violet'.*labels are not needed"
    for calibrate, message in ((few, "has 6 training pictures; to calibrate, 32 are the least"), (others, strangers)):
        with pytest.raises(DataError, match=message):
            resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx", int8=True, calibrate=calibrate, check=data)


def test_int8_is_not_checked_on_the_split_that_calibrates_it(model, data, tmp_path):
    options = {"to": "onnx", "out": tmp_path / "x.onnx", "int8": True, "calibrate": data, "check": data}
    with pytest.raises(ConfigError, match="take another --split"):
        resnetv2.export(model, **options, split="train")
    assert list(tmp_path.iterdir()) == []


def write_unlabelled(folder, count):
    """Write noise as folder/<number>.png."""
    for number in range(count):
        write_picture(folder / f"{number}.png", noise(24, 24, number))
    return folder


def test_int8_by_onnx_has_no_float_norms_and_keeps_channels_without_a_weight(model, tmp_path):
    """A norm at a unit's entry is a convolution there, and a weight of nearly 0 leaves its bias whole."""
    onnx = pytest.importorskip("onnx")
    file = read_model_file(model)
    file.weights["stages.1.blocks.0.norm1.weight"][:3] = 0, 1e-12, -1e-6
    file.weights["stages.1.blocks.0.norm1.bias"][:3] = 3
    network = build_model(file.header.architecture, file.weights)
    dead = tmp_path / "dead.safetensors"
    write_model_file(dead, model_file(network, file.header, golden_pictures(SIDE), torch.device("cpu")))
    options = {"int8": True, "calibrate": write_unlabelled(tmp_path / "noise", 64), "min_agreement": 0.0}
    out = resnetv2.export(dead, to="onnx", out=tmp_path / "dead.onnx", **options).out
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert "BatchNormalization" not in kinds
    pictures = np.stack([noise(SIDE, SIDE, seed) for seed in range(32)])
    float32, int8 = (Classifier.load(path, "cpu").session for path in (dead, out))
    expected, found = float32(pictures), int8(pictures)
    # 8 bits cost such a network 0.1 with a norm in float32, too; without the three biases it would be 1.0
    assert np.abs(found - expected).max() <= 0.25 * np.abs(expected).max()
    for layer in ("stage1", "stage4", "pooled"):
        expected, found = float32.features(pictures, layer), int8.features(pictures, layer)
        assert np.abs(found - expected).max() <= 0.25 * np.abs(expected).max()
        assert (found.min() >= 0) == (expected.min() >= 0), layer  # a map after its ReLU is one in 8 bits, too


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_calibrates_without_labels_and_then_half_of_the_pictures_check_it(to, model, tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    pictures = write_unlabelled(tmp_path / "pictures", 65)
    out = tmp_path / f"model.{ENDINGS[to]}"
    words = ("--to", to, "--out", out, "--int8", "--calibrate", pictures, "--min-agreement", 0)
    done = command("export", model, *words)
    assert done.returncode == 0, done.stderr
    assert "of 32 pictures" in done.stdout
    assert "top-1" not in done.stdout
    assert set(resnetv2.info(out)["report"]) == {"n", "agreement", "pictures_per_second", "bytes"}
    assert resnetv2.verify(out).worst <= 1e-5  # of its own answers, on the same machine

    def other_network(config, preprocessing, weights):
        return build_graph(config, preprocessing, {**weights, "head.fc.weight": -weights["head.fc.weight"]})

    monkeypatch.setattr(exporting, "build_graph", other_network)
    options = {"to": to, "out": tmp_path / f"other.{ENDINGS[to]}", "int8": True, "calibrate": pictures}
    with pytest.raises(ConfigError, match=r"checked on pictures that it is calibrated with.* leave --check out"):
        resnetv2.export(model, **options, check=pictures / ".." / pictures.name)
    with pytest.raises(
        ModelFileError, match=r"nothing was written: on 32 pictures of int8, it gives .* of the answers"
    ):
        resnetv2.export(model, **options, min_agreement=1)
    assert len(list(tmp_path.iterdir())) == (3 if to == "openvino" else 2)


def test_a_list_without_labels_calibrates_as_its_folder_does(model, data, tmp_path):
    pictures = write_unlabelled(tmp_path / "pictures", 40)
    lines = ["image_path", *(f"pictures/{number}.png" for number in sorted(range(40), key=str))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    options = {"to": "onnx", "int8": True, "check": data, "min_agreement": 0, "max_drop": 1}
    report = resnetv2.export(model, out=tmp_path / "a.onnx", calibrate=tmp_path / "list.csv", **options).report
    assert report["n"] == 15
    other = resnetv2.export(model, out=tmp_path / "b.onnx", calibrate=pictures, **options).report
    assert (report["agreement"], report["top1"]) == (other["agreement"], other["top1"])


def test_pictures_without_labels_are_a_check_of_float32_too(model, tmp_path):
    pictures = write_unlabelled(tmp_path / "pictures", 5)
    report = resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx", check=pictures).report
    assert report["check"]["n"] == 5


def test_too_few_or_unreadable_pictures_do_not_calibrate(model, data, tmp_path):
    pictures = write_unlabelled(tmp_path / "pictures", 40)
    options = {"to": "onnx", "out": tmp_path / "model.onnx", "int8": True, "calibrate": pictures}
    with pytest.raises(DataError, match="has 40 pictures; to calibrate, 64 are the least, half of them to check"):
        resnetv2.export(model, **options)
    (pictures / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png"):
        resnetv2.export(model, **options, check=data)
    (tmp_path / "list.csv").write_text("image_path\n")
    for option in ({"check": tmp_path / "list.csv"}, {"int8": True, "calibrate": tmp_path / "list.csv"}):
        with pytest.raises(DataError, match=r"list\.csv lists no pictures"):
            resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx", **option)
    (tmp_path / "list.csv").write_text("image_path\npictures/absent.png")
    with pytest.raises(DataError, match=r"no file .*absent\.png"):
        resnetv2.export(model, **{**options, "calibrate": tmp_path / "list.csv"}, check=data)
    assert not (tmp_path / "model.onnx").exists()


def test_an_artefact_is_not_written_among_the_pictures_that_check_it(model, data, tmp_path):
    for option in ({"check": data}, {"int8": True, "calibrate": data}):
        with pytest.raises(ConfigError, match="which is only read"):
            resnetv2.export(model, to="onnx", out=data / "model.onnx", **option)
    assert not (data / "model.onnx").exists()


@pytest.mark.parametrize("to", ENDINGS)
def test_a_disk_too_small_for_the_weights_is_told_before_anything_is_written(to, model, small_disk):
    done = command("export", model, "--to", to, "--out", small_disk / f"model.{ENDINGS[to]}")
    assert done.returncode == 2
    assert re.fullmatch(
        r"resnetv2 export: error: the disk of .*small is too full: [\d.]+ MB are needed, and 0\.5 MB are free\n",
        done.stderr,
    )
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("to", [*ENDINGS, "timm"])
def test_a_disk_that_becomes_full_is_one_error_and_leaves_nothing(to, model, small_disk, monkeypatch):
    monkeypatch.setattr(exporting, "require_space", lambda *_: None, raising=False)  # others fill it meanwhile
    with pytest.raises(Error, match=r"^cannot write .*small/\.?model"):
        resnetv2.export(model, to=to, out=small_disk / f"model.{ENDINGS.get(to, 'timm')}")
    assert list(small_disk.iterdir()) == []


def test_int8_is_for_networks_that_give_one_label(data, tmp_path):
    model = write_network(tmp_path / "model.safetensors", "multilabel")
    with pytest.raises(ConfigError, match="int8 is checked by its labels"):
        resnetv2.export(model, to="onnx", out=tmp_path / "model.onnx", int8=True, calibrate=data, check=data)


def test_the_command_prints_the_file_and_what_was_measured(model, data, tmp_path):
    done = command("export", model, "--to", "onnx", "--out", tmp_path / "a.onnx", "--check", data)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, str(tmp_path / "a.onnx")), done.stderr
    assert "check: 15 pictures, the same labels, worst logit" in done.stdout
    done = command("export", model, "--to", "onnx", "--out", tmp_path / "b.onnx", "--json")
    report = json.loads(done.stdout)
    assert (report["to"], report["report"]["golden"]["n"]) == ("onnx", 3)
    done = command("export", model, "--to", "onnx", "--out", tmp_path / "b.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert "exists: choose another --out" in done.stderr


def test_without_torch_everything_but_training_gives_the_same_answers(model, data, artefacts, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here')")
    blocked = {"PYTHONPATH": f"{tmp_path}:{resnetv2.__path__[0]}/.."}
    expected = resnetv2.predict(model, [data / "test" / "red"], device="cpu", runtime="torch")
    for path in (model, artefacts["onnx"].out, artefacts["openvino"].out):
        assert command("verify", path, **blocked).returncode == 0
        done = command("predict", path, data / "test" / "red", "--json", **blocked)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert [answer["label"] for answer in answers] == [answer.label for answer in expected], done.stderr
        assert np.allclose(
            [a["probability"] for a in answers], [a.probability for a in expected], atol=1e-4
        )  # as above
        done = command("evaluate", path, data, "--json", **blocked)
        assert json.loads(done.stdout)["n"] == 15, done.stderr
    done = command("predict", model, data / "test", "--runtime", "torch", **blocked)
    assert (done.returncode, "pip install" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    done = command("verify", artefacts["torch"].out, **blocked)
    assert (done.returncode, "pip install" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
