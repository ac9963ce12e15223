"""Measure what `embed` takes of memory by the number of pictures, and what an index finds of the truly nearest.

    python benchmarks/embed_search.py memory --pictures 2000 20000
    python benchmarks/embed_search.py recall --pictures 20000 --repeats 3

"memory" embeds random 32-pixel pictures by a network of 2048 features with random weights, each run in a process of its
own, and reads the process's peak. "recall" makes an index of random features that stand in 200 clusters, and compares
the ten it finds for 200 of them with an exact search in the same features.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import resnetv2
from resnetv2.embedding.index import read_index, write_index
from resnetv2.inference import Embedding

DISTINCT = 100  # picture files; more pictures are the same ones again


def write_model(path):
    import torch

    from resnetv2.config import ResNetV2Config
    from resnetv2.model import ResNetV2
    from resnetv2.preprocess import Preprocessing
    from resnetv2.runtime.pytorch import model_file
    from resnetv2.weights.golden import golden_pictures
    from resnetv2.weights.modelfile import Header, write_model_file

    config = ResNetV2Config(depths=(1, 1, 1, 1), num_classes=0)
    header = Header(architecture=config, preprocessing=Preprocessing(image_size=32, resize=32), classes=())
    file = model_file(ResNetV2(config).eval(), header, golden_pictures(32), torch.device("cpu"))
    write_model_file(path, file)


def embed(folder, count, ending):
    """Embed in this process, and print its peak of memory in MiB; ru_maxrss would have the parent's in it."""
    paths = sorted(folder.glob("*.png"))
    pictures = (paths * -(-count // len(paths)))[:count]
    out = folder / f"{count}.{ending}"
    resnetv2.embed(folder / "model.safetensors", pictures, out=out, runtime="onnx", device="cpu")
    print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)


def memory(counts):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model.safetensors")
        for i in range(DISTINCT):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        print("| file | " + " | ".join(f"{count:,} pictures" for count in counts) + " |")
        for ending in ("parquet", "npz", "index"):
            peaks = []
            for count in counts:
                words = [sys.executable, __file__, "embed", name, str(count), ending]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                peaks.append(float(done.stdout))
            print(f"| .{ending} | " + " | ".join(f"{peak:.0f} MiB" for peak in peaks) + " |", flush=True)


def recall(count, width=512):
    """Return the seconds of an index, milliseconds of a search in it and of an exact one, and the share found."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, width))
    features = np.maximum(centres[rng.integers(0, 200, count)] + rng.normal(size=(count, width)), 0).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        path, began = Path(name, "x.index"), time.perf_counter()
        with write_index(path, {"model": {}, "layer": "pooled", "preprocessing": {}}, count, width) as add:
            add([Embedding(str(i), row) for i, row in enumerate(features)])
        built = time.perf_counter() - began
        index = read_index(path)
    began = time.perf_counter()
    found = [{path for path, _ in index.nearest(row, 10)} for row in features[:200]]
    searched = time.perf_counter() - began
    began = time.perf_counter()
    exact = [{str(key) for key in index.graph.search(row, 10, exact=True).keys} for row in features[:200]]
    compared = time.perf_counter() - began
    share = sum(len(a & b) for a, b in zip(found, exact, strict=True)) / 2000
    return built, searched * 5, compared * 5, share


def main():
    if sys.argv[1:2] == ["embed"]:
        embed(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("memory", "recall"))
    parser.add_argument("--pictures", type=int, nargs="+", default=[20_000])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.task == "memory":
        memory(args.pictures)
        return
    rows = np.array([recall(args.pictures[0]) for _ in range(args.repeats)])
    names = ("index, s", "search, ms", "exact search, ms", "of the ten nearest found")
    for name, values in zip(names, rows.T, strict=True):
        print(f"{name}: {statistics.median(values):.3g} ({values.min():.3g}–{values.max():.3g}), n = {len(values)}")


if __name__ == "__main__":
    main()
