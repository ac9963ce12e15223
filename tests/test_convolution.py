"""The convolution of training on CPUs against the plain one: values, gradients, and when it steps aside."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from resnetv2.creation import create_model
from resnetv2.kernels import convolution
from resnetv2.kernels.convolution import MIN_CHANNELS, ProductConv2d, conv2d, weight_gradient
from resnetv2.model import Conv2d, StdConv2d

# A gradient sums up to a few thousand products in another order than PyTorch's: 5 digits of float32's 7 and 12 of
# float64's 16 stay.
FLOAT32, FLOAT64 = 1e-5, 1e-12

# batch, channels in and out, height, width, kernel, stride, padding: odd sizes, one picture, one pixel, each branch
SHAPES = [
    (2, 64, 96, 9, 12, 3, 1, 1),
    (3, 64, 64, 10, 7, 3, 2, 1),
    (3, 65, 70, 9, 9, 3, 2, 0),
    (1, 64, 32, 15, 17, 1, 1, 0),
    (1, 64, 32, 17, 18, 1, 2, 0),
    (2, 64, 80, 7, 7, 1, 1, 0),
    (2, 66, 3, 13, 14, 1, 2, 0),
    (4, 64, 48, 1, 1, 1, 1, 0),
    (1, 64, 1, 1, 1, 3, 1, 1),
    (5, 128, 64, 2, 2, 3, 1, 1),
]


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def operands(shape, dtype=torch.float32, bias=True):
    """Return map, kernel and bias, and the stride and padding."""
    n, c, k, h, w, kernel, stride, padding = shape
    generator = torch.Generator().manual_seed(n + c + h + w)
    x = torch.randn(n, c, h, w, dtype=dtype, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(k, c, kernel, kernel, dtype=dtype, generator=generator)
    tensors = [x, weight, torch.randn(k, dtype=dtype, generator=generator) if bias else None]
    return [None if tensor is None else tensor.requires_grad_() for tensor in tensors], stride, padding


def is_product(y):
    """Tell whether the convolution was ours."""
    return y.grad_fn is not None and y.grad_fn.name() == "ProductConv2dBackward"


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_pytorch(shape, bias):
    tensors, stride, padding = operands(shape, bias=bias)
    y, expected = conv2d(*tensors, stride, padding), F.conv2d(*tensors, stride, padding)
    assert is_product(y)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert difference(y, expected) <= FLOAT32
    slope = torch.randn_like(expected)
    inputs = [tensor for tensor in tensors if tensor is not None]
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, slope), torch.autograd.grad(expected, inputs, slope), strict=True
    ):
        assert difference(ours, theirs) <= FLOAT32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_weight_gradient_in_float64_is_that_of_pytorch_however_many_pictures_are_taken_at_a_time(
    shape, monkeypatch
):
    (x, weight, _), stride, padding = operands(shape, torch.float64)
    expected = F.conv2d(x, weight, None, stride, padding)
    slope = torch.randn_like(expected).contiguous(memory_format=torch.channels_last)
    theirs = torch.autograd.grad(expected, weight, slope)[0]
    for limit in (1, 1 << 17, 1 << 24):
        monkeypatch.setattr(convolution, "PATCH_BYTES", limit)
        ours = weight_gradient(x.detach(), slope, weight.shape[-1], stride, padding)
        assert difference(ours, theirs) <= FLOAT64


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5, 6, 3, 1, 1), (1, 3, 2, 5, 5, 3, 2, 1), (2, 2, 3, 3, 5, 1, 2, 0)], ids=str
)
def test_gradients_agree_with_differences_of_values(shape):
    tensors, stride, padding = operands(shape, torch.float64)
    assert gradcheck(lambda x, w, b: ProductConv2d.apply(x, w, b, stride, padding), tensors)


def test_a_small_map_is_multiplied_in_every_direction_and_a_larger_one_is_not():
    for side, stride, small in ((7, 1, True), (13, 2, True), (8, 1, False), (15, 2, False)):
        (x, weight, bias), *_ = operands((2, 64, 32, side, side, 1, stride, 0))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            conv2d(x, weight, bias, stride, 0).sum().backward()
        names = {event.name for event in profiler.events()}
        assert ("aten::convolution" in names) is not small
        assert ("aten::convolution_backward" in names) is not small


def test_only_the_gradients_that_are_asked_for_are_given():
    (x, weight, bias), *_ = operands((2, 64, 32, 9, 9, 3, 1, 1))
    y = conv2d(x.detach(), weight, bias.detach(), 1, 1)
    assert is_product(y)
    y.sum().backward()
    assert x.grad is None
    assert bias.grad is None
    assert weight.grad is not None


@pytest.mark.parametrize("slope", ["expanded", "NCHW", "sliced"])
def test_gradients_arrive_in_any_layout(slope):
    (x, weight, bias), *_ = operands((2, 64, 32, 9, 9, 3, 1, 1))
    y, expected = conv2d(x, weight, bias, 1, 1), F.conv2d(x, weight, bias, 1, 1)
    arriving = {
        "expanded": torch.randn(2, 32, 1, 1).expand(2, 32, 9, 9),
        "NCHW": torch.randn(2, 32, 9, 9),
        "sliced": torch.randn(2, 64, 18, 9)[:, ::2, ::2],
    }[slope]
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, weight, bias), arriving),
        torch.autograd.grad(expected, (x, weight, bias), arriving),
        strict=True,
    ):
        assert difference(ours, theirs) <= FLOAT32


def test_the_result_may_be_changed_in_place():
    for side in (7, 9):
        (x, weight, bias), *_ = operands((2, 64, 64, side, side, 1, 1, 0))
        conv2d(x, weight, bias, 1, 0).add_(x).relu_().sum().backward()
        ours = x.grad
        x.grad = None
        F.conv2d(x, weight, bias).add(x).relu().sum().backward()
        assert difference(ours, x.grad) <= FLOAT32


def test_a_gradient_can_be_differentiated_again():
    curvatures = []
    for run in (conv2d, F.conv2d):
        (x, weight, bias), *_ = operands((2, 64, 32, 9, 9, 3, 1, 1))
        slopes = torch.autograd.grad(run(x, weight, bias, 1, 1).square().sum(), (x, weight), create_graph=True)
        curvatures.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, weight, bias)))
    for ours, theirs in zip(*curvatures, strict=True):
        assert difference(ours, theirs) <= FLOAT32


def steps_aside(x, weight, run=conv2d):
    return not is_product(run(x, weight, None, 1, 1))


def test_it_steps_aside_where_it_was_not_measured_or_would_change_what_happens():
    (x, weight, _), *_ = operands((2, 64, 32, 9, 9, 3, 1, 1))
    assert not steps_aside(x, weight)
    with torch.no_grad():
        assert conv2d(x, weight, None, 1, 1).grad_fn is None
    assert steps_aside(x, weight.detach())  # a frozen weight has no gradient to be faster at
    assert steps_aside(x.contiguous(), weight)
    assert steps_aside(x.double(), weight.double())
    assert steps_aside(x.bfloat16(), weight.bfloat16())
    assert steps_aside(x[:, : MIN_CHANNELS - 1].contiguous(memory_format=torch.channels_last), weight[:, :-1])
    assert steps_aside(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight, None, 1, 1).dtype == torch.bfloat16
    subclass = type("Marked", (torch.Tensor,), {})
    assert steps_aside(x.as_subclass(subclass), weight)


def test_transforms_of_functions_work_as_with_the_plain_convolution():
    (x, weight, _), *_ = operands((2, 64, 32, 9, 9, 3, 1, 1))
    x, weight = x.detach(), weight.detach()

    def loss(run):
        return lambda weight, x: run(x[None], weight, None, 1, 1).square().sum()

    ours, theirs = (vmap(grad(loss(run)), (None, 0))(weight, x) for run in (conv2d, F.conv2d))
    assert torch.equal(ours, theirs)
    weight.requires_grad_()
    tangents = []
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangents = [forward_ad.unpack_dual(run(dual, weight, None, 1, 1)).tangent for run in (conv2d, F.conv2d)]
    assert torch.equal(*tangents)


# --- in the network ---------------------------------------------------------------------------------------------------


def network(**changes):
    torch.manual_seed(3)
    changes = {"depths": (1, 1, 1, 1), "num_classes": 5, **changes}
    return create_model("resnet50v2", **changes).to(memory_format=torch.channels_last)


def picture(dtype=torch.float32):
    x = torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    return x.to(dtype, memory_format=torch.channels_last)


def gradients(model):
    model.zero_grad()
    F.cross_entropy(model(picture(model.head.fc.weight.dtype)), torch.arange(4)).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]


def convolutions(model):
    """Return how many convolutions of a training step were ours, and how many there are."""
    seen = []

    def look(module, inputs, output):
        seen.append(is_product(output))

    hooks = [module.register_forward_hook(look) for module in model.modules() if isinstance(module, nn.Conv2d)]
    gradients(model)
    for hook in hooks:
        hook.remove()
    return sum(seen), len(seen)


@pytest.mark.parametrize("memory", ["saved", "recompute"])
@pytest.mark.parametrize("dialect", ["torch", "keras", "bit"])
def test_every_convolution_of_a_step_but_the_stem_is_ours(dialect, memory):
    ours, all_ = convolutions(network(dialect=dialect, memory=memory))
    assert (ours, all_) == (16, 17)


def test_a_network_in_another_layout_or_type_is_left_to_pytorch():
    assert convolutions(network().to(memory_format=torch.contiguous_format))[0] > 0  # the picture decides
    model = network()
    assert {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)} == {Conv2d}
    assert {type(m) for m in network(dialect="bit").modules() if isinstance(m, nn.Conv2d)} == {StdConv2d}
    model.requires_grad_(requires_grad=False)
    model.head.requires_grad_()
    assert convolutions(model)[0] == 0


def test_a_step_in_float32_is_as_near_to_float64_as_pytorch_is(monkeypatch):
    model = network()
    exact = gradients(copy.deepcopy(model).double())
    ours = gradients(model)
    monkeypatch.setattr(convolution, "_suits", lambda x, weight: False)
    theirs = gradients(model)
    assert not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    error, usual = (
        torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)]) for found in (ours, theirs)
    )
    assert error.median() <= 2 * usual.median()  # both are rounding: neither is the nearer one everywhere
    assert error.max() <= 2 * usual.max()


@pytest.mark.parametrize("memory", ["saved", "recompute"])
def test_a_step_gives_the_same_bits_every_time(memory):
    model = network(memory=memory)
    first, second = gradients(model), gradients(model)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    plain = network()
    plain.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(plain), strict=True))


def test_a_network_that_records_gradients_can_still_be_traced_and_exported():
    model = network().eval()
    x = picture()
    expected = model(x)
    assert difference(torch.jit.trace(model, x)(x), expected) <= FLOAT32
    assert difference(torch.export.export(model, (x,)).module()(x), expected) <= FLOAT32
    weights = dict(model.named_parameters())
    assert difference(functional_call(model, weights, x), expected) <= FLOAT32
