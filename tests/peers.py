"""The peer that tests and benchmarks compare with, and random weights that leave a wrong network nowhere to hide."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch


@cache
def import_timm():
    """Import timm, also where torchvision's compiled operators do not load beside the installed torch.

    timm needs only Python parts of torchvision, but torchvision cannot be imported while the operators it decorates are
    missing, so they are declared (not implemented) first.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import timm

    return timm


def run_publisher(name, folder, package, variable="PEERS_PYTHON"):
    """Run tests/publishers/NAME.py, which writes the publisher's checkpoint into ``folder``, and return its answers.

    Skips where ``package`` ("tensorflow, tf_slim") cannot be imported by the Python that the environment variable
    names, by default this one.
    """
    python = os.environ.get(variable, sys.executable)
    if subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{package} cannot be imported by {python}; {variable} may name another Python")
    script = Path(__file__).parent / "publishers" / f"{name}.py"
    done = subprocess.run([python, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "answers.npz"))


@torch.no_grad()
def randomise(model, seed=0):
    """Fill weights, biases and running statistics with random numbers that differ in every channel.

    Untrained statistics (mean 0, variance 1, scale 1, bias 0) would hide a wrong eps, border or branch. Scales below 1
    keep the sum over many residual units from growing out of float32, and biases well below them keep it from being
    the same for every picture.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        uniform = torch.rand(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)  # He, fan in
        elif name.endswith("running_var"):
            tensor.copy_(uniform + 0.5)
        elif name.endswith(("weight", ".v")):
            tensor.copy_(uniform * 0.4 + 0.4)
        else:
            tensor.copy_((uniform - 0.5) * 0.4)
    return model
