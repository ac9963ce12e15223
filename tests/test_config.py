import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from resnetv2.config import (
    ARCHITECTURES,
    CHOICES,
    DIALECTS,
    RANGES,
    ResNetV2Config,
    architecture,
)
from resnetv2.errors import ConfigError
from resnetv2.model import ResNetV2
from resnetv2.shapes import count_parameters
from resnetv2.weights.catalogue import list_models

# The "d" networks have a deep stem, which these dialects' norm after the stem convolution has no place in.
STEM_NORM = {"gluon", "symbol", "pytorchcv", "pytorchcv-b", "torch7"}
PAIRS = [(name, dialect) for name in ARCHITECTURES for dialect in DIALECTS]
POSSIBLE = [(name, dialect) for name, dialect in PAIRS if not (name.endswith("d") and dialect in STEM_NORM)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_config_survives_json_in_every_dialect(name):
    for dialect in [dialect for possible, dialect in POSSIBLE if possible == name]:
        config = architecture(name, dialect)
        again = ResNetV2Config.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert hash(again) == hash(config)


def test_a_changed_field_survives_json():
    config = architecture("resnet50v2", "keras", width_factor=0.5, depths=(1, 2, 3, 4), stem="3x3", num_classes=0)
    assert ResNetV2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config != architecture("resnet50v2", "keras")


@pytest.mark.parametrize(("name", "dialect"), [pair for pair in PAIRS if pair not in POSSIBLE])
def test_a_deep_stem_refuses_the_dialects_that_norm_the_stem(name, dialect):
    with pytest.raises(ConfigError, match="stem_norm"):
        architecture(name, dialect)


def test_the_defaults_are_resnet50_in_the_torch_dialect():
    assert architecture("resnet50v2") == ResNetV2Config()


def test_dialects_of_one_architecture_differ_from_each_other():
    assert len({architecture("resnet50v2", dialect) for dialect in DIALECTS}) == len(DIALECTS)


def test_a_config_is_frozen():
    config = architecture("resnet50v2")
    with pytest.raises(FrozenInstanceError):
        config.num_classes = 7


@pytest.mark.parametrize(
    ("call", "suggestion"),
    [
        (lambda: architecture("resnet_50_v2"), "unknown architecture 'resnet_50_v2': did you mean 'resnet50v2'?"),
        (lambda: architecture("resnet50v2", "kera"), "unknown dialect 'kera': did you mean 'keras'?"),
        (lambda: architecture("resnet50v2", drop_rat=1), "unknown architecture field 'drop_rat'"),
        (lambda: architecture("resnet50v2", stem_poll="zero"), "did you mean 'stem_pool'?"),
        (lambda: ResNetV2Config.from_dict({"norm_epsilon": 1e-5}), "did you mean 'norm_eps'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(call, suggestion):
    with pytest.raises(ConfigError) as caught:
        call()
    assert suggestion in str(caught.value)


OUT_OF_RANGE = {
    "depths": ((), (3, 0), (3, 4.0, 6, 3), (True, 2, 2, 2)),
    "stage_strides": ((), (1, 2, 2), (1, 2, 3, 2)),
    "num_classes": (-1,),
    "in_chans": (0, -3),
    "width_factor": (0.0, -1.0, 0.001, float("nan"), float("inf")),
    "norm_eps": (0.0, -1e-5, 2.0, float("nan")),
    "norm_momentum": (-0.1, 1.5, float("nan")),
    "weight_std_eps": (0.0, -1e-10, float("inf")),
    **dict.fromkeys(CHOICES, ("other", "")),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name_and_repeated(name):
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(ConfigError) as caught:
            ResNetV2Config(**{name: value})
        assert name in str(caught.value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("field", fields(ResNetV2Config), ids=lambda field: field.name)
def test_a_value_of_another_type_is_refused_by_name(field):
    for value in ("yes", 1, 0.5, True, None, [1, 2], {}):
        fits = type(value) is type(field.default) or (type(field.default) is float and type(value) is int)
        if not fits:
            with pytest.raises(
                ConfigError, match=rf"^{field.name} must be of type {type(field.default).__name__}, got"
            ):
                ResNetV2Config(**{field.name: value})


def test_every_limit_itself_is_allowed():
    for name, limits in RANGES.items():
        for limit in limits:
            assert getattr(ResNetV2Config(**{name: limit}), name) == limit


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        ResNetV2Config(depths=(0,), stem="5x5", num_classes=-1, norm_eps=0.0, width_factor=-2.0)
    for name in ("depths", "stage_strides", "stem", "num_classes", "norm_eps", "width_factor"):
        assert f"{name} must" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        ResNetV2Config(num_classes="ten", stem_bias=1)
    assert "num_classes must be of type int" in str(caught.value)
    assert "stem_bias must be of type bool" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "group", "width_factor": 0.25}, "16 channels; norm 'group' has 32 groups"),
        ({"norm": "evonorm", "width_factor": 0.75}, "48 channels; norm 'evonorm' has 32 groups"),
        ({"norm": "group", "stem": "deep", "width_factor": 0.5}, "16 channels; norm 'group' has 32 groups"),
        ({"stem": "deep", "stem_norm": True}, "stem_norm is for"),
        ({"first_norm": False}, "first_norm=False needs stem_norm=True"),
        ({"weight_std": True, "same_padding": True}, "weight_std and same_padding exclude each other"),
    ],
)
def test_fields_that_cannot_live_together_are_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        ResNetV2Config(**changes)
    assert words in str(caught.value)


def trainable(config):
    with torch.device("meta"):
        return sum(p.numel() for p in ResNetV2(config).parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parameter_count_is_that_of_the_network_in_every_dialect(name):
    for dialect in [dialect for possible, dialect in POSSIBLE if possible == name]:
        config = architecture(name, dialect)
        assert count_parameters(config) == trainable(config), dialect


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "group"},
        {"norm": "evonorm"},
        {"norm": "evonorm", "stem": "deep", "projection_pool": True},
        {"width_factor": 2},
        {"in_chans": 1},
        {"in_chans": 5, "input_norm": True},
        {"num_classes": 0},
        {"stem": "3x3"},
        {"stem": "3x3", "stem_bias": True, "stem_norm": True},
        {"stem": "deep", "stem_bias": True, "in_chans": 4},
        {"first_norm": False, "stem_norm": True, "projection_input": "raw", "out_bias": True},
        {"depths": (1, 2), "stage_strides": (1, 2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["resnet18v2", "resnet50v2"])
def test_the_parameter_count_is_that_of_the_network_in_every_variant(name, changes):
    config = architecture(name, **changes)
    assert count_parameters(config) == trainable(config)


# Trainable parameters as the publishers' own modules have them; the "slim" and "official" checkpoints have a background
# class at index 0. The "gluon" count is theirs plus the three biases of the input norm, which they fix at 0.
@pytest.mark.parametrize(
    ("name", "dialect", "changes", "published"),
    [
        ("resnet18v2", "torch", {}, 11_687_720),
        ("resnet34v2", "torch", {}, 21_795_880),
        ("resnet50v2", "torch", {}, 25_549_352),
        ("resnet101v2", "torch", {}, 44_541_480),
        ("resnet152v2", "torch", {}, 60_185_128),
        ("resnet18v2d", "torch", {}, 11_706_952),
        ("resnet34v2d", "torch", {}, 21_815_112),
        ("resnet50v2d", "torch", {}, 25_568_584),
        ("resnet101v2d", "torch", {}, 44_560_712),
        ("resnet152v2d", "torch", {}, 60_204_360),
        ("resnet50v2d", "torch", {"norm": "group"}, 25_568_584),
        ("resnet50v2d", "torch", {"norm": "evonorm"}, 25_591_368),
        ("resnet50v2", "keras", {}, 25_568_360),
        ("resnet50v2", "keras", {"num_classes": 0}, 23_564_800 - 45_440),
        ("resnet101v2", "keras", {}, 44_577_896),
        ("resnet152v2", "keras", {}, 60_236_904),
        ("resnet50v2", "slim", {"num_classes": 1001}, 25_570_409),
        ("resnet101v2", "slim", {"num_classes": 1001}, 44_579_945),
        ("resnet152v2", "slim", {"num_classes": 1001}, 60_238_953),
        ("resnet200v2", "slim", {"num_classes": 1001}, 64_728_169),
        ("resnet50v2", "official", {"num_classes": 1001}, 25_551_401),
        ("resnet50v2", "bit", {}, 25_549_352),
        ("resnet50v2", "bit", {"width_factor": 3}, 217_319_080),
        ("resnet101v2", "bit", {"width_factor": 3}, 387_934_888),
        ("resnet152v2", "bit", {"width_factor": 2}, 236_335_208),
        ("resnet18v2", "gluon", {}, 11_687_848 + 3),
        ("resnet50v2", "gluon", {}, 25_549_480 + 3),
        ("resnet18v2", "pytorchcv", {}, 11_687_848),
        ("resnet50v2", "pytorchcv", {}, 25_549_480),
        ("resnet50v2", "pytorchcv-b", {}, 25_549_480),
        ("resnet152v2", "pytorchcv", {}, 60_185_256),
        ("resnet200v2", "pytorchcv-b", {}, 64_666_280),
        ("resnet50v2", "kerascv", {"num_classes": 0}, 23_519_360),
        ("resnet50v2", "haiku", {}, 25_549_352),
    ],
)
def test_the_parameter_count_is_the_published_one(name, dialect, changes, published):
    assert count_parameters(architecture(name, dialect, **changes)) == published


@pytest.mark.parametrize("depth", [18, 34])
def test_projections_stand_where_each_publisher_has_them(depth):
    def stages(dialect):
        return [unit.stage for unit in architecture(f"resnet{depth}v2", dialect).units() if unit.project]

    for dialect in ("torch", "gluon", "pytorchcv", "torch7", "bit", "haiku"):
        assert stages(dialect) == [1, 2, 3], dialect  # stage 0 keeps its 64 channels
    for dialect in ("official", "symbol", "keras", "slim", "kerascv"):
        assert stages(dialect) == [0, 1, 2, 3], dialect


def test_strided_units_are_the_first_or_the_last_of_their_stage():
    def strided(dialect):
        return [(u.stage, u.number) for u in architecture("resnet50v2", dialect).units() if u.stride == 2]

    assert strided("torch") == [(1, 0), (2, 0), (3, 0)]
    assert strided("keras") == [(0, 2), (1, 3), (2, 5)]
    assert strided("kerascv") == [(1, 3), (2, 5), (3, 2)]


def test_names_are_listed_by_pattern():
    assert list_models() == list(ARCHITECTURES)
    assert list_models("resnet50*") == ["resnet50v2", "resnet50v2d"]
    assert list_models("*d") == [name for name in ARCHITECTURES if name.endswith("d")]
    assert list_models("vgg*") == []


def test_the_config_is_known_without_torch_or_numpy():
    program = "import sys, resnetv2.config, resnetv2.errors; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
