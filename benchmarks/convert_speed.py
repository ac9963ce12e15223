"""Converting a published checkpoint of 100 MB, and loading the model file: seconds and memory.

Files of random ResNet50-v2 weights are written in several publishers' formats; each is converted by ``resnetv2
convert`` in a process of its own, whose time and peak memory are those of the whole command. Then the model file is
loaded in this process, torch imported before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from train_speed import spread, table

import resnetv2
from resnetv2.config import architecture
from resnetv2.conversion import write_checkpoint
from resnetv2.shapes import tensor_shapes

FILES = {  # format: dialect, name of the file
    "timm": ("torch", "model.safetensors"),
    "keras": ("keras", "model.h5"),
    "bit": ("bit", "model.npz"),
}


def write_file(target, folder):
    dialect, name = FILES[target]
    config = architecture("resnet50v2", dialect)
    generator = np.random.default_rng(0)
    weights = {n: generator.uniform(0.01, 0.02, s).astype(np.float32) for n, s in tensor_shapes(config).items()}
    write_checkpoint(folder / name, config, weights, target)
    return folder / name


def convert(path, out):
    """Return seconds and MiB at most of one conversion."""
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "resnetv2", "convert", path, "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for target in FILES:
            path = write_file(target, folder)
            seconds, peaks = zip(*(convert(path, folder / "out.safetensors") for _ in range(repeats)), strict=True)
            what = f"convert {path.name}, {path.stat().st_size >> 20} MiB"
            rows.append({"what": what, "seconds": spread(seconds, 2), "peak MiB": spread(peaks, 0)})
        resnetv2.load(folder / "out.safetensors", device="cpu")  # imports torch
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            resnetv2.load(folder / "out.safetensors", device="cpu")
            seconds.append(time.perf_counter() - start)
        what = "load the model file, torch imported before"
        rows.append({"what": what, "seconds": spread(seconds, 3), "peak MiB": ""})
    print(table(rows))


if __name__ == "__main__":
    main()
