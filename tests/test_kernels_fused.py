"""Fused pre-activation kernels, run by Triton's interpreter on the CPU, against plain PyTorch in float64.

The interpreter has no products of bfloat16, so the products are tested in float32 and float16; the GPU script
``benchmarks/gpu/fused_kernels.py`` tests bfloat16, for every layer shape.
"""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

with pytest.MonkeyPatch.context() as patch:  # Triton reads this where kernels are defined
    patch.setenv("TRITON_INTERPRET", "1")
    from resnetv2.kernels import preact, triton_gemm, triton_norm  # noqa: F401  # defined here

from resnetv2 import create_model
from resnetv2.errors import ConfigError
from resnetv2.kernels.preact import LIBRARY, Choice, Tiling

SMALL = Tiling(32, 32, 32, 4, 2)
OURS = Choice(SMALL, SMALL)
# relative to float64: sums of float32 here have at most some hundred terms of 6e-8 each; a float16 has 5e-4
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}
CASES = [  # N, H, W, C, K, kernel, stride, shortcut
    (2, 5, 7, 64, 96, 1, 1, True),
    (3, 7, 7, 40, 24, 1, 1, False),
    (2, 1, 3, 16, 16, 1, 1, True),
    (2, 6, 6, 16, 32, 3, 1, True),
    (2, 7, 5, 16, 16, 3, 2, False),
]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Triton reads it where kernels run, too."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def a_map(*shape, dtype=torch.float32, mean=0.0):
    return (torch.randn(*shape) + mean).to(dtype).contiguous(memory_format=torch.channels_last)


def a_norm(channels):
    norm = nn.BatchNorm2d(channels, eps=2e-5, momentum=0.3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def a_case(n, h, w, c, k, kernel, stride, shortcut, dtype=torch.float32, mean=1.0):
    torch.manual_seed(h * c)
    conv = nn.Conv2d(c, k, kernel, stride, padding=kernel // 2, bias=False)
    conv.weight.data = conv.weight.to(dtype).float()  # the product's operand, exactly
    after = n, k, -(-h // stride), -(-w // stride)
    add = a_map(*after, dtype=dtype) if shortcut else None
    return a_norm(c), conv, a_map(n, c, h, w, dtype=dtype, mean=mean), add, a_map(*after, dtype=dtype)


def fused(norm, conv, x, add, slope, choice):
    x = x.detach().requires_grad_()
    add = None if add is None else add.detach().requires_grad_()
    norm.reset_running_stats()
    norm.zero_grad()
    conv.zero_grad()
    step = preact.Step(norm, [conv], [choice], None, passes_x=False)
    y, part, rows, _ = preact.PreactConv.apply(step, x, norm.weight, norm.bias, add, conv.weight)
    y.backward(slope)
    found = [
        y.detach(),
        x.grad,
        norm.weight.grad,
        norm.bias.grad,
        conv.weight.grad,
        norm.running_mean,
        norm.running_var,
    ]
    found += [] if add is None else [add.grad]
    return [t.clone() for t in found], preact.Moments(part, rows)


def plain(norm, conv, x, add, slope):
    """The same by torch.nn in float64."""
    x = x.detach().double().requires_grad_()
    add = None if add is None else add.detach().double().requires_grad_()
    twin = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum).double()
    twin.load_state_dict(norm.state_dict())
    twin.reset_running_stats()
    weight = conv.weight.detach().double().requires_grad_()
    y = F.conv2d(F.relu(twin(x)), weight, None, conv.stride, conv.padding)
    y = y if add is None else y + add
    y.backward(slope.double())
    found = [y.detach(), x.grad, twin.weight.grad, twin.bias.grad, weight.grad, twin.running_mean, twin.running_var]
    return found + ([] if add is None else [add.grad])


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("case", "choice"), [(case, LIBRARY) for case in CASES] + [(case, OURS) for case in CASES if case[5] == 1]
)
def test_results_gradients_and_running_statistics_are_batch_norms(case, choice, dtype):
    parts = a_case(*case, dtype=dtype)
    found, _ = fused(*parts, choice)
    for ours, theirs in zip(found, plain(*parts), strict=True):
        # float16's gradient of x is a difference of rounded terms: two of them may be all there is of a pixel
        assert distance(ours, theirs) < TOLERANCE[dtype] * (1 if dtype == torch.float32 else 4)


@pytest.mark.parametrize("choice", [OURS, LIBRARY], ids=["ours", "library"])
def test_a_second_run_gives_the_same_bits_and_nothing_is_left_unwritten(choice, monkeypatch):
    parts = a_case(*CASES[0])
    first, _ = fused(*parts, choice)

    def poisoned(*args, **options):
        return torch.full(*([args] if not isinstance(args[0], tuple) else args), float("nan"), **options)

    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, float("nan")))
    monkeypatch.setattr(torch, "empty", poisoned)
    again, _ = fused(*parts, choice)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("choice", [OURS, LIBRARY], ids=["ours", "library"])
def test_moments_are_those_of_the_map_that_is_stored(choice):
    parts = a_case(*CASES[0], dtype=torch.float16)
    (y, *_), moments = fused(*parts, choice)
    ones, pixels = torch.ones(y.shape[1]), y.numel() // y.shape[1]
    _, _, mean, rstd = triton_norm.combine_moments(*moments, pixels, ones, ones, 0.0)
    assert distance(mean, y.double().mean((0, 2, 3))) < 1e-6  # float32 sums of exact values
    assert distance(rstd, y.double().var((0, 2, 3), correction=0).rsqrt()) < 1e-6


def test_a_large_mean_does_not_spoil_the_variance():
    x = preact.flatten(a_map(2, 16, 20, 20, mean=1000.0))
    ones = torch.ones(16)
    _, part, rows = triton_norm.moments(x)
    _, _, _, rstd = triton_norm.combine_moments(part, rows, len(x), ones, ones, 0.0)
    # x itself is exact; squares of raw values, near 1e6, would be rounded to 0.06: a variance of 1 would be lost
    assert distance(rstd, x.double().var(0, correction=0).rsqrt()) < 1e-5


def test_the_gradient_of_a_shortcut_is_added_to_that_of_the_norm():
    norm, conv, x, _, slope = a_case(*CASES[1])
    through = a_map(*x.shape)
    (alone, *_), expected = fused(norm, conv, x, None, slope, OURS), plain(norm, conv, x, None, slope)
    assert len(alone) == len(expected)
    leaf = x.detach().requires_grad_()
    step = preact.Step(norm, [conv], [OURS], None, passes_x=True)
    y, _, _, passed = preact.PreactConv.apply(step, leaf, norm.weight, norm.bias, None, conv.weight)
    torch.autograd.backward([y, passed], [slope, through])
    assert distance(leaf.grad, expected[1] + through) < 2e-6  # float32


def test_a_single_value_has_no_variance_and_is_refused_as_torch_refuses_it():
    norm, conv, x, _, slope = a_case(1, 1, 1, 16, 16, 1, 1, shortcut=False)
    for run in (lambda: F.batch_norm(x, None, None, training=True), lambda: fused(norm, conv, x, None, slope, OURS)):
        with pytest.raises(ValueError, match=r"more than (1|one) value"):
            run()


def test_nan_stays_nan():
    norm, conv, x, add, slope = a_case(*CASES[0])
    x[0, 3] = float("nan")
    for choice in (OURS, LIBRARY):
        (y, *_), _ = fused(norm, conv, x, add, slope, choice)
        assert y.isnan().all()  # each of its outputs sums over the channel that is NaN, statistics and all


def test_a_unit_has_the_plain_units_results_gradients_and_statistics():
    torch.manual_seed(1)
    model = create_model("resnet50v2", num_classes=2).train()
    units = model.stages[0].blocks[:2]
    x = a_map(2, 64, 6, 6)
    found = []
    for dtype in (torch.float32, torch.float64):
        for unit in units:
            unit.to(dtype).zero_grad()
            for module in unit.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
        leaf = x.to(dtype).detach().clone(memory_format=torch.channels_last).requires_grad_()
        y, moments = leaf, None
        for unit in units:
            assert unit.is_fusible()
            y, moments = unit.forward_fused(y, moments) if dtype == torch.float32 else (unit(y), None)
        y.square().sum().backward()
        tensors = [p.grad for p in units.parameters()] + [b.clone() for b in units.buffers()]
        found.append([y.detach(), leaf.grad, *tensors])
    for ours, theirs in zip(*found, strict=True):
        assert distance(ours, theirs) < 1e-4  # float32 through six layers; one ReLU on the other side is 1e-3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda unit: unit.norm2.eval(), "frozen statistics"),
        (lambda unit: unit.conv1.weight.requires_grad_(requires_grad=False), "a frozen weight"),
        (lambda unit: setattr(unit, "norm3", nn.GroupNorm(32, 64)), "another norm"),
        (lambda unit: setattr(unit, "norm3", nn.SyncBatchNorm(64)), "a norm that talks to other processes"),
        (lambda unit: setattr(unit.norm1, "momentum", None), "an average over all batches"),
    ],
)
def test_units_of_another_kind_take_the_plain_path(change, why):
    unit = create_model("resnet50v2", num_classes=2).train().stages[0].blocks[1]
    assert unit.is_fusible()
    change(unit)
    assert not unit.is_fusible(), why


def test_standardised_kernels_and_biases_take_the_plain_path():
    for dialect in ("bit", "keras"):
        model = create_model("resnet50v2", dialect=dialect, num_classes=2).train()
        assert not any(unit.is_fusible() for unit in model.units())


def test_maps_on_the_cpu_take_the_plain_path():
    model = create_model("resnet50v2", num_classes=2)
    x = torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)
    assert not preact.suits("auto", x, model)
    assert not preact.suits("plain", x, model)


def test_where_triton_cannot_start_training_goes_on_without_it_and_says_so_once(monkeypatch, capsys):
    def no_compiler(_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    preact.can_start.cache_clear()
    assert preact.can_start(torch.device("cpu"))
    preact.can_start.cache_clear()
    monkeypatch.setattr(triton_norm, "moments", no_compiler)
    assert not preact.can_start(torch.device("cpu"))
    assert not preact.can_start(torch.device("cpu"))
    assert capsys.readouterr().err.count("Triton cannot start kernels here (Failed to find C compiler.)") == 1
    preact.can_start.cache_clear()


def test_fused_without_a_gpu_says_what_is_missing():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"needs an NVIDIA GPU.*kernels='auto' does without"):
        create_model("resnet50v2", kernels="fused")
    with pytest.raises(ConfigError, match="'auto', 'plain' or 'fused', got 'fast'"):
        create_model("resnet50v2", kernels="fast")


def test_narrow_products_are_ours_and_deep_ones_the_librarys():
    def convs(c, k, kernel=1):
        return [nn.Conv2d(c, k, kernel, bias=False)]

    wide, deep = torch.zeros(1, 256, 56, 56), torch.zeros(1, 2048, 7, 7)
    assert preact.choose(wide, convs(256, 64), add=False)[0].forward is not None
    assert preact.choose(wide, convs(128, 512), add=True)[0].forward is None
    assert preact.choose(deep, convs(512, 2048), add=True) == [LIBRARY]
    assert preact.choose(wide, convs(64, 64, 3), add=False) == [LIBRARY]
    assert preact.choose(wide, convs(256, 64) * 2, add=False) == [LIBRARY, LIBRARY]
