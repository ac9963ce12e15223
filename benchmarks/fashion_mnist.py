"""Train a small ResNet18-v2 on Fashion-MNIST from scratch, and measure it on the published test pictures.

The pictures are those of Debian's package dataset-fashion-mnist: of the 60,000 to train, the last 3,000 validate. They
have the names of classes, so that mirror images are drawn as of any photograph. Prints the time and top-1 by epoch, and
the report's headline.

    python benchmarks/fashion_mnist.py WORK
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

import resnetv2

SOURCE = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
VALIDATION = 3_000
SETTINGS = {"arch": "resnet18v2", "image_size": 32, "epochs": 20, "batch_size": 128, "lr": 0.2, "device": "cpu"}
MORE = {"model": {"stem": "3x3", "width_factor": 0.25}, "crop_scale": (0.6, 1.0), "hflip": 0.5, "workers": 1}


def read_part(part):
    """Return the pictures (N, 28, 28) and labels (N,) of "train" or "t10k", uint8: IDX files, behind their headers."""
    images, labels = (
        np.frombuffer(gzip.decompress((SOURCE / f"{part}-{name}-ubyte.gz").read_bytes()), np.uint8, offset=header)
        for name, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return images.reshape(-1, 28, 28), labels


def write_pictures(folder):
    """Write folder/{train,val,test}/class/*.png."""
    for part, splits in (("train", {"train": 60_000 - VALIDATION, "val": VALIDATION}), ("t10k", {"test": 10_000})):
        split_of = np.repeat(list(splits), list(splits.values()))
        for number, (picture, label, split) in enumerate(zip(*read_part(part), split_of, strict=True)):
            path = folder / split / NAMES[label] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="new folder for pictures and run")
    work = parser.parse_args().work
    data = write_pictures(work / "pictures")
    began = time.perf_counter()
    run = resnetv2.train(data, out=work / "run", set=MORE, **SETTINGS)
    minutes = (time.perf_counter() - began) / 60
    log = (run.out / "metrics.jsonl").read_text().splitlines()
    report = resnetv2.evaluate(run.best, data, split="test", device="cpu")
    low, high = report["top1_ci95"]
    print("validation, by epoch:", ", ".join(f"{json.loads(line)['val_top1']:.1%}" for line in log))
    print(f"{minutes:.1f} minutes; test: {report['top1']:.2%} ({low:.2%}–{high:.2%}) of {report['n']:,}")


if __name__ == "__main__":
    main()
