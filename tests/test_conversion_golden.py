"""Parity with publishers' code that does not run here: their answers, made once by ``tests/publishers``, are kept.

The numbers of a tensor follow from its name in the publisher's file, so ours go through the same rules as a file does.
"""

import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnetv2.config import ResNetV2Config, architecture
from resnetv2.conversion.publisher import Geometry, Publisher, always, name_modules
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import read, their_shape
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import tensor_shapes

sys.path.insert(0, str(Path(__file__).parent / "publishers"))
from values import CLASSES, SIZES, pictures, thin, value_of

GOLDEN = Path(__file__).parent / "golden"
FLOAT32 = 1e-5  # of the largest number: 50 layers of float32 sums in another order make 1e-6 of it
NETWORKS = {  # file of answers: publisher, dialect, and the axis of the output channels in its layout
    "gluon": ("gluon", "gluon", 0),
    "symbol": ("symbol", "symbol", 0),
    "haiku": ("haiku", "haiku", -1),
    "official": ("official", "official", -1),
    "slim": ("slim", "slim", -1),
    "keras": ("keras", "keras", -1),
    "kerashub": ("kerashub", "torch", -1),
    "kerascv": ("kerascv", "kerascv", -1),
    "qubvel": ("qubvel", "symbol", -1),
}
HEADLESS = {"kerascv"}  # published as backbones: pooled features in the logits' place
DEPTHS = {"gluon": (18, 34, 101, 152), "symbol": (18,), "haiku": (18, 101)}  # with answers at 224 pixels


def haiku_names(config):
    def unit(stage, number, part):
        kind = "batchnorm" if part.startswith("norm") else "conv"
        module = "shortcut_conv" if part == "downsample.conv" else f"{kind}_{int(part[-1]) - 1}"
        return f"block_group_{stage}/~/block_{number}/~/{module}"

    return name_modules(config, {"stem.conv": "initial_conv", "norm": "final_batchnorm", "head.fc": "logits"}, unit)


HAIKU = Publisher(  # of code alone: there are no weights to read
    name="haiku",
    title="Haiku",
    style={
        "conv": {"weight": ("{}/w", "conv")},
        "norm": {
            "weight": ("{}/scale", "same"),
            "bias": ("{}/offset", "same"),
            "running_mean": ("{}/~/mean_ema/average", "same"),
            "running_var": ("{}/~/var_ema/average", "same"),
        },
        "dense": {"weight": ("{}/w", "dense"), "bias": ("{}/b", "same")},
    },
    names=haiku_names,
    dialects=always("haiku"),
    geometry=lambda config: Geometry(Preprocessing(), ""),
)
KNOWN = {**PUBLISHERS, "haiku": HAIKU}


def weights_of(publisher, config, out_axis):
    """Return our weights of the network whose tensors a publisher's script filled by name."""
    shapes = tensor_shapes(config)
    rules = publisher.rules(config)
    theirs = {r.theirs: value_of(r.theirs, their_shape(r, shapes[r.ours]), out_axis) for r in rules}
    return read(theirs, rules, config)


def model_of(config, weights):
    model = ResNetV2(config).eval()
    model.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()}, strict=False)
    return model


def difference(got, expected):
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def assert_same_answers(config, weights, answers):
    """Compare our network with ``weights`` at every size with the ``answers`` that a publisher's script wrote."""
    model = model_of(config, weights)
    for size in SIZES:
        with torch.inference_mode():
            maps = model.forward_maps(torch.from_numpy(pictures(size)))
            logits = model.forward_head(maps[-1])
        for number, feature_map in enumerate(maps):
            measured = difference(thin(feature_map.numpy()), answers[f"map{number}.{size}"])
            print(f"map {number} at {size}: {measured:.1e}")
            assert measured <= FLOAT32, f"map {number} at {size}"
        measured = difference(logits.numpy(), answers[f"logits.{size}"])
        print(f"logits at {size}: {measured:.1e}")
        assert measured <= FLOAT32, f"logits at {size}"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_answers_as_its_publishers_code_did(name):
    publisher, dialect, out_axis = NETWORKS[name]
    config = architecture("resnet50v2", dialect, num_classes=0 if name in HEADLESS else CLASSES)
    weights = weights_of(KNOWN[publisher], config, out_axis)
    assert_same_answers(config, weights, dict(np.load(GOLDEN / f"{name}.npz")))


@pytest.mark.parametrize(("publisher", "name"), [(p, f"resnet{n}v2") for p, depths in DEPTHS.items() for n in depths])
def test_other_depths_answer_as_their_publishers_code_did(publisher, name):
    _, dialect, out_axis = NETWORKS[publisher]
    config = architecture(name, dialect, num_classes=CLASSES)
    model = model_of(config, weights_of(KNOWN[publisher], config, out_axis))
    with torch.inference_mode():
        logits = model(torch.from_numpy(pictures(224))).numpy()
    assert difference(logits, np.load(GOLDEN / f"{publisher}-depths.npz")[name]) <= FLOAT32


@pytest.mark.parametrize(("name", "stored"), [("gluon", "features.0.gamma"), ("symbol", "arg:bn_data_gamma")])
def test_mxnet_did_not_use_the_scale_that_it_stored_for_the_pixels(name, stored):
    config = architecture("resnet50v2", name, num_classes=CLASSES)
    weights = weights_of(PUBLISHERS[name], config, 0)
    weights["input_norm.weight"] = value_of(stored, (3,))
    with torch.inference_mode():
        logits = model_of(config, weights)(torch.from_numpy(pictures(224))).numpy()
    assert difference(logits, np.load(GOLDEN / f"{name}.npz")["logits.224"]) > 100 * FLOAT32


# --- wrong switches ---------------------------------------------------------------------------------------------------

SWITCHES = [  # a network, an axis that leaves no trace in its tensors, and what it must not be mistaken for
    ("symbol", "norm_eps", 1e-5),
    ("kerashub", "weight_std", True),
    ("keras", "stem_pool", "ignore"),
    ("keras", "stem_pool", "same"),
    ("slim", "stem_pool", "ignore"),
    ("slim", "stem_pool", "zero"),
    ("kerashub", "stem_pool", "zero"),
    ("kerascv", "same_padding", False),
    ("haiku", "same_padding", False),
    ("keras", "stage_strides", (1, 2, 2, 2)),
    ("kerascv", "stage_strides", (2, 2, 2, 1)),
    ("keras", "stride_unit", "first"),
    ("gluon", "stride_conv", "conv1"),
    ("kerashub", "projection_pool", True),
]
TRACED = {  # axes that change names or shapes of tensors: a wrong one cannot be loaded at all
    "depths": (3, 4, 6, 4),
    "block": "basic",
    "width_factor": 2,
    "num_classes": 5,
    "in_chans": 1,
    "norm": "group",
    "input_norm": True,
    "stem": "deep",
    "stem_bias": True,
    "stem_norm": True,
    "projection_input": "raw",
    "out_bias": True,
}
UNSEEN = {
    "norm_momentum",  # of training alone
    "weight_std_eps",  # 1e-8 for 1e-10 moves logits by 2e-6: the comparison with timm in float64 sees it
    "projection",  # differs in basic units alone, and there by a tensor
    "first_norm",  # needs stem_norm, and is then a tensor
}


@pytest.mark.parametrize(("name", "axis", "wrong"), SWITCHES)
def test_a_wrong_switch_is_seen(name, axis, wrong):
    publisher, dialect, out_axis = NETWORKS[name]
    config = architecture("resnet50v2", dialect, num_classes=0 if name in HEADLESS else CLASSES)
    assert getattr(config, axis) != wrong
    weights = weights_of(KNOWN[publisher], config, out_axis)
    with pytest.raises(AssertionError):  # a map of another shape, or numbers that differ
        assert_same_answers(replace(config, **{axis: wrong}), weights, dict(np.load(GOLDEN / f"{name}.npz")))


@pytest.mark.parametrize(("axis", "wrong"), TRACED.items())
def test_a_wrong_axis_that_changes_tensors_cannot_be_loaded(axis, wrong):
    config = architecture("resnet50v2")
    assert tensor_shapes(config) != tensor_shapes(replace(config, **{axis: wrong}))


def test_every_axis_is_tried():
    assert {axis for _, axis, _ in SWITCHES} | TRACED.keys() | UNSEEN == {f.name for f in fields(ResNetV2Config)}
