"""Time `train --recipe probe` against the bare forward pass of the same pictures, and again with features kept.

Pictures are JPEGs cut from scikit-learn's two photographs, the network a ResNet50-v2 with random weights: what it costs
does not depend on what it knows. The bare pass is that of the fastest runtime, with the pixels in memory already. The
command is timed whole, in a fresh process: starting Python, checking the pictures, decoding, the head, the model file,
the curves. Both take turns.
Prints a Markdown table.

    python benchmarks/probe_speed.py --pictures 1000 --repeats 3
"""

import argparse
import io
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from load_speed import write_photos
from PIL import Image

from resnetv2.creation import create_model
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.choice import measure, open_session
from resnetv2.runtime.pytorch import model_file
from resnetv2.weights.modelfile import Header, read_model_file, write_model_file


def write_weights(path, size):
    """Write a model file of a ResNet50-v2 that knows nothing."""
    torch.manual_seed(0)
    model = create_model("resnet50v2", num_classes=2).eval()
    header = Header(
        architecture=model.config, preprocessing=Preprocessing(image_size=size, resize=size), classes=("a", "b")
    )
    picture = io.BytesIO()
    Image.new("RGB", (size, size)).save(picture, "PNG")
    write_model_file(path, model_file(model, header, [picture.getvalue()], torch.device("cpu")))


def bare(session, size, count, batch):
    """Return the seconds that ``count`` pictures take through a network, in batches, without anything else."""
    pictures = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    session.features(pictures)
    began = time.perf_counter()
    for low in range(0, count, batch):
        session.features(pictures[: min(batch, count - low)])
    return time.perf_counter() - began


def probe(data, weights, out, cache):
    """Return the seconds of the command."""
    words = [sys.executable, "-m", "resnetv2", "train", data, "--out", out, "--weights", weights, "--recipe", "probe"]
    began = time.perf_counter()
    environment = {**os.environ, "RESNETV2_CACHE": str(cache)}
    subprocess.run([*map(str, words), "--image-size", "224"], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    times = {"bare forward": [], "probe": [], "probe, features kept": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photos(root / "data", args.pictures, 500, 375, 90)
        write_weights(root / "weights.safetensors", 224)
        file = read_model_file(root / "weights.safetensors")
        fastest = max(("openvino", "onnx", "torch"), key=lambda runtime: measure(file, runtime))
        session = open_session(file, fastest, "cpu")
        for repeat in range(args.repeats):
            times["bare forward"].append(bare(session, 224, args.pictures, 32))
            cache = root / f"cache{repeat}"
            for name in ("probe", "probe, features kept"):
                out = root / f"{name}{repeat}"
                times[name].append(probe(root / "data", root / "weights.safetensors", out, cache))
    ratios = [b / a for a, b in zip(times["bare forward"], times["probe"], strict=True)]
    print(f"`{shlex.join(['python', *sys.argv])}`. {platform.processor()}, {torch.get_num_threads()} threads, ")
    print(f"PyTorch {torch.__version__}, bare by {fastest}; n = {args.repeats}.\n")
    print("| what | median (min–max) |\n| --- | --- |")
    for name, values in times.items():
        print(f"| {name}, {args.pictures:,} pictures, s | {say(values)} |")
    print(f"| probe ÷ bare forward | {say(ratios)} |")


def say(values):
    """Return median and range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


if __name__ == "__main__":
    main()
