"""Parity with publishers' own preprocessing: of timm and torchvision here, of others by their answers, which are kept.

Compared is what the network is given, brought back to levels of grey; ours are whole ones.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import import_timm
from pictures import encode, noise
from PIL import Image

from resnetv2.config import architecture
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.preprocess import Preprocessing, open_picture

sys.path.insert(0, str(Path(__file__).parent / "publishers"))
from scenes import CROP, REAL, RESIZE, SMALL, scene, thin

GOLDEN = Path(__file__).parent / "golden"
FLOAT32 = 8e-3  # levels: the 500th pixel's place in float32 is off by up to 3e-5, on slopes of up to 255 levels
HALF = 0.5 + FLOAT32  # of a level: they keep the fractions that ours rounds
ONE = 1 + FLOAT32


def published(publisher, dialect, name="resnet50v2", **changes):
    return PUBLISHERS[publisher].geometry(architecture(name, dialect, **changes)).preprocessing


def levels(normalised, preprocessing):
    """(H, W, 3) as a network is given them -> units of 0 to 255"""
    return np.asarray(normalised, np.float64) * preprocessing.std + preprocessing.mean


def difference(preprocessing, picture, normalised):
    ours = preprocessing(Image.fromarray(picture))
    assert ours.dtype == np.uint8
    assert ours.shape == normalised.shape
    return np.abs(ours - levels(normalised, preprocessing)).max()


# --- answers that are kept ---

_BIT = published("bit", "bit")
_LOADED = Preprocessing(fit="squash", interpolation="nearest", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
KEPT = {  # file, protocol: ours, their pixels before the crop of 12, the largest difference
    ("tensorflow", "slim"): (published("slim", "slim"), CROP, HALF),
    ("tensorflow", "official"): (published("official", "official"), RESIZE, HALF),
    ("tensorflow", "bit"): (replace(_BIT, sampling="half_pixel"), CROP, HALF),
    ("keras", "kerashub"): (published("kerashub", "torch"), CROP, FLOAT32),
    ("keras", "load_img"): (_LOADED, CROP, 0),
    ("mxnet", "gluon"): (published("gluon", "gluon"), RESIZE, ONE),  # OpenCV computes in fixed point of 11 bits
    ("huggingface", "pillow"): (published("huggingface", "bit"), RESIZE, FLOAT32),
    ("huggingface", "torchvision"): (published("huggingface", "bit"), RESIZE, ONE),  # 8-bit sums in another order
}


@pytest.mark.parametrize(("file", "protocol"), KEPT)
def test_pictures_are_prepared_as_their_publishers_code_did(file, protocol):
    preprocessing, resize, tolerance = KEPT[file, protocol]
    small = replace(preprocessing, image_size=CROP, resize=resize)
    with np.load(GOLDEN / f"preprocessing_{file}.npz") as answers:
        for width, height in SMALL:
            answer = answers[f"{protocol}.small.{width}x{height}"]
            assert difference(small, scene(width, height), answer) <= tolerance, f"{width}×{height}"
        for width, height in REAL:
            found = thin(preprocessing(Image.fromarray(scene(width, height))))
            answer = levels(answers[f"{protocol}.real.{width}x{height}"], preprocessing)
            assert np.abs(found - answer).max() <= tolerance, f"{width}×{height}"


@pytest.mark.parametrize(
    ("protocol", "other"),
    [
        ("slim", {"sampling": "half_pixel"}),
        ("slim", {"sampling": "antialias"}),
        ("slim", {"central_fraction": 1.0}),
        ("official", {"sampling": "half_pixel"}),
        ("official", {"crop_offset": "round"}),
    ],
)
def test_the_kept_answers_tell_the_axes_apart(protocol, other):
    preprocessing, resize, _ = KEPT["tensorflow", protocol]
    wrong = replace(preprocessing, image_size=CROP, resize=resize, **other)
    with np.load(GOLDEN / "preprocessing_tensorflow.npz") as answers:
        worst = [
            difference(wrong, scene(w, h), answers[f"{protocol}.small.{w}x{h}"]) for w, h in SMALL if min(w, h) > RESIZE
        ]
    assert min(worst) > 20  # levels, of noise


# --- timm and torchvision ---

PICTURES = [scene(*size) for size in (*SMALL[:6], *REAL, (224, 224), (256, 256), (750, 250))]
TAGS = {  # the tags whose settings are assumed where the file does not tell
    "resnetv2_18.ra4_e3600_r224_in1k": ("resnet18v2", "torch", {}),
    "resnetv2_34d.ra4_e3600_r224_in1k": ("resnet34v2d", "torch", {}),
    "resnetv2_50.a1h_in1k": ("resnet50v2", "torch", {}),
    "resnetv2_50d_gn.ah_in1k": ("resnet50v2d", "torch", {"norm": "group"}),
    "resnetv2_50d_evos.ah_in1k": ("resnet50v2d", "torch", {"norm": "evonorm"}),
    "resnetv2_101.a1h_in1k": ("resnet101v2", "torch", {}),
    "resnetv2_50x1_bit.goog_in21k": ("resnet50v2", "bit", {"num_classes": 21843}),
    "resnetv2_50x1_bit.goog_in21k_ft_in1k": ("resnet50v2", "bit", {}),
    "resnetv2_152x4_bit.goog_in21k_ft_in1k": ("resnet152v2", "bit", {"width_factor": 4}),
}


@pytest.mark.parametrize("tag", TAGS)
def test_pictures_are_prepared_as_by_timms_own_transform(tag):
    timm = import_timm()
    from timm.data import create_transform, resolve_data_config

    name, dialect, changes = TAGS[tag]
    preprocessing = published("timm", dialect, name, **changes)
    transform = create_transform(**resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(tag).to_dict()))
    for picture in PICTURES:
        answer = transform(Image.fromarray(picture)).permute(1, 2, 0).numpy()
        assert difference(preprocessing, picture, answer) <= FLOAT32


def torchvision_steps(name):
    """Return the evaluation transform that the publisher's script composes of torchvision's, and ours."""
    import_timm()
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    half, imagenet = ((0.5, 0.5, 0.5),) * 2, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    cifar = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    narrow = {"stem": "3x3", "depths": (1, 1, 1), "stage_strides": (1, 2, 2)}
    steps, ours = {  # Resize is bilinear unless told otherwise
        "pytorchcv": ([Resize(256), CenterCrop(224), ToTensor(), Normalize(*imagenet)], {}),
        "pytorchcv-cifar": ([ToTensor(), Normalize(*cifar)], {"stem_norm": False, **narrow}),
        "bit": ([Resize((480, 480)), ToTensor(), Normalize(*half)], {}),
    }[name]
    publisher = name.partition("-")[0]
    dialect = {"pytorchcv": "pytorchcv-b"}.get(publisher, publisher)
    return Compose(steps), published(publisher, dialect, **ours)


@pytest.mark.parametrize("name", ["pytorchcv", "pytorchcv-cifar", "bit"])
def test_pictures_are_prepared_as_by_the_transform_of_the_publishers_script(name):
    transform, preprocessing = torchvision_steps(name)
    for picture in [scene(32, 32)] if "cifar" in name else PICTURES:
        answer = transform(Image.fromarray(picture)).permute(1, 2, 0).numpy()
        assert difference(preprocessing, picture, answer) <= FLOAT32


# --- the samplers ---


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_half_pixel_bilinear_is_torchs_interpolation_without_antialiasing(width, height, size):
    picture = noise(width, height)
    preprocessing = Preprocessing(
        image_size=size, resize=size, fit="squash", interpolation="bilinear", sampling="half_pixel"
    )
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(pixels, size=(size, size), mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(preprocessing(picture) - expected).max() <= HALF


# --- decoders ---


@pytest.mark.peers
@pytest.mark.parametrize("quality", [75, 95])
def test_tensorflow_decodes_a_jpeg_as_pillow_does_once_told_to_be_accurate(quality):
    tensorflow = pytest.importorskip("tensorflow")
    data = encode(noise(60, 40).resize((300, 200)), "JPEG", quality=quality)
    ours = np.asarray(open_picture(data)).astype(int)
    accurate = tensorflow.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(accurate, ours)
    coarse = tensorflow.io.decode_jpeg(data, channels=3).numpy()
    assert 0 < np.abs(coarse - ours).mean() < 3  # its default is why answers to files may differ
