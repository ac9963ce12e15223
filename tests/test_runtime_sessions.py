"""Every runtime answers as PyTorch does; the graph is right for every network the config can say."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from peers import randomise
from test_model import FLOAT32, GRAPHS, small

from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.graph import build_graph, map_names
from resnetv2.runtime.onnx import OnnxSession
from resnetv2.runtime.onnxmodel import encode_onnx, encode_texts, read_texts
from resnetv2.runtime.openvino import OpenVinoSession
from resnetv2.runtime.pytorch import TorchSession, weights_of

SESSIONS = {"onnx": OnnxSession, "openvino": OpenVinoSession}
PIXELS = {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}


def pictures(count, side):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def network(graph, side, **changes):
    """Return a random network in eval mode, its preprocessing, and its ONNX model."""
    model = small(graph, **changes)
    randomise(model)
    preprocessing = Preprocessing(image_size=side, resize=side, **PIXELS)
    weights = {name: value.detach().numpy() for name, value in weights_of(model).items()}
    return model.eval(), preprocessing, encode_onnx(build_graph(model.config, preprocessing, weights))


def answers(model, preprocessing, x):
    """Return logits and maps, computed by PyTorch in float64."""
    session = TorchSession(model, preprocessing, torch.device("cpu"))
    with torch.inference_mode():
        maps = model.double().forward_maps(session.normalize(torch.from_numpy(x)).double())
        return model.forward_head(maps[-1]).numpy(), [m.numpy() for m in maps]


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("side", [64, 75])  # odd maps meet every border and every rounding of a stride
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_network_gives_the_logits_and_maps_of_pytorch(graph, side):
    model, preprocessing, onnx_model = network(graph, side)
    x = pictures(2, side)
    logits, maps = answers(model, preprocessing, x)
    # Folding rounds every weight once more, and sums are taken in another order: as FLOAT32 says of two evaluations.
    for open_session in SESSIONS.values():
        session = open_session(onnx_model, model.config)
        assert difference(session(x), logits) <= FLOAT32
        name = map_names(model.config)[2]
        assert difference(session.features(x, name), maps[2]) <= FLOAT32


@pytest.mark.parametrize("runtime", SESSIONS)
def test_every_layer_is_a_map_or_the_pooled_features(runtime):
    model, preprocessing, onnx_model = network("torch", 64)
    session, peer = SESSIONS[runtime](onnx_model, model.config), TorchSession(model, preprocessing, torch.device("cpu"))
    x = pictures(2, 64)
    for layer in ("pooled", "stage1", "stage2", "stage3", "stage4"):
        assert difference(session.features(x, layer), peer.features(x, layer)) <= FLOAT32  # as above
    for each in (session, peer):
        logits, features = each.with_features(x)
        np.testing.assert_array_equal(features, each.features(x))
        assert difference(logits, each(x)) <= FLOAT32  # a head after the pooling instead of within the same call
        with pytest.raises(ConfigError, match="no layer 'stage5' here: choose from pooled, stage1"):
            each.features(x, "stage5")


@pytest.mark.parametrize("runtime", SESSIONS)
def test_a_network_without_a_head_answers_with_its_features(runtime):
    model, preprocessing, onnx_model = network("torch", 64, num_classes=0)
    x = pictures(1, 64)
    assert difference(SESSIONS[runtime](onnx_model, model.config)(x), answers(model, preprocessing, x)[0]) <= FLOAT32


@pytest.mark.parametrize("runtime", SESSIONS)
def test_a_picture_gets_the_same_answer_in_any_batch(runtime):
    model, _, onnx_model = network("torch", 64)
    session, x = SESSIONS[runtime](onnx_model, model.config), pictures(5, 64)
    together = session(x)
    alone = np.concatenate([session(picture[None]) for picture in x])
    assert difference(alone, together) <= FLOAT32  # the order of float32 sums may differ with the batch
    assert np.array_equal(session(x), together)


@pytest.mark.parametrize("runtime", ["torch", *SESSIONS])
def test_weights_that_are_not_finite_are_told(runtime):
    model, preprocessing, _ = network("torch", 64)
    with torch.no_grad():
        model.head.fc.bias[0] = torch.nan
    weights = {name: value.detach().numpy() for name, value in weights_of(model).items()}
    if runtime == "torch":
        session = TorchSession(model, preprocessing, torch.device("cpu"))
    else:
        session = SESSIONS[runtime](encode_onnx(build_graph(model.config, preprocessing, weights)), model.config)
    with pytest.raises(ModelFileError, match="NaN or infinity"):
        session(pictures(1, 64))


@pytest.mark.parametrize("runtime", SESSIONS)
def test_a_damaged_model_is_refused_by_name_of_the_runtime(runtime):
    model, _, onnx_model = network("torch", 64)
    with pytest.raises(ModelFileError, match="refuses the model"):
        SESSIONS[runtime](onnx_model[: len(onnx_model) // 2], model.config)


def test_the_onnx_package_finds_the_model_whole_and_its_types_and_shapes_right():
    _, _, onnx_model = network("deep", 75)
    read = onnx.load_from_string(onnx_model + encode_texts({"resnetv2": "é"}))
    onnx.checker.check_model(read, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(read, strict_mode=True)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.output}
    assert shapes == {"logits": ["N", 5], "features": ["N", 1024]}
    assert {entry.key: entry.value for entry in read.metadata_props} == {"resnetv2": "é"}
    assert read_texts(memoryview(read.SerializeToString())) == {"resnetv2": "é"}


def test_batch_norms_that_follow_a_convolution_are_folded_and_those_at_the_entry_stay():
    model, preprocessing, _ = network("gluon", 64)
    weights = {name: value.detach().numpy() for name, value in weights_of(model).items()}
    graph = build_graph(model.config, preprocessing, weights)
    left = {node.name for node in graph.nodes if node.op == "BatchNormalization"}
    entries = {f"stages.{unit.stage}.blocks.{unit.number}.norm1" for unit in model.config.units()}
    assert left == entries | {"norm"}


@pytest.mark.parametrize("runtime", SESSIONS)
def test_too_little_memory_is_a_memory_error_in_every_runtime(runtime, tmp_path):
    model, _, onnx_model = network("torch", 64)
    (tmp_path / "model.onnx").write_bytes(onnx_model)
    config = model.config.to_dict()
    code = f"""
import resource, sys
import numpy as np
from resnetv2.config import ResNetV2Config
from resnetv2.runtime.{runtime} import {SESSIONS[runtime].__name__} as Session
session = Session(open({str(tmp_path / "model.onnx")!r}, "rb").read(), ResNetV2Config.from_dict({config!r}))
session(np.zeros((2, 64, 64, 3), np.uint8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
try:
    session(np.zeros((4096, 64, 64, 3), np.uint8))
except MemoryError:
    print("MemoryError")
"""
    if sys.platform != "linux" or runtime == "openvino":
        pytest.skip("memory is limited by Linux's means; OpenVINO takes one picture after the other, in memory it has")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout == "MemoryError\n", done.stderr


def test_signals_find_their_way_after_a_session_was_freed_by_another_thread(tmp_path):
    model, _, onnx_model = network("torch", 64)
    (tmp_path / "model.onnx").write_bytes(onnx_model)
    code = f"""
import gc, os, signal, threading
import numpy as np
from resnetv2.config import ResNetV2Config
from resnetv2.runtime.openvino import OpenVinoSession
session = OpenVinoSession(open({str(tmp_path / "model.onnx")!r}, "rb").read(),
                          ResNetV2Config.from_dict({model.config.to_dict()!r}))
session(np.zeros((2, 64, 64, 3), np.uint8))
def free():
    global session
    del session
    gc.collect()
thread = threading.Thread(target=free)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
