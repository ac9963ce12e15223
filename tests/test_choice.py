"""Which runtime "auto" stands for, and what forcing one means."""

import json
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from test_exporting import CLASSES, SIDE, write_network

import resnetv2
from resnetv2.errors import ConfigError, MissingExtra
from resnetv2.runtime import choice, openvino
from resnetv2.runtime.choice import MANY, choose_runtime, measure, open_session
from resnetv2.weights.modelfile import read_model_file


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return read_model_file(write_network(tmp_path_factory.mktemp("model") / "model.safetensors"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_has_accelerator", lambda: False)  # what follows is about the processor
    return tmp_path / "cache"


def installed(monkeypatch, *names):
    monkeypatch.setattr(choice, "_is_installed", lambda runtime: runtime in names)


@pytest.mark.parametrize("runtime", ["openvino", "onnx", "torch"])
def test_each_runtime_can_be_forced_and_gives_the_same_logits_and_features(runtime, file):
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    session, peer = open_session(file, runtime), open_session(file, "torch", "cpu")
    assert session.runtime == runtime
    for ours, theirs in ((session(pictures), peer(pictures)), (session.features(pictures), peer.features(pictures))):
        assert ours.dtype == np.float32
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()  # float32 sums in another order
    assert session(pictures).shape == (3, len(CLASSES))


def test_a_runtime_that_does_not_run_is_told_and_another_answers(file, cache, monkeypatch, capfd):
    def pretend(_file, runtime):
        if runtime == "openvino":
            raise ImportError("libopenvino.so: no such file")
        return {"onnx": 2.0, "torch": 1.0}[runtime]

    monkeypatch.setattr(choice, "measure", pretend)
    assert choose_runtime(file, count=MANY) == "onnx"
    assert "warning: openvino does not run here: libopenvino.so: no such file" in capfd.readouterr().err
    assert choose_runtime(file) == "onnx"


def test_a_runtime_that_came_in_a_package_of_another_name_has_its_version(file, cache, monkeypatch):
    def unknown(name):
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(choice, "version", unknown)
    monkeypatch.setattr(choice, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    assert choice._version("onnxruntime") == "onnxruntime-gpu 1.0"
    assert choose_runtime(file) == "openvino"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("openvino", "onnx", "torch"), "openvino"),
        (("onnx", "torch"), "onnx"),
        (("onnx",), "onnx"),
        ((), "torch"),  # whose message says how to install it
    ],
)
def test_without_a_measurement_the_order_decides(names, expected, file, cache, monkeypatch):
    installed(monkeypatch, *names)
    assert choose_runtime(file) == expected


def test_many_pictures_are_worth_a_measurement_which_is_then_remembered(file, cache, monkeypatch, capfd):
    rates = {"openvino": 20.0, "onnx": 31.5, "torch": 11.0}
    asked = []

    def pretend(_file, runtime):
        asked.append(runtime)
        return rates[runtime]

    monkeypatch.setattr(choice, "measure", pretend)
    assert choose_runtime(file, count=MANY - 1) == "openvino"
    assert asked == []
    assert choose_runtime(file, count=MANY) == "onnx"
    assert sorted(asked) == sorted(rates)
    monkeypatch.setenv("COLUMNS", "40")  # a file takes whole lines, however narrow the terminal is
    assert choose_runtime(file, count=1) == choose_runtime(file, count=MANY) == "onnx"
    assert len(asked) == 3
    assert "runtime: onnx (pictures a second here: openvino 20.0, onnx 31.5, torch 11.0)" in capfd.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"openvino": "fast"}', b'{"tensorrt": 9.0}'])
def test_a_damaged_measurement_counts_as_none(damage, file, cache, monkeypatch):
    monkeypatch.setattr(choice, "measure", lambda _file, runtime: float(runtime == "torch"))
    assert choose_runtime(file, count=MANY) == "torch"
    (kept,) = (cache / "speeds").iterdir()
    assert json.loads(kept.read_text())["torch"] == 1.0
    kept.write_bytes(damage)
    assert choose_runtime(file) == "openvino"


def test_a_measurement_is_of_one_network_and_size(file, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "measure", lambda _file, runtime: float(runtime == "torch"))
    choose_runtime(file, count=MANY)
    other = read_model_file(write_network(tmp_path / "other.safetensors", classes=("one",)))
    assert choose_runtime(other) == "torch"  # another head is the same work
    wide = resnetv2.create_model("resnet18v2", num_classes=1, width_factor=0.5)
    header = choice.replace(other.header, architecture=wide.config)
    assert choose_runtime(choice.replace(other, header=header)) == "openvino"


def test_a_cache_that_cannot_be_written_only_costs_the_measurement_again(file, cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(choice, "measure", lambda _file, runtime: float(runtime == "onnx"))
    assert choose_runtime(file, count=MANY) == "onnx"


def test_measuring_answers_pictures(file):
    assert 0 < measure(file, "onnx") < float("inf")


def test_a_graphics_processor_is_for_pytorch(file, cache, monkeypatch):
    assert choose_runtime(file, "cuda") == "torch"
    monkeypatch.setattr(choice, "_has_accelerator", lambda: True)
    assert choose_runtime(file) == "torch"
    assert choose_runtime(file, "cpu") == "openvino"


@pytest.mark.parametrize(
    ("runtime", "device", "message"),
    [
        ("tensorrt", "auto", "unknown runtime 'tensorrt'"),
        ("openvino", "cuda", "computes on the processor"),
        ("torch", "cuda:9", "cannot be used here"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(runtime, device, message, file):
    if torch.cuda.device_count() > 9:
        pytest.skip("it has a tenth graphics processor")
    with pytest.raises(ConfigError, match=message):
        open_session(file, runtime, device)


@pytest.mark.parametrize(("runtime", "package"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_a_runtime_that_is_missing_comes_with_one_pip_line(runtime, package, file, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what an import of it then finds
    monkeypatch.setattr(openvino, "openvino_core", openvino.openvino_core.__wrapped__)  # as if none had been made yet
    with pytest.raises(MissingExtra, match="pip install"):
        open_session(file, runtime)
