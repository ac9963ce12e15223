"""Parity with publishers' code that does not run here: their answers, made once by ``tests/publishers``, are kept.

The numbers of a tensor follow from its name in the publisher's file, so ours go through the same rules as a file does.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from resnetv2.config import architecture
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import read, their_shape
from resnetv2.model import ResNetV2
from resnetv2.shapes import tensor_shapes

sys.path.insert(0, str(Path(__file__).parent / "publishers"))
from values import CLASSES, SIZES, pictures, thin, value_of

GOLDEN = Path(__file__).parent / "golden"
FLOAT32 = 1e-5  # of the largest number: 50 layers of float32 sums in another order make 1e-6 of it
NETWORKS = {  # file of answers: publisher, dialect, and the axis of the output channels in its layout
    "gluon": ("gluon", "gluon", 0),
    "keras": ("keras", "keras", -1),
    "kerashub": ("kerashub", "torch", -1),
    "kerascv": ("kerascv", "kerascv", -1),
    "qubvel": ("qubvel", "symbol", -1),
}
HEADLESS = {"kerascv"}  # published as backbones: pooled features in the logits' place


def weights_of(publisher, config, out_axis):
    """Return our weights of the network whose tensors a publisher's script filled by name."""
    shapes = tensor_shapes(config)
    rules = publisher.rules(config)
    theirs = {r.theirs: value_of(r.theirs, their_shape(r, shapes[r.ours]), out_axis) for r in rules}
    return read(theirs, rules, config)


def difference(got, expected):
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_answers_as_its_publishers_code_did(name):
    publisher, dialect, out_axis = NETWORKS[name]
    config = architecture("resnet50v2", dialect, num_classes=0 if name in HEADLESS else CLASSES)
    weights = weights_of(PUBLISHERS[publisher], config, out_axis)
    model = ResNetV2(config).eval()
    model.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()}, strict=False)
    golden = dict(np.load(GOLDEN / f"{name}.npz"))
    for size in SIZES:
        with torch.inference_mode():
            maps = model.forward_maps(torch.from_numpy(pictures(size)))
            logits = model.forward_head(maps[-1])
        for number, feature_map in enumerate(maps):
            expected = golden[f"map{number}.{size}"]
            assert difference(thin(feature_map.numpy()), expected) <= FLOAT32, f"map {number} at {size}"
        assert difference(logits.numpy(), golden[f"logits.{size}"]) <= FLOAT32, f"logits at {size}"
