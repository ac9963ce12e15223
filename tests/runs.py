"""Small pictures that can be learned in seconds, and runs on them."""

import os
import subprocess
import sys

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
TINY = {
    "model": {"width_factor": 0.25},
    "hflip": 0.5,
    "workers": 2,
}  # 16 to 128 channels: the same graph, a sixteenth of the work
SETTINGS = {"arch": "resnet18v2", "image_size": 32, "batch_size": 8, "epochs": 3, "device": "cpu"}


def write_colours(root, train=10, val=4, test=4, size=24):
    """Write noisy pictures of three colours as root/{train,val,test}/{red,green,blue}/*.png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 41, (size, size, 3))
                Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


def command(*words, cwd=None, **environment):
    """Run ``resnetv2 words…`` as a user's shell would and return the finished process."""
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environment}
    full = [sys.executable, "-m", "resnetv2", *map(str, words)]
    return subprocess.run(full, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
