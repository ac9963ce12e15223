"""Networks written for the ONNX Model Zoo, and what MXNet's exporter made of Gluon's own."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import randomise

from resnetv2.config import architecture
from resnetv2.conversion import read_checkpoint, write_checkpoint, zoo
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import their_shape, write
from resnetv2.errors import ConvertError, MissingExtra
from resnetv2.model import ResNetV2
from resnetv2.shapes import tensor_shapes

sys.path.insert(0, str(Path(__file__).parent / "publishers"))
from values import CLASSES, pictures, value_of

GOLDEN = Path(__file__).parent / "golden"
FLOAT32 = 1e-5  # of the largest logit: 50 layers of float32 sums in another order make 1e-6 of it


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="the convert extra is not installed")


def answer(model, x):
    """Return what ONNX Runtime answers."""
    runtime = pytest.importorskip("onnxruntime", reason="the dev extra is not installed")
    return runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"data": x})[0]


def difference(got, expected):
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def network(**changes):
    """Return a small network, its config and its weights."""
    fields = {"depths": (2, 1, 2, 1), "width_factor": 0.25, "num_classes": 5, **changes}
    config = architecture("resnet50v2", "gluon", **fields)
    model = randomise(ResNetV2(config)).eval()
    with torch.no_grad():
        model.input_norm.weight.fill_(1)
    shapes = tensor_shapes(config)
    return model, config, {n: t.numpy() for n, t in model.state_dict().items() if n in shapes}


@pytest.mark.parametrize("changes", [{}, {"block": "basic"}, {"in_chans": 1}])
def test_a_written_network_is_accepted_by_onnx_answers_the_same_and_is_read_back_byte_by_byte(onnx, changes, tmp_path):
    model, config, weights = network(**changes)
    path = tmp_path / "x.onnx"
    write_checkpoint(path, config, weights, "onnx-zoo")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x = pictures(224)[:, : config.in_chans]
    with torch.inference_mode():
        assert difference(answer(path, x), model(torch.from_numpy(x)).numpy()) <= FLOAT32
    again = read_checkpoint(path)
    assert again.config == config
    assert {n: v.tobytes() for n, v in again.weights.items()} == {n: v.tobytes() for n, v in weights.items()}
    assert again.provenance["left_out"] == ["reshape_attr_tensor0"]


@pytest.mark.parametrize(
    ("name", "prefix", "size"),
    [
        ("resnet18v2", "resnetv22_", 46_806_737),
        ("resnet34v2", "resnetv23_", 87_288_587),
        ("resnet50v2", "resnetv24_", 102_442_452),
    ],
)
def test_a_written_network_has_the_zoos_names_and_the_length_of_the_zoos_file(onnx, name, prefix, size, tmp_path):
    config = architecture(name, "gluon")
    weights = {n: np.ones(s, np.float32) for n, s in tensor_shapes(config).items()}
    path = tmp_path / "x.onnx"
    write_checkpoint(path, config, weights, "onnx-zoo")
    model = onnx.load(path)
    assert (model.ir_version, [o.version for o in model.opset_import]) == (3, [7])
    assert [value.name for value in model.graph.output] == [f"{prefix}dense0_fwd"]
    assert [value.name for value in model.graph.input][:2] == ["data", f"{prefix}batchnorm0_gamma"]
    # The name of the graph and the number in "reshape_attr_tensor" are not the zoo's; one node or attribute too many or
    # too few would be more than this.
    assert abs(path.stat().st_size - size) <= 8


def test_other_depths_are_numbered_as_the_first_network_of_a_process(onnx, tmp_path):
    _, config, weights = network()
    write_checkpoint(tmp_path / "x.onnx", config, weights, "onnx-zoo")
    assert onnx.load(tmp_path / "x.onnx").graph.output[0].name == "resnetv20_dense0_fwd"


def filled(onnx, values):
    """Return MXNet's export with numbers in its initializers."""
    model = onnx.load(GOLDEN / "gluon.onnx")
    for tensor in model.graph.initializer:
        value = values[tensor.name.removeprefix("resnetv24_")]
        assert value.shape == tuple(tensor.dims)
        tensor.raw_data = value.tobytes()
    return model


def test_mxnets_own_export_is_read_whole_and_answers_as_gluon_did(onnx, tmp_path):
    config = architecture("resnet50v2", "gluon", num_classes=CLASSES)
    shapes = tensor_shapes(config)
    rules = {rule.ours: rule for rule in PUBLISHERS["gluon"].rules(config)}
    stored = {ours: value_of(rule.theirs, their_shape(rule, shapes[ours])) for ours, rule in rules.items()}
    stored["input_norm.weight"][:] = 1  # MXNet's exporter writes the scale that it uses
    values = write(stored, PUBLISHERS["onnx-zoo"].rules(config), config)
    model = filled(onnx, values)
    onnx.save(model, tmp_path / "x.onnx")
    expected = np.load(GOLDEN / "gluon.npz")["logits.224"]
    assert difference(answer(tmp_path / "x.onnx", pictures(224)), expected) <= FLOAT32
    checkpoint = read_checkpoint(tmp_path / "x.onnx")
    assert (checkpoint.config, checkpoint.provenance["source"]) == (config, "onnx-zoo")
    for name, value in stored.items():
        np.testing.assert_array_equal(checkpoint.weights[name], value)


def test_the_nodes_are_those_of_mxnets_exporter_up_to_the_pooled_features(onnx):
    newer = {"spatial", "ceil_mode"}  # the first is gone from today's opsets, the second came with them

    def node_of(node):
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name not in newer}
        inputs = [name.removeprefix("resnetv24_") for name in node.input]
        near = {name: pytest.approx(value, rel=1e-6) for name, value in values.items()}  # stored as float32
        return node.op_type, node.output[0].removeprefix("resnetv24_"), inputs, near

    theirs = [node_of(node) for node in onnx.load(GOLDEN / "gluon.onnx").graph.node][:-3]  # Flatten, Flatten, Gemm
    ours = zoo.graph_nodes(architecture("resnet50v2", "gluon"))[:-2]  # Reshape, Gemm
    kept = [{name: value for name, value in node.attributes.items() if name not in newer} for node in ours]
    assert [(n.op, n.name, list(n.inputs), values) for n, values in zip(ours, kept, strict=True)] == theirs


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_classes": 0}, "its networks have a 7x7 stem and classes"),
        ({"stem": "3x3"}, "its networks have a 7x7 stem and classes"),
        ({"norm_eps": 2e-5}, "norm_eps is 2e-05 instead of 1e-05"),
        ({"stride_conv": "conv1"}, "stride_conv is 'conv1' instead of 'conv2'"),
    ],
)
def test_a_network_that_the_zoo_does_not_have_is_not_written(onnx, changes, text, tmp_path):
    _, config, weights = network(**changes)
    with pytest.raises(ConvertError, match=text):
        write_checkpoint(tmp_path / "x.onnx", config, weights, "onnx-zoo")
    assert list(tmp_path.iterdir()) == []


def test_other_numbers_than_float32_and_too_many_of_them_are_told_at_once(onnx, tmp_path, monkeypatch):
    _, config, weights = network()
    weights["head.fc.bias"] = weights["head.fc.bias"].astype(np.float64)
    monkeypatch.setattr(zoo, "_MAX_BYTES", 1000)
    with pytest.raises(ConvertError, match=r"unlike dense0_bias; an ONNX file holds less than 2 GiB"):
        write_checkpoint(tmp_path / "x.onnx", config, weights, "onnx-zoo")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_one_line_says_what_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    _, config, weights = network()
    with pytest.raises(MissingExtra, match=r"resnetv2\[convert\]"):
        write_checkpoint(tmp_path / "x.onnx", config, weights, "onnx-zoo")
