"""One optimizer step: what it computes in parts, in lower precision, and with a loss that is no number."""

import copy

import pytest
import torch
from torch.nn import functional as F

from resnetv2.config import architecture
from resnetv2.model import ResNetV2
from resnetv2.recipes import TrainConfig
from resnetv2.training.batchnorm import freeze
from resnetv2.training.losses import make_loss
from resnetv2.training.optimizers import make_optimizer
from resnetv2.training.step import Stepper, step_seed

CPU = torch.device("cpu")


def make_model(**options):
    torch.manual_seed(0)
    return ResNetV2(architecture("resnet18v2", num_classes=3, width_factor=0.25), **options)


def take(model, batches, **settings):
    """Take steps and return their outcomes."""
    config = TrainConfig(weight_decay=0.0, **{"batch_size": 12, **settings})
    optimizer = make_optimizer(model, "sgd", lr=0.1, weight_decay=0.0, momentum=0.0)
    step = Stepper(model.train(), make_loss("classification", "cross_entropy", None, 0.0, 3), optimizer, config, CPU)
    return [step(pictures, targets, 0.1, i) for i, (pictures, targets) in enumerate(batches)]


def make_batch(n=12, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 32, 32, generator=rng), torch.randint(3, (n,), generator=rng)


def moved(model, start):
    """Return by how much the weights moved, in one vector."""
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return torch.cat([(a - b).flatten() for a, b in pairs]).detach()


@pytest.mark.parametrize("n", [12, 11])
def test_a_batch_in_parts_moves_the_weights_as_the_whole_batch_does(n):
    start = make_model()
    freeze(start)  # batch norm that learns its statistics sees each part by itself
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    one, two = take(whole, [make_batch(n)])[0], take(parts, [make_batch(n)], grad_accum_steps=5)[0]
    assert abs(one.loss - two.loss) < 1e-5 * one.loss  # float32 sums in another order
    a, b = moved(whole, start), moved(parts, start)
    assert a.norm() > 0
    assert (a - b).norm() < 1e-4 * a.norm()  # likewise, through 18 layers
    assert torch.equal(one.outputs.argmax(1), two.outputs.argmax(1))


def test_a_clipped_gradient_has_the_length_that_was_chosen():
    start = make_model()
    model = copy.deepcopy(start)
    take(model, [make_batch()], clip_grad=0.01)
    assert moved(model, start).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)  # rate times length, in float32


def test_bfloat16_moves_the_weights_as_float32_does_up_to_its_rounding():
    start = make_model()
    exact, rounded = copy.deepcopy(start), copy.deepcopy(start)
    take(exact, [make_batch()])
    outcome = take(rounded, [make_batch()], amp="bf16")[0]
    assert outcome.outputs.dtype in (torch.bfloat16, torch.float32)
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    a, b = moved(exact, start), moved(rounded, start)
    assert not torch.equal(a, b), "bfloat16 must have been in force"
    assert F.cosine_similarity(a, b, dim=0) > 0.9  # 8 bits of mantissa through 18 layers


def test_a_loss_that_is_no_number_leaves_the_weights_as_they_were():
    model = make_model()
    start = copy.deepcopy(model)
    pictures, targets = make_batch()
    pictures[0, 0, 0, 0] = torch.nan
    outcome = take(model, [(pictures, targets)])[0]
    assert outcome.loss != outcome.loss
    assert not moved(model, start).any()


def test_dropped_paths_are_those_of_the_step_whatever_was_drawn_before():
    start = make_model(drop_path_rate=0.5, drop_rate=0.5)
    one, other = copy.deepcopy(start), copy.deepcopy(start)
    take(one, [make_batch()])
    torch.manual_seed(99)
    torch.rand(17)
    take(other, [make_batch()])
    assert torch.equal(moved(one, start), moved(other, start))
    assert len({step_seed(seed, step) for seed in range(20) for step in range(20)}) == 400
