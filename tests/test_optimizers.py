"""Optimizers: against timm's and PyTorch's, their groups, their pull to the start, and their state."""

import copy

import numpy as np
import pytest
import torch
from peers import import_timm

from resnetv2.config import architecture
from resnetv2.errors import ConfigError
from resnetv2.model import ResNetV2
from resnetv2.training.lamb import Lamb
from resnetv2.training.optimizers import (
    OPTIMIZERS,
    StartingPoint,
    group_parameters,
    layer_depths,
    load_state_tensors,
    make_optimizer,
    set_rate,
    state_tensors,
)

import_timm()
from timm.optim import Lamb as TimmLamb  # noqa: E402  once torchvision's operators are declared
from timm.optim import param_groups_layer_decay  # noqa: E402  likewise


def make_model(name="resnet18v2", **fields):
    torch.manual_seed(0)
    fields = {"num_classes": 3, "width_factor": 0.25, **fields}
    return ResNetV2(architecture(name, "torch", **fields)).to(memory_format=torch.channels_last)


def set_gradients(model, step, size=1.0):
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        grad = size * torch.randn(p.shape, generator=generator)
        p.grad = torch.empty_like(p).copy_(grad)


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(parameters(one), parameters(other), strict=True))


def plain_groups(model, decay):
    groups = [[p for p in model.parameters() if (p.ndim > 1) == is_decayed] for is_decayed in (True, False)]
    return [{"params": g, "weight_decay": w} for g, w in zip(groups, (decay, 0.0), strict=True)]


# --- LAMB -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.02, 0.0])
def test_lamb_follows_timms_step_by_step(decay):
    ours, theirs = make_model(), make_model()
    us = Lamb(plain_groups(ours, decay), lr=5e-3)
    them = TimmLamb(plain_groups(theirs, decay), lr=5e-3, max_grad_norm=None)
    for step in range(12):
        for model, optimizer in ((ours, us), (theirs, them)):
            set_gradients(model, step)
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 / (1 + step)
            optimizer.step()
        for a, b in zip(parameters(ours), parameters(theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-6)  # float32 products in two orders, of weights near 1


def test_lamb_behind_pytorchs_clipping_is_timms_with_its_own():
    ours, theirs = make_model(), make_model()
    us, them = Lamb(plain_groups(ours, 0.02), lr=5e-3), TimmLamb(plain_groups(theirs, 0.02), lr=5e-3, max_grad_norm=1.0)
    for step in range(6):
        for model in (ours, theirs):
            set_gradients(model, step, size=[10.0, 1e-4][step % 2])
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        us.step()
        them.step()
    for a, b in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-6)  # PyTorch divides by the norm + 1e-6


def test_lamb_moves_a_tensor_by_the_rate_times_its_own_length():
    weight = torch.nn.Parameter(3 * torch.randn(40, 30))
    before = weight.detach().clone()
    weight.grad = torch.randn(40, 30) * 1e4
    Lamb([weight], lr=0.01, weight_decay=1e-3).step()
    torch.testing.assert_close((weight - before).norm(), 0.01 * before.norm())


def test_lamb_takes_adams_step_from_zero_weights_and_leaves_what_has_no_gradient():
    weights = [torch.nn.Parameter(torch.zeros(5, 4)), torch.nn.Parameter(torch.ones(2, 2))]
    weights[0].grad = torch.randn(5, 4)
    optimizer = Lamb(weights, lr=0.01, weight_decay=0.1)
    optimizer.step()
    torch.testing.assert_close(weights[0].abs(), torch.full((5, 4), 0.01), rtol=1e-4, atol=0)  # eps beside |gradient|
    assert torch.equal(weights[1], torch.ones(2, 2))
    assert weights[1] not in optimizer.state


def test_lamb_returns_the_loss_of_a_closure():
    weight = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = Lamb([weight])

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert optimizer.step(closure) < 9.0


# --- by name and in groups --------------------------------------------------------------------------------------------


def test_sgd_is_pytorchs_with_nesterov_momentum():
    ours, theirs = make_model(), make_model()
    us = make_optimizer(ours, "sgd", lr=0.1, weight_decay=5e-4, momentum=0.9)
    them = torch.optim.SGD(plain_groups(theirs, 5e-4), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    for step in range(4):
        for model, optimizer in ((ours, us), (theirs, them)):
            set_gradients(model, step)
            optimizer.step()
    assert same(ours, theirs)


def test_adamw_is_pytorchs():
    ours, theirs = make_model(), make_model()
    us = make_optimizer(ours, "adamw", lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    them = torch.optim.AdamW(plain_groups(theirs, 0.05), lr=1e-3, betas=(0.9, 0.95), fused=True)
    for step in range(4):
        for model, optimizer in ((ours, us), (theirs, them)):
            set_gradients(model, step)
            optimizer.step()
    assert same(ours, theirs)


@pytest.mark.parametrize("fields", [{}, {"norm": "evonorm"}, {"norm": "group", "stem": "deep"}])
def test_every_trained_parameter_is_in_one_group_and_vectors_are_not_decayed(fields):
    model = make_model("resnet50v2", width_factor=1, **fields)
    model.stem.requires_grad_(requires_grad=False)
    for layer_decay in (1.0, 0.7):
        groups = group_parameters(model, 0.1, layer_decay)
        grouped = [id(p) for group in groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
        for group in groups:
            assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}
    assert len(group_parameters(model, 0.1)) == 2


def test_rates_fall_toward_the_stem_as_timms_do():
    timms = import_timm().create_model("resnetv2_50", num_classes=3)
    names = {id(p): name for name, p in timms.named_parameters()}
    expected = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(timms, 0.1, layer_decay=0.75, no_weight_decay_list=())
        for p in group["params"]
    }
    ours = make_model("resnet50v2", width_factor=1)
    scales = {name: 0.75**depth for name, depth in layer_depths(ours).items()}
    assert scales == pytest.approx(expected, rel=1e-12)  # the same names, too
    assert scales["head.fc.weight"] == 1
    assert scales["stem.conv.weight"] == 0.75**17
    groups = group_parameters(ours, 0.1, 0.75)
    assert sorted({g["lr_scale"] for g in groups}) == sorted(set(scales.values()))


def test_set_rate_keeps_the_layers_proportions():
    model = make_model()
    optimizer = make_optimizer(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    set_rate(optimizer, 0.2)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {0.2 * 0.5**depth for depth in range(10)}, "head, eight units, stem"


def test_impossible_optimizers_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'lamb'"):
        make_optimizer(make_model(), "lam", lr=0.1, weight_decay=0)
    with pytest.raises(ConfigError, match="layer_decay"):
        make_optimizer(make_model(), lr=0.1, weight_decay=0, layer_decay=0.0)


# --- L2-SP ------------------------------------------------------------------------------------------------------------


def test_the_pull_is_the_gradient_of_l2_sps_term():
    model = make_model()
    start = StartingPoint(model, 0.01)
    starts = dict(zip([n for n, _ in model.named_parameters()], parameters(model), strict=True))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    set_gradients(model, 0)
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    term = sum(
        0.01 / 2 * (p - starts[name]).square().sum()
        for name, p in model.named_parameters()
        if p.ndim > 1 and not name.startswith("head.")
    )
    pulled = dict(zip(starts, torch.autograd.grad(term, list(model.parameters()), allow_unused=True), strict=True))
    start.pull()
    for name, p in model.named_parameters():
        expected = before[name] if pulled[name] is None else before[name] + pulled[name]
        torch.testing.assert_close(p.grad, expected)
    assert torch.equal(model.head.fc.weight.grad, before["head.fc.weight"])
    assert torch.equal(model.norm.weight.grad, before["norm.weight"])


def test_a_pull_to_zero_is_sgds_own_decay():
    ours, theirs = make_model(), make_model()
    start = StartingPoint(ours, 0.05)
    start.starts = [torch.zeros_like(s) for s in start.starts]
    us = make_optimizer(ours, lr=0.1, weight_decay=0.05, decay_head_only=True)
    them = make_optimizer(theirs, lr=0.1, weight_decay=0.05)
    for step in range(3):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        start.pull()
        us.step()
        them.step()
    for a, b in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # float32 sums in two orders


def test_without_a_task_the_weights_return_to_their_start():
    model = make_model()
    before = parameters(model)
    start = StartingPoint(model, 1.0)
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0, momentum=0, decay_head_only=True)
    with torch.no_grad():
        for p in start.weights:
            p.add_(1)
    for _ in range(30):
        optimizer.zero_grad()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        start.pull()
        optimizer.step()
    for a, b in zip(parameters(model), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.9**30 * 1.01)  # what is left of 1, each step taking a tenth


def test_parameters_that_are_not_trained_or_have_no_gradient_are_not_pulled():
    model = make_model()
    model.stem.requires_grad_(requires_grad=False)
    start = StartingPoint(model, 0.1)
    assert not any(p is model.stem.conv.weight for p in start.weights)
    start.pull()
    assert all(p.grad is None for p in model.parameters())


# --- state ------------------------------------------------------------------------------------------------------------


def make(model, name, layer_decay=0.8):
    return make_optimizer(model, name, lr=0.01, weight_decay=0.02, layer_decay=layer_decay)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_detour_over_named_tensors_changes_no_bit(name):
    straight = make_model()
    optimizer = make(straight, name)
    for step in range(3):
        set_gradients(straight, step)
        optimizer.step()
    saved = {key: np.array(value.numpy(), order="C") for key, value in state_tensors(straight, optimizer).items()}
    resumed = copy.deepcopy(straight)
    other = make(resumed, name)
    load_state_tensors(resumed, other, {key: torch.from_numpy(value) for key, value in saved.items()})
    for step in range(3, 6):
        for model, each in ((straight, optimizer), (resumed, other)):
            set_gradients(model, step)
            each.step()
    assert same(straight, resumed)
    one, two = state_tensors(straight, optimizer), state_tensors(resumed, other)
    assert list(one) == list(two)
    assert all(torch.equal(one[key], two[key]) and one[key].dtype == two[key].dtype for key in one)
    assert all(one[key].stride() == two[key].stride() for key in one), "laid out as the weights are, so as fast"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("sgd", {"momentum_buffer"}),
        ("adamw", {"step", "exp_avg", "exp_avg_sq"}),
        ("lamb", {"step", "exp_avg", "exp_avg_sq"}),
    ],
)
def test_names_are_kind_and_parameter_whatever_the_groups(name, kinds):
    found = []
    for layer_decay in (1.0, 0.5):
        model = make_model()
        optimizer = make(model, name, layer_decay)
        assert state_tensors(model, optimizer) == {}, "before the first step"
        set_gradients(model, 0)
        optimizer.step()
        found.append(set(state_tensors(model, optimizer)))
    assert found[0] == found[1] == {f"{kind}.{p}" for kind in kinds for p, _ in model.named_parameters()}


def test_sgd_without_momentum_has_no_state():
    model = make_model()
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0, momentum=0)
    set_gradients(model, 0)
    optimizer.step()
    assert state_tensors(model, optimizer) == {}


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_parameter_thawed_later_keeps_its_own_step_counter(name):
    model = make_model()
    optimizer = make(model, name)
    for step in range(2):
        set_gradients(model, step)
        if step == 0:
            model.head.fc.weight.grad = None
        optimizer.step()
    state = state_tensors(model, optimizer)
    assert state["step.head.fc.weight"] == 1
    assert state["step.head.fc.bias"] == 2


def test_state_that_does_not_fit_is_refused_and_nothing_is_changed():
    model = make_model()
    optimizer = make(model, "sgd")
    set_gradients(model, 0)
    optimizer.step()
    before = state_tensors(model, optimizer)
    bad = {**before, "momentum_buffer.gone": torch.zeros(3), "momentum_buffer.norm.bias": torch.zeros(3)}
    with pytest.raises(ConfigError) as error:
        load_state_tensors(model, optimizer, bad)
    assert "momentum_buffer.gone belongs to no trained parameter" in str(error.value)
    assert "momentum_buffer.norm.bias is of shape (3,)" in str(error.value)
    assert all(value is before[key] for key, value in state_tensors(model, optimizer).items())
