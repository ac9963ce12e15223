"""The demo: the main job, end to end, on real pictures that come with scikit-learn."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from resnetv2.errors import MissingExtra
from resnetv2.files import replace_file

TRAINING = ["--image-size", "32", "--batch-size", "64", "--epochs", "14"]


def demo(out: str | Path = "resnetv2-demo") -> int:
    """Write the digits, then train, evaluate, predict and verify, printing each command before it runs.

    Args:
        out: folder for the pictures (``digits/{train,val,test}/0…9/*.png``) and the run (``run/``). A demo that was
            stopped goes on where it was.

    Returns:
        0, or the exit code of the first command that failed.
    """
    from resnetv2.cli import main

    out = Path(out)
    pictures, run = out / "digits", out / "run"
    write_digits(pictures)
    model = str(run / "best.safetensors")
    resume = ["--resume"] if (run / "config.json").exists() else []
    some = [str(min((pictures / "test" / name).glob("scan-*.png"))) for name in ("2", "7", "8")]
    for words in (
        ["train", str(pictures), "--out", str(run), *TRAINING, *resume],
        ["evaluate", model, str(pictures)],
        ["predict", model, *some, "--top", "3"],
        ["verify", model],
    ):
        print(f"\n$ resnetv2 {shlex.join(words)}", flush=True)
        code = main(words)
        if code:
            return code
    print(f"\nThe pictures are in {pictures}, the model is {model}. Next: your own folder instead of {pictures}.")
    return 0


def write_digits(folder: str | Path) -> None:
    """Write the 1,797 UCI digits (Alpaydin and Kaynak 1998; 8×8 grey scans) as PNG files, a fifth of them for test.

    Files that exist are left alone, so that a second call costs nothing and changes nothing.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise MissingExtra("the demo", "train") from error
    digits = load_digits()
    rest, test = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    train, val = train_test_split(rest, test_size=0.1, stratify=digits.target[rest], random_state=0)
    print(f"writing {len(digits.target):,} pictures to {folder}", file=sys.stderr)
    for split, members in (("train", train), ("val", val), ("test", test)):
        for i in members:
            path = Path(folder, split) / str(digits.target[i]) / f"scan-{i:04d}.png"
            if not path.exists():
                pixels = np.rint(digits.images[i] * (255 / 16)).astype(np.uint8)  # the scans hold 0 … 16
                with replace_file(path) as temporary:
                    Image.fromarray(pixels).save(temporary, "PNG")
