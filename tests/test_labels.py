"""Class names: as many as the networks answer with, each once, in timm's order."""

import gzip
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
from publishers.classes import classes

from resnetv2.errors import ConfigError
from resnetv2.weights.labels import LABELS, class_names, synsets


def test_every_name_is_there_once_and_as_often_as_there_are_classes():
    counts = {name: len(class_names(name)) for name in LABELS}
    small = {"": 0, "cifar10": 10, "cifar100": 100, "svhn": 10}
    assert counts == {**small, "in1k": 1000, "in1k_background": 1001, "in21k_goog": 21843}
    for name in LABELS:
        assert len(set(class_names(name))) == len(class_names(name))


def test_the_background_comes_first_and_moves_the_others_by_one():
    assert class_names("in1k_background") == ("background", *class_names("in1k"))
    assert synsets("in1k_background") == ("", *synsets("in1k"))


def test_names_that_two_classes_share_carry_their_synsets():
    names = class_names("in1k")
    assert names[0] == "tench"
    assert names[134] == "crane (n02012849)"
    assert names[517] == "crane (n03126707)"


def test_the_file_is_what_timms_lists_give():
    timm = find_spec("timm")
    if timm is None:
        pytest.skip("timm is not installed")
    info = Path(timm.origin).parent / "data" / "_info"
    packed = files("resnetv2.weights").joinpath("classes.tsv.gz").read_bytes()
    assert gzip.decompress(packed).decode() == classes(info)
    assert synsets("in1k") == tuple((info / "imagenet_synsets.txt").read_text().split())
    assert synsets("in21k_goog") == tuple((info / "imagenet21k_goog_synsets.txt").read_text().split())
    assert len(packed) < 400_000  # what the wheel may grow by


def test_unknown_classes_are_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        class_names("cifar11")
