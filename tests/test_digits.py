"""The demo: its pictures, and the whole of it with the training cut short."""

import subprocess
import sys

import numpy as np
from PIL import Image
from runs import command
from sklearn.datasets import load_digits

from resnetv2 import digits
from resnetv2.data.index import read_index


def test_the_digits_are_all_there_once_a_fifth_of_them_for_test(tmp_path):
    digits.write_digits(str(tmp_path))
    index = read_index(tmp_path)
    assert index.counts() == {"train": 1293, "val": 144, "test": 360}
    assert index.classes == tuple("0123456789")
    numbers = [int(path.split("scan-")[1].removesuffix(".png")) for path in index.paths]
    assert sorted(numbers) == list(range(1797))
    truth = load_digits()
    assert all(truth.target[n] == label for n, label in zip(numbers, index.labels, strict=True))
    path = tmp_path / index.paths[0]
    assert np.array_equal(np.rint(np.asarray(Image.open(path)) / 255 * 16), truth.images[numbers[0]])


def test_writing_them_again_touches_nothing(tmp_path):
    digits.write_digits(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    digits.write_digits(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")} == before


def test_the_demo_prints_each_command_runs_it_and_can_be_run_again(tmp_path):
    code = (
        "import resnetv2.digits as d, resnetv2;"
        "d.TRAINING = '--arch resnet18v2 --image-size 32 --epochs 1 --set model.width_factor=0.25'.split();"
        "raise SystemExit(resnetv2.demo('demo'))"
    )
    for resume in ("", " --resume"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        commands = [line for line in done.stdout.splitlines() if line.startswith("$ resnetv2 ")]
        assert [line.split()[2] for line in commands] == ["train", "evaluate", "predict", "verify"]
        assert commands[0].endswith("model.width_factor=0.25" + resume)
        assert "With 360 pictures" in done.stdout
        assert "ok  demo/run/best.safetensors" in done.stdout
    words = commands[1].split()[2:]  # what is printed can be typed
    assert command(*words, cwd=tmp_path).returncode == 0
