import copy
import subprocess
import sys
from functools import cache
from math import ceil

import numpy as np
import pytest
import torch
from peers import import_timm, randomise
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from resnetv2.config import ARCHITECTURES, DIALECTS, architecture
from resnetv2.creation import create_model
from resnetv2.errors import ConfigError
from resnetv2.model import (
    EvoNormS0,
    FeatureMaps,
    InputNorm,
    ResidualUnit,
    ResNetV2,
    SameConv2d,
    StdConv2d,
    drop_path,
    max_pool,
)

# Two evaluations of one network differ by rounding alone. Sums of up to 4608 products over some 50 layers keep 13
# digits in float64 and 6 in float32; a wrong border, eps or stride costs more, as the tests of the switches show.
FLOAT64 = 1e-10
FLOAT32 = 1e-5

SMALL = {"depths": (2, 2, 1, 1), "width_factor": 0.5, "num_classes": 5}  # 32 channels: the least that 32 groups allow

# Every graph the code can make, small: each dialect, and what no dialect has.
GRAPHS = {dialect: ("resnet50v2", {"dialect": dialect, **SMALL}) for dialect in DIALECTS} | {
    "group": ("resnet50v2", {"norm": "group", **SMALL}),
    "evonorm": ("resnet50v2", {"norm": "evonorm", **SMALL}),
    "basic": ("resnet18v2", SMALL),
    "basic keras": ("resnet18v2", {"dialect": "keras", **SMALL}),
    "deep": ("resnet50v2d", SMALL),
    "deep haiku": ("resnet18v2d", {"dialect": "haiku", **SMALL}),
    "3x3": ("resnet50v2", {"stem": "3x3", **SMALL}),
}


def small(graph, **changes):
    name, kwargs = GRAPHS[graph]
    return create_model(name, **{**kwargs, **changes})


def difference(ours, theirs):
    """Largest absolute difference over the largest absolute value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def rounding(graph):
    """Bound between two float64 evaluations of one graph. EvoNorm takes its variance in float32 in any case."""
    return FLOAT32 if graph == "evonorm" else FLOAT64


def meta(name, **kwargs):
    with torch.device("meta"):
        return create_model(name, **kwargs)


# --- published facts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kwargs", "parameters", "statistics"),
    [
        ("resnet50v2", {}, 25_549_352, 45_440),
        ("resnet50v2", {"dialect": "keras"}, 25_568_360, 45_440),
        ("resnet50v2", {"dialect": "slim", "num_classes": 1001}, 25_570_409, 45_440),
        ("resnet101v2", {"dialect": "keras"}, 44_577_896, 97_664),
        ("resnet152v2", {"dialect": "keras"}, 60_236_904, 143_744),
        ("resnet18v2", {}, 11_687_720, 7_808),
        ("resnet34v2d", {}, 21_815_112, 15_360),
        ("resnet50v2d", {}, 25_568_584, 45_568),
        ("resnet50v2d", {"norm": "evonorm"}, 25_591_368, 0),
        ("resnet50v2", {"dialect": "bit"}, 25_549_352, 0),
    ],
)
def test_parameters_and_running_statistics_are_as_many_as_published(name, kwargs, parameters, statistics):
    model = meta(name, **kwargs)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(b.numel() for b in model.buffers() if b.ndim) == statistics  # num_batches_tracked has no dimension


@pytest.mark.parametrize("dialect", ["gluon", "symbol"])
def test_the_input_norm_adds_twelve_numbers_of_which_the_scale_is_frozen(dialect):
    model = meta("resnet50v2", dialect=dialect)
    # what the published files of this lineage hold: weights, statistics and a stored scale of ones
    assert sum(t.numel() for t in model.state_dict().values() if t.ndim) == 25_595_060
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["input_norm.weight"]


@pytest.mark.parametrize(
    ("name", "kwargs", "pixels", "gmac"),
    [
        ("resnet50v2", {}, 224, 4.089),
        ("resnet50v2", {"dialect": "keras"}, 224, 3.482),
        ("resnet50v2", {"dialect": "keras"}, 299, 6.536),
        ("resnet101v2", {"dialect": "keras"}, 224, 7.194),
        ("resnet152v2", {"dialect": "keras"}, 299, 20.211),
        ("resnet50v2", {"dialect": "gluon"}, 224, 4.089),
        ("resnet50v2", {"dialect": "pytorchcv"}, 224, 3.858),
        ("resnet50v2", {"dialect": "pytorchcv-b"}, 224, 4.089),
        ("resnet50v2", {"dialect": "bit"}, 224, 4.089),
        ("resnet18v2", {}, 224, 1.814),
        ("resnet34v2d", {}, 224, 3.903),
        ("resnet50v2d", {}, 224, 4.329),
        ("resnet152v2", {}, 224, 11.514),
    ],
)
def test_the_cost_in_multiplications_is_the_published_one(name, kwargs, pixels, gmac):
    model = meta(name, **kwargs).eval()
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, pixels, pixels, device="meta"))
    assert round(total / 1e9, 3) == gmac


def test_resnet50_has_one_stem_48_unit_and_4_projection_convolutions():
    model = meta("resnet50v2")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    projections = [name for name in names if ".downsample." in name]
    assert len(names) == 53
    assert [name for name in names if name.startswith("stem.")] == ["stem.conv"]
    assert projections == [f"stages.{stage}.blocks.0.downsample.conv" for stage in range(4)]
    assert [name for name, module in model.named_modules() if isinstance(module, nn.Linear)] == ["head.fc"]


def test_names_and_shapes_of_resnet50_are_those_of_the_published_files():
    shapes = {name: tuple(t.shape) for name, t in meta("resnet50v2").state_dict().items()}
    assert len(shapes) == 53 + 49 * 5 + 2  # convolutions, batch norms of five tensors each, head
    assert shapes.items() >= {
        ("stem.conv.weight", (64, 3, 7, 7)),
        ("stages.0.blocks.0.norm1.weight", (64,)),
        ("stages.0.blocks.0.conv1.weight", (64, 64, 1, 1)),
        ("stages.0.blocks.0.conv2.weight", (64, 64, 3, 3)),
        ("stages.0.blocks.0.conv3.weight", (256, 64, 1, 1)),
        ("stages.0.blocks.0.downsample.conv.weight", (256, 64, 1, 1)),
        ("stages.1.blocks.0.norm1.running_mean", (256,)),
        ("stages.1.blocks.0.downsample.conv.weight", (512, 256, 1, 1)),
        ("stages.2.blocks.5.conv2.weight", (256, 256, 3, 3)),
        ("stages.3.blocks.2.norm3.running_var", (512,)),
        ("stages.3.blocks.2.conv3.weight", (2048, 512, 1, 1)),
        ("norm.bias", (2048,)),
        ("head.fc.weight", (1000, 2048)),
        ("head.fc.bias", (1000,)),
    }


def test_the_keras_dialect_adds_biases_and_nothing_else():
    torch_names, keras_names = (set(meta("resnet50v2", dialect=d).state_dict()) for d in ("torch", "keras"))
    assert torch_names < keras_names
    added = {"stem.conv.bias"}
    added |= {f"stages.{stage}.blocks.0.downsample.conv.bias" for stage in range(4)}
    added |= {name.replace("weight", "bias") for name in torch_names if name.endswith("conv3.weight")}
    assert keras_names - torch_names == added


# --- parity with timm -------------------------------------------------------------------------------------------------

PEERS = {
    "resnetv2_18": ("resnet18v2", {}),
    "resnetv2_34d": ("resnet34v2d", {}),
    "resnetv2_50": ("resnet50v2", {}),
    "resnetv2_50d": ("resnet50v2d", {}),
    "resnetv2_50d_gn": ("resnet50v2d", {"norm": "group"}),
    "resnetv2_50d_evos": ("resnet50v2d", {"norm": "evonorm"}),
    "resnetv2_50x1_bit": ("resnet50v2", {"dialect": "bit", "weight_std_eps": 1e-8}),
}


@cache
def peer(name):
    """Return timm's network with random weights, in float64, and its weights in the shapes of ours."""
    model = randomise(import_timm().create_model(name)).double().eval()
    state = dict(model.state_dict())
    state["head.fc.weight"] = state["head.fc.weight"].flatten(1)  # timm's head is a 1x1 convolution
    return model, state


def with_weights(config, state, dtype=torch.float64):
    """Return our network in eval mode with ``state``; what ``state`` lacks is as in a new network, projections zero."""
    with torch.device("meta"):
        model = ResNetV2(config)
    weights = {}
    for name, tensor in model.state_dict().items():
        ones = tensor.ndim == 1 and name.endswith(("weight", "running_var"))
        new = torch.full(tensor.shape, 1.0 if ones else 0.0)
        weights[name] = state.get(name, new).to(dtype if tensor.is_floating_point() else tensor.dtype)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def picture(pixels, dtype=torch.float64, batch=2):
    return torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(1), dtype=dtype)


def theirs_maps(model, x):
    x = model.stem(x)
    maps = []
    for stage in model.stages:
        x = stage(x)
        maps.append(x)
    return [*maps[:-1], model.norm(x)]


@pytest.mark.parametrize("name", PEERS)
def test_names_of_the_weights_are_those_of_timm(name):
    ours, changes = PEERS[name]
    state = peer(name)[1]
    assert {k: v.shape for k, v in meta(ours, **changes).state_dict().items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)], ids=str)
@pytest.mark.parametrize("name", PEERS)
def test_logits_and_maps_are_those_of_timm(name, dtype, bound):
    theirs, state = peer(name)
    if dtype == torch.float32:
        theirs = copy.deepcopy(theirs).float()
        # Standardised kernels amplify: with these weights timm's own float32 logits lie 9e-6 from its float64 ones, and
        # ours as far on another side.
        bound *= 4 if name == "resnetv2_50x1_bit" else 1
    architecture_name, changes = PEERS[name]
    ours = with_weights(create_config(architecture_name, changes), state, dtype)
    # an even and an odd size; 224 and its neighbour for the network this package is named after
    for pixels in (64, 65, *((224, 225) if name == "resnetv2_50" else ())):
        x = picture(pixels, dtype, batch=1 if pixels > 200 else 2)
        with torch.no_grad():
            maps, expected_maps = ours.forward_maps(x), theirs_maps(theirs, x)
            assert difference(ours.forward_head(maps[-1]), theirs.forward_head(expected_maps[-1])) <= bound
        assert max(difference(a, b) for a, b in zip(maps, expected_maps, strict=True)) <= bound


def create_config(name, changes):
    changes = dict(changes)
    return architecture(name, changes.pop("dialect", "torch"), **changes)


# Each of these is one published network mistaken for another. If one passed the bound, parity would prove nothing.
WRONG = [
    ("resnetv2_50", {"stem_pool": "zero"}),
    ("resnetv2_50", {"stem_pool": "same"}),
    ("resnetv2_50", {"same_padding": True}),
    ("resnetv2_50", {"norm_eps": 2e-5}),
    ("resnetv2_50", {"norm_eps": 1.001e-5}),
    ("resnetv2_50", {"stride_conv": "conv1"}),
    ("resnetv2_50", {"stride_unit": "last"}),
    ("resnetv2_50", {"stage_strides": (2, 2, 2, 1)}),
    ("resnetv2_50", {"projection_input": "raw"}),
    ("resnetv2_50", {"stem_norm": True}),
    ("resnetv2_50", {"stem_norm": True, "first_norm": False}),
    ("resnetv2_50", {"input_norm": True}),
    ("resnetv2_50", {"weight_std": True}),
    ("resnetv2_18", {"projection": "always"}),
    ("resnetv2_50d", {"projection_pool": False}),
    ("resnetv2_50d", {"stem_pool": "zero"}),
    ("resnetv2_50d_gn", {"norm_eps": 2e-5}),
    ("resnetv2_50d_evos", {"norm_eps": 2e-5}),
    ("resnetv2_50d_evos", {"norm": "group"}),
    ("resnetv2_50x1_bit", {"weight_std_eps": 1e-10}),
    ("resnetv2_50x1_bit", {"weight_std": False}),
    ("resnetv2_50x1_bit", {"stem_pool": "ignore"}),
]


@cache
def peer_logits(name):
    with torch.no_grad():
        return peer(name)[0](picture(64))


@pytest.mark.parametrize(("name", "change"), WRONG, ids=str)
def test_one_wrong_switch_breaks_parity(name, change):
    ours, changes = PEERS[name]
    model = with_weights(create_config(ours, {**changes, **change}), peer(name)[1])
    with torch.no_grad():
        assert difference(model(picture(64)), peer_logits(name)) > FLOAT64


def test_a_training_step_has_the_gradients_and_statistics_of_timm():
    theirs, state = peer("resnetv2_50")
    theirs = copy.deepcopy(theirs).train()
    ours = with_weights(architecture("resnet50v2"), copy.deepcopy(state)).train()
    x, target = picture(64, batch=4), torch.tensor([1, 2, 3, 4])
    for model in (ours, theirs):
        F.cross_entropy(model(x), target).backward()
    peers = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    for name, parameter in ours.named_parameters():
        # Rounding grows on the way back through batch norms over 4x2x2 values; a wrong formula fails the first digit.
        assert difference(parameter.grad, peers[name].grad.reshape(parameter.shape)) <= 1e-8, name
    for name, buffer in ours.named_buffers():
        assert difference(buffer.double(), peers[name].double()) <= FLOAT64, name


# --- layers -----------------------------------------------------------------------------------------------------------


def padded_same(x, kernel, value):
    """Pad as TensorFlow documents SAME for stride 2: ceil(size / 2) outputs, the smaller half of the padding first."""
    pads = []
    for size in reversed(x.shape[-2:]):
        total = max((ceil(size / 2) - 1) * 2 + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (11, 8)])
def test_same_padding_is_that_of_tensorflow(size):
    x = torch.randn(1, 4, *size) - 5  # negative throughout, so that a zero border would win the maximum
    assert torch.equal(max_pool(x, "same"), F.max_pool2d(padded_same(x, 3, float("-inf")), 3, 2))
    for kernel in (3, 7):
        conv = SameConv2d(4, 6, kernel, 2)
        expected = F.conv2d(padded_same(x, kernel, 0.0), conv.weight, conv.bias, 2)
        assert difference(conv(x), expected) <= FLOAT32


def test_the_border_of_the_stem_pool_is_what_its_name_says():
    x = -torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    assert max_pool(x, "ignore").flatten().tolist() == [-1, -2, -5, -6]
    assert max_pool(x, "zero").flatten().tolist() == [0, 0, 0, -6]
    assert max_pool(x, "same").flatten().tolist() == [-1, -3, -9, -11]


def test_standardised_kernels_have_mean_zero_and_variance_one():
    conv = StdConv2d(8, 6, 3, padding=1, bias=True)
    conv.eps = 1e-3
    weight = conv.weight.detach().numpy().astype(np.float64)
    axes = (1, 2, 3)
    weight = (weight - weight.mean(axes, keepdims=True)) / np.sqrt(weight.var(axes, keepdims=True) + 1e-3)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = F.conv2d(x, torch.from_numpy(weight), conv.bias.double(), padding=1)
    assert difference(conv.double()(x), expected) <= 1e-7  # NumPy started from the same float32 weights
    assert difference(conv(x), conv(x) * 0 + F.conv2d(x, conv.weight, conv.bias, padding=1)) > 0.1


def test_drop_path_zeroes_whole_samples_and_keeps_the_expected_value():
    rate, n = 0.25, 10_000
    out = drop_path(torch.ones(n, 2, 3, 3), rate, training=True)
    per_sample = out[:, 0, 0, 0]
    assert torch.equal(out, per_sample.view(n, 1, 1, 1).expand_as(out))
    assert sorted(set(per_sample.tolist())) == pytest.approx([0.0, 1 / 0.75])
    # The mean of n scaled coin tosses has a standard error of sqrt(rate / (1 - rate) / n) = 0.0058; five of them.
    assert abs(per_sample.mean().item() - 1) < 5 * (rate / (1 - rate) / n) ** 0.5


def test_drop_path_does_nothing_in_eval_or_at_rate_zero():
    x = torch.randn(3, 2, 2, 2)
    assert drop_path(x, 0.5, training=False) is x
    assert drop_path(x, 0.0, training=True) is x


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
def test_gradients_reach_every_parameter(graph):
    # In eval mode, because a batch norm that takes the batch's own mean makes the gradient of any bias before it zero.
    model = randomise(small(graph)).eval()
    F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_sample_alone_gets_the_logits_it_gets_in_a_batch(graph):
    model = randomise(small(graph)).double().eval()
    x = torch.randn(3, 3, 48, 40, dtype=torch.float64)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(sample[None]) for sample in x])
    assert difference(alone, together) <= rounding(graph)


@pytest.mark.parametrize("graph", GRAPHS)
def test_maps_have_published_strides_and_channels_at_any_size(graph):
    with torch.device("meta"):
        model = small(graph, depths=(2, 2, 2, 2)).eval()
    wide = 0.5 * (1 if model.config.block == "bottleneck" else 0.25)
    channels = [512, 1024, 2048, 2048] if graph == "kerascv" else [256, 512, 1024, 2048]
    first = 1 if graph == "3x3" else 4
    reduction = [first, 2 * first, 4 * first, 8 * first]
    assert model.feature_info.channels() == [c * wide for c in channels]
    assert model.feature_info.reduction() == reduction
    for h, w in ((32, 32), (33, 47), (64, 37), (50, 63)):
        maps = model.forward_maps(torch.empty(1, 3, h, w, device="meta"))
        expected = [(1, c * wide, ceil(h / r), ceil(w / r)) for c, r in zip(channels, reduction, strict=True)]
        assert [m.shape for m in maps] == expected


@pytest.mark.parametrize("graph", GRAPHS)
def test_any_size_from_32_pixels_gives_finite_logits(graph):
    model = randomise(small(graph)).eval()
    for h, w in ((32, 32), (33, 47), (64, 37)):
        with torch.no_grad():
            logits = model(torch.randn(1, 3, h, w))
        assert logits.shape == (1, 5)
        assert torch.isfinite(logits).all()
        assert logits.std() > 0


def test_maps_of_resnet50_are_those_every_detector_expects():
    for dialect in set(DIALECTS) - {"kerascv"}:
        model = meta("resnet50v2", dialect=dialect, features_only=True)
        maps = model(torch.empty(2, 3, 224, 320, device="meta"))
        assert [m.shape for m in maps] == [
            (2, 256, 56, 80),
            (2, 512, 28, 40),
            (2, 1024, 14, 20),
            (2, 2048, 7, 10),
        ], dialect


@pytest.mark.parametrize("graph", ["torch", "keras", "kerascv"])
def test_feature_info_names_the_module_that_gives_the_map(graph):
    model = small(graph).eval()
    outputs = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: outputs.__setitem__(name, out))
    with torch.no_grad():
        maps = model.forward_maps(torch.randn(1, 3, 64, 64))
    modules = [entry["module"] for entry in model.feature_info]
    for name, tensor in zip(modules[:-1], maps[:-1], strict=True):
        assert torch.equal(outputs[name], tensor)
    assert modules[-1] == "norm"


def test_features_only_returns_the_maps_asked_for():
    whole = small("torch").eval()
    backbone = small("torch", features_only=True, out_indices=(2, 0, -1)).eval()
    assert isinstance(backbone, FeatureMaps)
    headless = {name: value for name, value in whole.state_dict().items() if not name.startswith("head.")}
    backbone.model.load_state_dict(headless)  # strict: a backbone has no head
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, expected = backbone(x), whole.forward_maps(x)
    assert all(torch.equal(ours, expected[i]) for ours, i in zip(maps, (2, 0, 3), strict=True))
    assert backbone.feature_info.channels() == [m.shape[1] for m in maps]
    assert backbone.feature_info.reduction() == [16, 4, 32]
    assert small("torch", features_only=True).out_indices == (0, 1, 2, 3)


@pytest.mark.parametrize("indices", [(4,), (0, -5)])
def test_a_map_that_does_not_exist_is_refused(indices):
    with pytest.raises(ConfigError, match="out_indices must lie in 0 … 3"):
        small("torch", features_only=True, out_indices=indices)


@pytest.mark.parametrize("graph", GRAPHS)
def test_channels_last_stays_channels_last(graph):
    model = randomise(small(graph)).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
        maps = model.forward_maps(x)
        assert difference(model(x), expected) <= rounding(graph)  # another order of summation
    for tensor in maps:
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_no_classes_give_pooled_features():
    model = small("torch", num_classes=0).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_features(x).mean((2, 3))
        assert torch.equal(model(x), pooled)
    assert model.num_classes == 0
    assert isinstance(model.get_classifier(), nn.Identity)
    assert not any(name.startswith("head.") for name in model.state_dict())


def test_logits_are_the_linear_layer_on_the_pre_logits():
    model = randomise(small("keras")).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 3, 64, 64))
        pre_logits = model.forward_head(features, pre_logits=True)
        assert pre_logits.shape == (2, model.num_features)
        assert torch.equal(model.forward_head(features), model.get_classifier()(pre_logits))


@pytest.mark.parametrize("training", [True, False])
def test_a_new_head_keeps_the_rest_the_mode_and_the_dtype(training):
    model = small("torch", drop_rate=0.5).double().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    model.reset_classifier(7)
    assert (model.num_classes, model.config.num_classes, model.head.fc.weight.shape[0]) == (7, 7, 7)
    assert model.head.fc.weight.dtype == torch.float64
    assert model.head.drop_rate == 0.5
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    with pytest.raises(ConfigError, match="num_classes"):
        model.reset_classifier(-1)


def test_dropout_acts_on_pooled_features_in_training_alone():
    model = small("torch", drop_rate=0.5, num_classes=0)
    maps = torch.ones(8, model.num_features, 2, 2)
    share = (model.forward_head(maps) == 0).float().mean().item()
    # 8 x 1024 coin tosses have a standard error of 0.0055; six of them.
    assert abs(share - 0.5) < 0.035
    assert torch.equal(model.eval().forward_head(maps), torch.ones(8, model.num_features))


def test_drop_path_grows_linearly_with_depth_and_is_off_in_eval():
    model = small("torch", drop_path_rate=0.5)
    plain = small("torch")
    plain.load_state_dict(model.state_dict())
    rates = [m.drop_path_rate for m in model.modules() if isinstance(m, ResidualUnit)]
    assert rates == pytest.approx([0.1 * n for n in range(6)])  # 0 … 0.5 over six units
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize("name", ["drop_rate", "drop_path_rate"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_a_rate_outside_0_to_1_is_refused(name, rate):
    with pytest.raises(ConfigError, match=rf"^{name} must be at least 0 and below 1, got"):
        small("torch", **{name: rate})


def test_an_unknown_memory_mode_is_refused():
    with pytest.raises(ConfigError, match="memory must be 'saved' or 'recompute', got 'half'"):
        small("torch", memory="half")


def test_an_unknown_field_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match="did you mean 'width_factor'"):
        create_model("resnet50v2", widthfactor=2)


@pytest.mark.parametrize("graph", ["torch", "keras", "torch7", "basic", "basic keras", "deep"])
def test_zero_init_last_makes_every_unit_its_own_shortcut(graph):
    model = small(graph, zero_init_last=True).eval()
    seen = 0

    def check(unit, inputs, output):
        nonlocal seen
        (x,) = inputs
        if unit.downsample is None:
            expected = x[..., :: unit.stride, :: unit.stride]
        else:
            expected = unit.downsample(x if graph == "torch7" else F.relu(unit.norm1(x)))
        assert torch.equal(output, expected)
        seen += 1

    for module in model.modules():
        if isinstance(module, ResidualUnit):
            module.register_forward_hook(check)
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert seen == 6
    assert any(p.abs().sum() > 0 for name, p in small(graph).named_parameters() if "conv3" in name or "conv2" in name)


def test_the_seed_alone_decides_the_initial_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return small("symbol").state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


def test_initial_weights_have_the_published_scale():
    model = create_model("resnet50v2", depths=(1, 1, 1, 1))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            # The sample deviation of at least 4096 normal numbers is within 5 % of the true one (4.5 standard errors).
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.head.fc.bias.count_nonzero() == 0


def test_the_input_norm_never_scales():
    model = small("gluon")
    assert isinstance(model.input_norm, InputNorm)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    optimizer.step()
    assert torch.equal(model.input_norm.weight, torch.ones(3))


# --- recompute --------------------------------------------------------------------------------------------------------


def twins(graph, **changes):
    """Return the same small network twice, keeping activations and recomputing them."""
    saved, recompute = (small(graph, memory=memory, **changes) for memory in ("saved", "recompute"))
    recompute.load_state_dict(saved.state_dict())
    return saved, recompute


def step(model, autocast=None):
    x, target = torch.randn(4, 3, 48, 40, generator=torch.Generator().manual_seed(2)), torch.arange(4)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        logits = model(x)
        loss = F.cross_entropy(logits, target)
    loss.backward()
    return logits


def assert_same_bits(saved, recompute, logits, again):
    assert torch.equal(logits, again)
    for (name, ours), other in zip(saved.named_parameters(), recompute.parameters(), strict=True):
        assert ours.grad is None or torch.equal(ours.grad, other.grad), name
    for (name, ours), other in zip(saved.named_buffers(), recompute.buffers(), strict=True):
        assert torch.equal(ours, other), name


@pytest.mark.parametrize("graph", GRAPHS)
def test_recompute_gives_the_same_bits(graph):
    saved, recompute = twins(graph)
    assert_same_bits(saved, recompute, step(saved), step(recompute))


@pytest.mark.parametrize("graph", ["torch", "group", "bit"])
def test_recompute_gives_the_same_bits_under_autocast(graph):
    saved, recompute = twins(graph)
    logits, again = step(saved, torch.bfloat16), step(recompute, torch.bfloat16)
    assert logits.dtype == torch.bfloat16
    assert_same_bits(saved, recompute, logits, again)


def test_recompute_gives_the_same_bits_with_frozen_batch_norms():
    saved, recompute = twins("torch")
    randomise(saved)
    recompute.load_state_dict(saved.state_dict())
    for model in (saved, recompute):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    assert_same_bits(saved, recompute, step(saved), step(recompute))


def test_recompute_gives_the_same_bits_with_drop_path_and_dropout():
    saved, recompute = twins("torch", drop_path_rate=0.5, drop_rate=0.5)
    outputs = []
    for model in (saved, recompute):
        torch.manual_seed(5)
        outputs.append(step(model))
    assert_same_bits(saved, recompute, *outputs)


@pytest.mark.parametrize("graph", ["torch", "gluon"])
def test_recompute_updates_running_statistics_once(graph):
    model = small(graph, memory="recompute")
    x = torch.randn(4, 3, 48, 40)
    loss = F.cross_entropy(model(x), torch.arange(4))
    forward = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss.backward()
    assert all(torch.equal(buffer, forward[name]) for name, buffer in model.named_buffers())
    counts = [buffer.item() for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert set(counts) == {1}


@pytest.mark.parametrize("graph", ["torch", "keras", "group", "bit"])
def test_recompute_can_go_backward_twice(graph):
    saved, recompute = twins(graph)
    x, target = torch.randn(4, 3, 48, 40), torch.arange(4)
    gradients = []
    for model in (saved, recompute):
        parameters = [p for p in model.parameters() if p.requires_grad]
        loss = F.cross_entropy(model(x), target)
        first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        curvature = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), parameters)
        gradients.append([*first, *curvature])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_recompute_can_ask_for_some_gradients_first():
    saved, recompute = twins("torch")
    x = torch.randn(4, 3, 48, 40)
    gradients = []
    for model in (saved, recompute):
        loss = F.cross_entropy(model(x), torch.arange(4))
        some = torch.autograd.grad(loss, [model.stages[0].blocks[0].conv2.weight], retain_graph=True)
        rest = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append([*some, *rest])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_recompute_never_runs_a_norm_of_another_kind_twice():
    class Counting(nn.Module):  # a norm that must not run twice, such as one that talks to other processes
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * 2

    model = small("torch", memory="recompute")
    counting = model.stages[0].blocks[0].norm2 = Counting()
    F.cross_entropy(model(torch.randn(4, 3, 48, 40)), torch.arange(4)).backward()
    assert counting.calls == 1


def kept_bytes(model, x):
    """Return the bytes that a forward pass leaves allocated: what backward will need, and the logits."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        logits = model(x)
    events = profiler.profiler.kineto_results.events()
    assert logits.requires_grad  # and is alive, with all that hangs on it
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.mark.parametrize("graph", ["torch", "keras", "bit", "gluon", "torch7", "haiku", "basic", "deep"])
def test_recompute_keeps_every_pre_activation_of_the_units_out_of_memory(graph):
    saved, recompute = twins(graph)
    x = torch.randn(4, 3, 64, 64)
    activations = 0

    def add(module, inputs, output):
        nonlocal activations
        activations += output.nbytes

    for name, module in saved.named_modules():
        if name.startswith("stages.") and name.rpartition(".")[2] in ("norm1", "norm2", "norm3"):
            module.register_forward_hook(add)
    kept, kept_by_recompute = kept_bytes(saved, x), kept_bytes(recompute, x)
    # Exactly the pre-activations go; one part in a hundred is for what an allocator may round up.
    assert kept - kept_by_recompute == pytest.approx(activations, rel=0.01)


def test_recompute_keeps_little_more_than_half_of_what_resnet50_keeps():
    saved, recompute = (create_model("resnet50v2", memory=memory) for memory in ("saved", "recompute"))
    x = torch.randn(2, 3, 64, 64)
    # Units keep half: of a norm's input and its activation, the input. The stem and the last norm keep all of theirs,
    # and so does the mark of the stem's maxima: together a tenth.
    assert kept_bytes(recompute, x) < 0.6 * kept_bytes(saved, x)


def test_recompute_is_off_outside_training():
    saved, recompute = twins("torch")
    x = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        assert torch.equal(recompute(x), saved(x))
        assert torch.equal(recompute.eval()(x), saved.eval()(x))
    assert kept_bytes(recompute, x) == kept_bytes(saved, x)


# --- compilers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["keras", "haiku", "evonorm"])
def test_an_exported_program_gives_the_same_logits_at_any_batch_and_size(graph):
    model = randomise(small(graph, depths=(1, 1, 1, 1))).double().eval()
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        model, (torch.randn(2, 3, 64, 80, dtype=torch.float64),), dynamic_shapes=(dynamic,)
    ).module()
    with torch.no_grad():
        for shape in ((1, 3, 48, 48), (3, 3, 65, 50)):
            x = torch.randn(shape, dtype=torch.float64)
            assert difference(program(x), model(x)) <= rounding(graph)  # the same operators, perhaps other kernels


def test_a_compiled_model_gives_the_same_logits_at_any_batch():
    torch.compiler.reset()
    model = randomise(small("torch", depths=(1, 1, 1, 1))).double().eval()
    compiled = torch.compile(model, dynamic=True, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for batch in (2, 3, 5):
            x = torch.randn(batch, 3, 64, 64, dtype=torch.float64)
            assert difference(compiled(x), model(x)) <= FLOAT64


@pytest.mark.parametrize("memory", ["saved", "recompute"])
def test_a_compiled_training_step_has_the_gradients_of_the_plain_one(memory):
    torch.compiler.reset()
    plain = small("torch", depths=(1, 1, 1, 1)).double()
    compiled = small("torch", depths=(1, 1, 1, 1), memory=memory).double()
    compiled.load_state_dict(plain.state_dict())
    x, target = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.arange(4)
    F.cross_entropy(plain(x), target).backward()
    F.cross_entropy(torch.compile(compiled, backend="aot_eager", fullgraph=True)(x), target).backward()
    for (name, ours), other in zip(compiled.named_parameters(), plain.named_parameters(), strict=True):
        assert difference(ours.grad, other[1].grad) <= 1e-8, name  # rounding, grown by batch norms over 4x2x2 values
    for (name, ours), other in zip(compiled.named_buffers(), plain.buffers(), strict=True):
        assert difference(ours.double(), other.double()) <= FLOAT64, name


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["torch", "bit", "haiku"])
def test_a_model_compiled_to_machine_code_gives_the_same_logits_at_any_batch(graph):
    torch.compiler.reset()
    model = randomise(small(graph)).double().eval()
    compiled = torch.compile(model)  # the second batch size makes the batch dynamic
    with torch.no_grad():
        for batch in (2, 3, 5):
            x = torch.randn(batch, 3, 64, 64, dtype=torch.float64)
            assert difference(compiled(x), model(x)) <= FLOAT64  # fused and reordered, the same sums


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_name_builds_and_keeps_its_config(name):
    model = meta(name, num_classes=3, in_chans=1, drop_rate=0.1).eval()
    assert model.config == architecture(name, num_classes=3, in_chans=1)
    assert model(torch.empty(1, 1, 32, 32, device="meta")).shape == (1, 3)


def test_evonorm_brings_its_own_activation():
    model = small("evonorm")
    norms = [module for module in model.modules() if isinstance(module, EvoNormS0)]
    assert len(norms) == 6 * 3 + 1
    with torch.no_grad():
        assert (
            model.forward_features(torch.randn(1, 3, 64, 64)).min() < 0
        )  # a ReLU after it would leave nothing negative


def test_building_a_network_for_weights_imports_no_compiler():
    """It takes more than a second, and every command that runs by PyTorch would wait for it."""
    code = (
        "import sys, resnetv2, torch\n"
        "from resnetv2.runtime.pytorch import build_model, weights_of\n"
        "from resnetv2.config import ResNetV2Config\n"
        "from resnetv2.model import ResNetV2\n"
        "config = ResNetV2Config(depths=(1, 1, 1, 1), width_factor=0.25)\n"
        "model = ResNetV2(config)\n"
        "build_model(config, {name: value.detach().numpy() for name, value in weights_of(model).items()})\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
