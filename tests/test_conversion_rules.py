"""Shapes without torch, and the tables that lead from publishers' tensors to ours and back."""

import re

import numpy as np
import pytest
import torch

from resnetv2.config import ARCHITECTURES, DIALECTS, ResNetV2Config, architecture
from resnetv2.conversion.recognition import PUBLISHERS, choose, recognise
from resnetv2.conversion.rules import OPS, Rule, misfits, read, their_shape, write
from resnetv2.errors import ConvertError
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.shapes import tensor_shapes

BOTTLENECKS = ("resnet50v2", "resnet101v2", "resnet152v2", "resnet200v2")
BASIC = ("resnet18v2", "resnet34v2")
PUBLISHED = [  # publisher, architecture, dialect, changes
    *[("timm", name, "torch", {}) for name in ARCHITECTURES],
    ("timm", "resnet50v2d", "torch", {"norm": "group"}),
    ("timm", "resnet50v2d", "torch", {"norm": "evonorm"}),
    *[("timm", "resnet50v2", "bit", {"weight_std_eps": 1e-8, "width_factor": w, "num_classes": 21843}) for w in (1, 3)],
    ("timm", "resnet152v2", "bit", {"weight_std_eps": 1e-8, "width_factor": 4}),
    *[(p, name, "keras", {}) for p in ("keras", "keras3") for name in BOTTLENECKS[:3]],
    *[(p, "resnet50v2", "keras", {"num_classes": 0}) for p in ("keras", "keras3")],
    *[(p, name, "torch", {}) for p in ("kerashub", "kerashub3") for name in BOTTLENECKS[:2]],
    ("kerashub3", "resnet50v2", "torch", {"num_classes": 0}),
    *[(p, name, "kerascv", {"num_classes": 0}) for p in ("kerascv", "kerascv3") for name in BOTTLENECKS[:3]],
    *[("qubvel", name, "symbol", {}) for name in (*BASIC, *BOTTLENECKS[:3])],
    *[("slim", name, "slim", {"num_classes": 1001}) for name in BOTTLENECKS],
    *[("official", name, "official", {"num_classes": 1001}) for name in (*BASIC, *BOTTLENECKS)],
    *[("bit", "resnet50v2", "bit", {"width_factor": w, "num_classes": c}) for w in (1, 3) for c in (1000, 21843)],
    *[("bit", "resnet152v2", "bit", {"width_factor": w}) for w in (2, 4)],
    ("huggingface", "resnet50v2", "bit", {"weight_std_eps": 1e-8}),
    *[(p, name, "gluon", {}) for p in ("gluon", "onnx-zoo") for name in (*BASIC, *BOTTLENECKS[:3])],
    *[("symbol", name, "symbol", {}) for name in (*BASIC, *BOTTLENECKS)],
    *[("torch7", name, "torch7", {}) for name in ("resnet18v2", "resnet200v2")],
    ("torch7", "resnet200v2", "torch7", {"stem_bias": True, "out_bias": True}),
    *[("pytorchcv", name, "pytorchcv-b", {}) for name in (*BASIC, *BOTTLENECKS)],
    *[("pytorchcv", name, "pytorchcv", {}) for name in BOTTLENECKS],
    ("pytorchcv", "resnet50v2", "pytorchcv-b", {"depths": (3, 30, 48, 8)}),
    *[
        (
            "pytorchcv",
            "resnet18v2",
            "pytorchcv-b",
            {
                "stem": "3x3",
                "stem_norm": False,
                "width_factor": 0.25,
                "num_classes": 10,
                "stage_strides": (1, 2, 2),
                "block": block,
                "depths": (n,) * 3,
            },
        )
        for block, n in (("basic", 3), ("basic", 18), ("bottleneck", 18), ("bottleneck", 111))
    ],
]


def published(number):
    publisher, name, dialect, changes = PUBLISHED[number]
    return PUBLISHERS[publisher], architecture(name, dialect, **changes), dialect


def title(number):
    publisher, name, dialect, changes = PUBLISHED[number]
    return "-".join([publisher, name, dialect, *[f"{k}={v}" for k, v in changes.items()]])


every_published_network = pytest.mark.parametrize("number", range(len(PUBLISHED)), ids=title)


def twins_of(publisher, config):
    """Return the dialects that differ in what this publisher's file does not hold, if there are any."""
    if publisher == "pytorchcv" and config.block == "bottleneck" and config.stem == "7x7":
        return {"pytorchcv", "pytorchcv-b"}
    if publisher in ("keras3", "kerascv3") and config.num_classes == 0:
        return {"keras", "kerascv"}
    return set()


def outlines(publisher, config):
    """Return what the publisher's file would hold, as shapes without memory behind them."""
    shapes = tensor_shapes(config)
    rules = publisher.rules(config)
    return {rule.theirs: np.broadcast_to(np.float32(0), their_shape(rule, shapes[rule.ours])) for rule in rules}


def small(dialect="keras", **changes):
    """Return a config and random weights of a small network."""
    fields = {"depths": (2, 1, 1, 1), "width_factor": 0.25, "num_classes": 5, **changes}
    config = architecture("resnet50v2", dialect, **fields)
    generator = np.random.default_rng(0)
    weights = {n: generator.normal(size=s).astype(np.float32) for n, s in tensor_shapes(config).items()}
    if config.input_norm:
        weights["input_norm.weight"][:] = 1
    return config, weights


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shapes_without_torch_are_those_of_the_torch_model(name, dialect):
    if dialect in ("gluon", "symbol", "pytorchcv", "pytorchcv-b", "torch7") and name.endswith("d"):
        pytest.skip("a deep stem has no norm after it")
    config = architecture(name, dialect)
    with torch.device("meta"):
        state = ResNetV2(config).state_dict()
    expected = {n: tuple(t.shape) for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert tensor_shapes(config) == expected


@pytest.mark.parametrize("changes", [{"norm": "evonorm"}, {"norm": "group"}, {"num_classes": 0}, {"in_chans": 1}])
def test_the_shapes_follow_every_norm_and_head(changes):
    config = ResNetV2Config(**changes)
    with torch.device("meta"):
        model = ResNetV2(config)
    expected = {n: tuple(t.shape) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert tensor_shapes(config) == expected


@pytest.mark.parametrize("op", OPS)
def test_every_operation_has_an_exact_inverse(op):
    ours = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    if op == "conv":
        ours = np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3)
    if op == "ones":
        ours = np.ones(3, np.float32)
    theirs = OPS[op].write(ours)
    np.testing.assert_array_equal(OPS[op].read(theirs), ours)


@every_published_network
def test_each_table_fills_every_tensor_exactly_once_from_one_tensor_of_theirs(number):
    publisher, config, _ = published(number)
    rules = publisher.rules(config)
    assert sorted(rule.ours for rule in rules) == sorted(tensor_shapes(config))
    assert len({rule.theirs for rule in rules}) == len(rules)


@every_published_network
def test_each_published_network_is_recognised_by_names_and_shapes_as_itself_alone(number):
    publisher, config, dialect = published(number)
    found = recognise(outlines(publisher, config))
    twins = twins_of(publisher.name, config)
    if twins:
        assert {candidate.dialect for candidate in found} == twins
        found = [candidate for candidate in found if candidate.dialect == dialect]
    assert [(c.publisher.name, c.dialect, c.config) for c in found] == [(publisher.name, dialect, config)]
    assert publisher.title in found[0].reason


@pytest.mark.parametrize("name", PUBLISHERS)
def test_weights_written_and_read_again_are_the_same_bytes(name):
    fields = next(p for p in PUBLISHED if p[0] == name)
    changes = {k: v for k, v in fields[3].items() if k != "width_factor"}
    width = {"width_factor": 0.5} if "bit" in fields[2] else {}  # 32 groups need 32 channels
    config, weights = small(fields[2], **{k: v for k, v in changes.items() if k == "weight_std_eps"}, **width)
    publisher = PUBLISHERS[name]
    theirs = write(weights, publisher.rules(config), config)
    again = read(theirs, publisher.rules(config), config)
    assert list(again) == [rule.ours for rule in publisher.rules(config)]
    assert {n: (v.shape, v.dtype, v.tobytes()) for n, v in again.items()} == {
        n: (v.shape, v.dtype, v.tobytes()) for n, v in weights.items()
    }
    assert {n: v.tobytes() for n, v in write(again, publisher.rules(config), config).items()} == {
        n: v.tobytes() for n, v in theirs.items()
    }


def test_what_was_read_can_be_written_to_and_shares_no_memory_with_the_source():
    config, weights = small("torch")
    theirs = write(weights, PUBLISHERS["timm"].rules(config), config)
    for value in theirs.values():
        value.flags.writeable = False
    for name, value in read(theirs, PUBLISHERS["timm"].rules(config), config).items():
        assert value.flags.writeable, name
        assert value.flags.c_contiguous, name


def test_all_that_does_not_fit_is_said_at_once():
    config, weights = small()
    rules = PUBLISHERS["keras"].rules(config)
    theirs = write(weights, rules, config)
    theirs["somebody_elses/kernel"] = np.zeros((1, 1), np.float32)
    theirs["post_bn/gamma"] = np.zeros(3, np.float32)
    theirs["post_bn/beta"] = np.full_like(theirs["post_bn/beta"], np.nan)
    theirs["conv1_conv/bias"] = np.zeros(16, np.int64)
    del theirs["predictions/bias"]
    with pytest.raises(ConvertError) as caught:
        read(theirs, rules, config)
    for text in (
        "absent: predictions/bias",
        "unused: somebody_elses/kernel",
        "of another shape: post_bn/gamma is 3 instead of 512",
        "not of floating point: conv1_conv/bias (int64)",
        "holding NaN or infinite numbers: post_bn/beta",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", ["conv1_conv/kernel", "conv2_block1_0_conv/bias", "conv5_block1_3_conv/kernel"])
def test_one_absent_one_foreign_and_one_misshapen_tensor_are_each_an_error(name):
    config, weights = small()
    rules = PUBLISHERS["keras"].rules(config)
    theirs = write(weights, rules, config)
    transposed = np.ascontiguousarray(theirs[name][..., None])
    for changed in (
        {n: v for n, v in theirs.items() if n != name},
        {**theirs, f"{name}_2": theirs[name]},
        {**theirs, name: transposed},
    ):
        with pytest.raises(ConvertError, match=re.escape(name)):
            read(changed, rules, config)
        assert recognise(changed) == []
        with pytest.raises(ConvertError):
            choose(changed)


def test_a_table_without_a_rule_for_one_of_our_tensors_says_which():
    config, weights = small()
    rules = PUBLISHERS["keras"].rules(config)
    theirs = write(weights, rules, config)
    with pytest.raises(ConvertError, match=r"unfilled: head\.fc\.bias"):
        read(theirs, [rule for rule in rules if rule.ours != "head.fc.bias"], config)


def test_many_tensors_of_one_problem_are_counted():
    config, _ = small()
    problems = misfits({}, PUBLISHERS["keras"].rules(config), tensor_shapes(config))
    assert len(problems["absent"]) == len(tensor_shapes(config))
    with pytest.raises(ConvertError, match=r"and \d+ more"):
        read({}, PUBLISHERS["keras"].rules(config), config)


def test_writing_what_a_format_has_no_place_for_is_an_error_that_names_it():
    config, weights = small("keras")
    without_place = "without a place in this format: .*stem.conv.bias"
    rules = [rule for rule in PUBLISHERS["keras"].rules(config) if rule.ours != "stem.conv.bias"]
    with pytest.raises(ConvertError, match=without_place):
        write(weights, rules, config)
    weights["more"] = weights.pop("norm.weight")
    weights["norm.bias"] = weights["norm.bias"][:3]
    with pytest.raises(ConvertError) as caught:
        write(weights, PUBLISHERS["keras"].rules(config), config)
    for text in ("absent: norm.weight", "not in the network: more", "norm.bias is 3 instead of 512"):
        assert text in str(caught.value)


def test_the_scale_that_mxnet_ignores_is_read_as_one_whatever_is_stored_or_not():
    config, weights = small("gluon")
    rules = PUBLISHERS["gluon"].rules(config)
    theirs = write(weights, rules, config)
    assert Rule("features.0.gamma", "input_norm.weight", "ones") in rules
    for stored in ({**theirs, "features.0.gamma": np.full(3, 7, np.float32)}, dict(theirs)):
        if stored["features.0.gamma"][0] != 7:
            del stored["features.0.gamma"]
        assert recognise(stored)
        np.testing.assert_array_equal(read(stored, rules, config)["input_norm.weight"], np.ones(3))
    weights["input_norm.weight"][:] = 2
    with pytest.raises(ConvertError, match=r"its readers ignore them: input_norm\.weight"):
        write(weights, rules, config)


def test_tensors_that_two_networks_share_are_an_error_that_lists_them():
    config, weights = small("pytorchcv")
    theirs = write(weights, PUBLISHERS["pytorchcv"].rules(config), config)
    with pytest.raises(ConvertError, match=r"'pytorchcv:pytorchcv' .*'pytorchcv:pytorchcv-b'"):
        choose(theirs)
    assert choose(theirs, "pytorchcv:pytorchcv").config.stride_conv == "conv1"
    assert choose(theirs, "pytorchcv:pytorchcv-b").config.stride_conv == "conv2"


def test_an_unknown_source_and_foreign_tensors_are_errors_that_say_so():
    config, weights = small("torch")
    theirs = write(weights, PUBLISHERS["timm"].rules(config), config)
    with pytest.raises(ConvertError, match="did you mean 'timm'"):
        choose(theirs, "timn")
    with pytest.raises(ConvertError, match="no ResNet-v2 of 'keras'"):
        choose(theirs, "keras")
    with pytest.raises(ConvertError, match=r"known publisher; it has 1 tensors: layer1\.0\.conv1\.weight"):
        choose({"layer1.0.conv1.weight": np.zeros((64, 64, 3, 3), np.float32)})


def test_prefixes_counters_and_extras_are_taken_off_and_named():
    source = {
        "resnet_v2_50/conv1/weights": np.zeros(1),
        "resnet_v2_50/conv1/weights/Momentum": np.zeros(1),
        "global_step": np.zeros((), np.int64),
    }
    weights, extras = PUBLISHERS["slim"].tidy(source)
    assert list(weights) == ["conv1/weights"]
    assert extras == ["resnet_v2_50/conv1/weights/Momentum", "global_step"]
    numbered = {"resnet/block1/unit01/a/standardized_conv2d_17/kernel": np.zeros(1)}
    assert list(PUBLISHERS["bit"].tidy(numbered)[0]) == ["resnet/block1/unit01/a/standardized_conv2d/kernel"]


def test_two_names_for_one_tensor_are_an_error():
    twice = {"resnet/group_norm/gamma": np.zeros(1), "resnet/group_norm_3/gamma": np.zeros(1)}
    with pytest.raises(ConvertError, match="the same tensor twice: resnet/group_norm_3/gamma"):
        PUBLISHERS["bit"].tidy(twice)


@pytest.mark.parametrize("number", range(len(PUBLISHED)), ids=title)
def test_every_publishers_way_with_pictures_can_be_said(number):
    publisher, config, _ = published(number)
    assert isinstance(publisher.geometry(config).preprocessing, Preprocessing)


@pytest.mark.parametrize(("name", "dialect"), [("gluon", "gluon"), ("kerashub", "torch"), ("pytorchcv", "pytorchcv")])
def test_nothing_is_assumed_where_the_publishers_own_code_decides_everything(name, dialect):
    assert PUBLISHERS[name].geometry(architecture("resnet50v2", dialect)).caveat == ""


def test_tf_slims_pictures_are_cut_before_they_are_squashed():
    geometry = PUBLISHERS["slim"].geometry(architecture("resnet50v2", "slim"))
    assert (geometry.preprocessing.central_fraction, geometry.preprocessing.fit) == (0.875, "squash")
    assert geometry.caveat == (
        "224 pixels are TF-Slim's default, 299 those of the variant as-trained; class 0 is the background"
    )
