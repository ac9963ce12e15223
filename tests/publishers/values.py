"""What the publishers' scripts in this folder share. NumPy alone: some of them run on old Pythons.

Every script is run as ``python tests/publishers/NAME.py FOLDER``: with the publisher's own code it builds a network,
gives it the numbers of ``value_of``, writes the checkpoint file as the publisher does, and FOLDER/answers.npz with the
logits and some points of the feature maps. ``tests/golden/NAME.npz`` is such a file of answers, kept: the numbers need
not be stored, they follow from the names.
"""

import pathlib
import sys
import zlib

import numpy as np

SIZES = (224, 225, 299)  # at 225 asymmetric padding equals symmetric; 299 is the size of the TensorFlow lineages
CLASSES = 11


def value_of(name, shape, out_axis=0):
    """Return the numbers of one tensor, the same everywhere, from its name in the publisher's file.

    Untrained statistics (mean 0, variance 1, scale 1, bias 0) would hide a wrong eps, border or branch: everything is
    random. Scales below 1 keep the sum over many residual units within float32.

    Args:
        name: in the publisher's file; variances are told by "var", scales by "gamma" or "scale" in it.
        shape: in the publisher's layout.
        out_axis: of the output channels: 0 in (out, in, h, w), -1 in (h, w, in, out).
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        fan_in = np.prod(shape) / shape[out_axis]
        return (generator.normal(size=shape) * (2 / fan_in) ** 0.5).astype(np.float32)
    low, high = (0.5, 1.5) if "var" in name else (0.4, 0.8) if "gamma" in name or "scale" in name else (-0.2, 0.2)
    return generator.uniform(low, high, shape).astype(np.float32)


def pictures(size):
    """Return network inputs float32 (2, 3, size, size), around 0."""
    return np.random.default_rng(size).normal(size=(2, 3, size, size)).astype(np.float32)


def thin(feature_map):
    """Return some points of a map (N, C, H, W), spread over channels and places, borders included."""
    return np.ascontiguousarray(feature_map[:, ::61, ::3, ::5])


def write_answers(logits_of, maps_of=None):
    """Answer the pictures of every size and write answers.npz into the folder of the command line.

    Args:
        logits_of: (N, 3, H, W) -> (N, classes), before any softmax.
        maps_of: (N, 3, H, W) -> the maps before each strided unit and the normed one at the end, each (N, C, h, w).
    """
    answers = {}
    for size in SIZES:
        x = pictures(size)
        answers[f"logits.{size}"] = np.asarray(logits_of(x), np.float32)
        for number, feature_map in enumerate(maps_of(x) if maps_of else ()):
            answers[f"map{number}.{size}"] = thin(np.asarray(feature_map, np.float32))
    np.savez_compressed(folder() / "answers.npz", **answers)


def folder():
    """Return the folder of the command line."""
    return pathlib.Path(sys.argv[1])
