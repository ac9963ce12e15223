"""Several processes that train one network: what they see, compute, agree on and write is what one process would."""

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from processes import together
from runs import SETTINGS, TINY, write_colours
from torch import nn

import resnetv2
from resnetv2.data.index import read_index
from resnetv2.data.load import Share
from resnetv2.errors import ConfigError, Error, Interrupted
from resnetv2.recipes import TrainConfig
from resnetv2.training.checkpoint import list_checkpoints
from resnetv2.training.distributed import Gradients, World
from resnetv2.training.loop import Run
from resnetv2.training.losses import make_loss
from resnetv2.training.optimizers import make_optimizer
from resnetv2.training.run import make_run
from resnetv2.training.step import Stepper
from resnetv2.training.syncbn import synchronize

SIZES = (1, 2, 3)
SHARED = {
    **SETTINGS,
    "batch_size": 13,
    "epochs": 2,
}  # 31 pictures: batches of 10, 10 and 11, which none of SIZES divides
OPTIONS = {**TINY, "workers": 1, "sync_bn": True, "ema_decay": 0.5, "mixup": 0.4, "cutmix": 0.4, "track": "none"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    data = write_colours(tmp_path_factory.mktemp("data") / "colours", train=10, val=9)
    (data / "train" / "red" / "more.png").write_bytes((data / "train" / "red" / "000.png").read_bytes())
    return data


# --- the same samples, figures and weights, whatever the number of processes ---


def watched_run(data, out, settings, options):
    """Train, and return what this process saw in each step, and its loss, weights and figures."""
    seen, losses, take_step = [], [], Run.take_step

    def watch(run, batch, rate):
        hashes = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in batch.pictures]
        outcome = take_step(run, batch, rate)
        seen.append(dict(zip(batch.indices.tolist(), hashes, strict=True)))
        losses.append(outcome.loss)
        return outcome

    Run.take_step = watch
    result = resnetv2.train(data, out=out, set=options, **settings)
    return {"seen": seen, "losses": losses, "result": (result.val_score, result.val_n, result.best_epoch)}


@pytest.fixture(scope="module")
def runs(colours, tmp_path_factory):
    """The same run in 1, 2 and 3 processes: what each of these saw, and the run's folder."""
    found = {}
    for size in SIZES:
        out = tmp_path_factory.mktemp("runs") / f"of-{size}"
        found[size] = together(size, watched_run, colours, out, SHARED, OPTIONS), out
    return found


def test_every_picture_of_a_step_is_seen_once_with_the_same_augmentation(runs):
    (alone,), _ = runs[1]
    for size in SIZES[1:]:
        answers, _ = runs[size]
        for step, whole in enumerate(alone["seen"]):
            parts = [answer["seen"][step] for answer in answers]
            assert sum(map(len, parts)) == len(whole)
            assert {key: value for part in parts for key, value in part.items()} == whole
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_all_processes_agree_on_losses_and_figures(runs):
    for size in SIZES[1:]:
        answers, _ = runs[size]
        for answer in answers[1:]:
            assert answer["losses"] == answers[0]["losses"]
            assert answer["result"] == answers[0]["result"]


def test_the_loss_of_the_first_step_is_that_of_one_process(runs):
    (alone,), _ = runs[1]
    for size in SIZES[1:]:
        # the same weights and pictures; forward rounds in other places: some roundings of 6e-8
        assert runs[size][0][0]["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-6)


def test_one_process_writes_the_files_of_a_run_and_they_are_those_of_one_alone(runs):
    names = {path.relative_to(runs[1][1]) for path in runs[1][1].rglob("*")}
    for size in SIZES[1:]:
        out = runs[size][1]
        assert {path.relative_to(out) for path in out.rglob("*")} == names
        assert [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2]
        assert (out / "config.json").read_bytes() == (runs[1][1] / "config.json").read_bytes()
        assert json.loads((out / "environment.json").read_text())["processes"] == size
        assert resnetv2.verify(out / "best.safetensors", device="cpu").ok


def validation(data, out):
    """Return answers and figures of a network that no step has changed."""
    index, world = read_index(data), World.from_environment()
    config = TrainConfig(**SHARED, **TINY).fitted(index.task, index.classes)
    run = make_run(config, index, out, None, world)
    own = sum(len(batch.labels) for batch in run.parts.val.batches())
    with world.connected(60):
        answers, labels = run.validate()
    return own, answers, run.objective.figures(answers, labels), run.objective.headline(answers, labels)


def test_validation_counts_each_picture_once_and_its_figures_are_the_same_bits(colours, tmp_path):
    ((own, answers, figures, headline),) = together(1, validation, colours, tmp_path)
    assert own == len(answers) == 27
    for size in (2, 3, 4):  # 27 pictures are three batches of 9: one and two, one each, and one process without any
        found = together(size, validation, colours, tmp_path)
        assert sum(each[0] for each in found) == 27
        for _, theirs, *rest in found:
            assert np.array_equal(theirs, answers)
            assert rest == [figures, headline]


def steps_in_double(options, kind, classes, mixed):
    """Take steps on random pictures in double precision; return losses, weights and running statistics."""
    world = World.from_environment()
    config = TrainConfig(**{**SHARED, "batch_size": 11}, **{**TINY, **options})
    torch.manual_seed(0)
    model = resnetv2.create_model("resnet18v2", num_classes=classes, width_factor=0.25).double()
    if world.size > 1 and config.sync_bn:
        synchronize(model)
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) if kind == "weighted" else None
    loss = make_loss("classification", "cross_entropy", weights, 0.1, classes)
    loss = type(loss)(lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, weights), loss.divisors)
    optimizer = make_optimizer(model, lr=0.05, weight_decay=1e-3)
    stepper = Stepper(model, loss, optimizer, config, torch.device("cpu"), world=world)
    model.train()
    losses = []
    with world.connected(60):
        stepper.join()
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            pictures = torch.randn(11, 3, 64, 64, dtype=torch.float64, generator=generator)
            labels = torch.randint(classes, (11,), generator=generator)
            if mixed:
                labels = torch.rand(11, classes, dtype=torch.float64, generator=generator).softmax(dim=1)
            mine = torch.from_numpy(world.share(config.grad_accum_steps).places(11))
            outcome = stepper(pictures[mine], labels[mine], 0.05, step, 11 - len(mine))
            losses.append(outcome.loss)
    return losses, {name: value.detach().numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "kind", "mixed"),
    [
        ({}, "plain", False),
        ({"grad_accum_steps": 2, "clip_grad": 0.1}, "weighted", False),
        ({"memory": "recompute", "optimizer": "adamw"}, "plain", True),
    ],
)
def test_with_synchronised_batch_norm_steps_are_those_of_one_process_in_double_precision(options, kind, mixed):
    options = {"sync_bn": True, **options}
    ((losses, weights),) = together(1, steps_in_double, options, kind, 3, mixed)
    for size in (2,) if "grad_accum_steps" in options else (3,):
        for theirs, found in together(size, steps_in_double, options, kind, 3, mixed):
            # three steps' roundings of 1e-16; the gradients' sums, sent in float64, and the norms' in float64 and float32
            assert theirs == pytest.approx(losses, rel=1e-6)
            for name, value in weights.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
