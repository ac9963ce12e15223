"""Converting a published checkpoint of 100 MB, and loading the model file: seconds and memory.

Files of random ResNet50-v2 weights are written in several publishers' formats; each is converted by ``resnetv2
convert`` in a process of its own, whose time and peak memory are those of the whole command. Then the model file is
loaded in this process, torch imported before.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

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


def spread(values, form):
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("| what | seconds, median (min–max) | peak MiB, median (min–max) |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for target in FILES:
            path = write_file(target, folder)
            results = [convert(path, folder / "out.safetensors") for _ in range(repeats)]
            seconds, peaks = zip(*results, strict=True)
            print(
                f"| convert {path.name} ({path.stat().st_size >> 20} MiB) | {spread(seconds, '.2f')} | {spread(peaks, '.0f')} |"
            )
        resnetv2.load(folder / "out.safetensors", device="cpu")  # imports torch
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            resnetv2.load(folder / "out.safetensors", device="cpu")
            seconds.append(time.perf_counter() - start)
        print(f"| load the model file, torch imported | {spread(seconds, '.3f')} | |")


if __name__ == "__main__":
    main()
