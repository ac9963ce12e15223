"""Several processes that train one network: what they see, compute, agree on and write is what one process would."""

import copy
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import together
from runs import SETTINGS, TINY, write_colours
from torch import nn

import resnetv2
from resnetv2.data.index import read_index
from resnetv2.data.load import Share
from resnetv2.errors import ConfigError, Error
from resnetv2.recipes import TrainConfig
from resnetv2.training.checkpoint import list_checkpoints
from resnetv2.training.distributed import Gradients, World
from resnetv2.training.loop import Run
from resnetv2.training.losses import Loss, make_loss
from resnetv2.training.optimizers import make_optimizer
from resnetv2.training.run import make_run
from resnetv2.training.start import make_model
from resnetv2.training.step import Stepper, step_seed
from resnetv2.training.syncbn import synchronize

SIZES = (1, 2, 3)
SHARED = {
    **SETTINGS,
    "batch_size": 13,
    "epochs": 2,
}  # 31 pictures: batches of 10, 10 and 11, which none of SIZES divides
OPTIONS = {
    **TINY,
    "workers": 1,
    "sync_bn": True,
    "ema_decay": 0.5,
    "mixup": 0.4,
    "cutmix": 0.4,
    "track": "none",
    "save_minutes": 60,
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    data = write_colours(tmp_path_factory.mktemp("data") / "colours", train=10, val=9)
    (data / "train" / "red" / "more.png").write_bytes((data / "train" / "red" / "000.png").read_bytes())
    return data


# --- the same samples, figures and weights, whatever the number of processes ---


def nudged(*arguments):
    """Return the network to train, its weights moved by about one rounding of float32."""
    model = make_model(*arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 2**-24 * torch.randn(parameter.shape))
    return model


def watched_run(data, out, settings, options, make=make_model):
    """Train, and return what this process saw in each step, its losses and figures."""
    resnetv2.training.run.make_model = make
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


def test_loss_curves_part_no_faster_than_those_of_one_process_whose_weights_were_rounded_otherwise(
    runs, colours, tmp_path
):
    (alone,), _ = runs[1]
    (rounded,) = together(1, watched_run, colours, tmp_path / "run", SHARED, OPTIONS, nudged)
    growth = np.abs(np.subtract(rounded["losses"], alone["losses"])).max()
    assert 0 < growth < 0.1, "else this compares nothing"
    for size in SIZES[1:]:
        apart = np.abs(np.subtract(runs[size][0][0]["losses"], alone["losses"])).max()
        # every step rounds anew, the nudge came once; six steps, each enlarged by those that follow
        assert apart < 30 * growth


def test_one_process_writes_the_files_of_a_run_and_they_are_those_of_one_alone(runs):
    names = {path.relative_to(runs[1][1]) for path in runs[1][1].rglob("*")}
    assert {Path("report.html"), Path("README.md")} <= names
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


class DoubleLoss(Loss):
    """Cross entropy that is not rounded to float32."""

    def __call__(self, outputs, targets):
        return self.compute(outputs, targets)


def steps_in_double(options, kind, classes, mixed):
    """Take steps on random pictures in double precision; return losses, weights and running statistics."""
    world = World.from_environment()
    config = TrainConfig(**{**SHARED, "batch_size": 11}, **{**TINY, **options})
    torch.manual_seed(0)
    model = resnetv2.create_model("resnet18v2", num_classes=classes, width_factor=0.25).double()
    if world.size > 1 and config.sync_bn:
        synchronize(model)
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) if kind == "weighted" else None
    made = make_loss("classification", "cross_entropy", weights, 0.1, classes)
    loss = DoubleLoss(made.compute, made.divisors)
    optimizer = make_optimizer(model, lr=0.05, weight_decay=1e-3)
    stepper = Stepper(model, loss, optimizer, config, torch.device("cpu"), world=world)
    model.train()
    losses = []
    with world.connected(60):
        stepper.join()
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            pictures = torch.randn(11, 3, 32, 32, dtype=torch.float64, generator=generator)
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
            # two steps' roundings of 1e-16, which twenty norms enlarge; were anything counted wrongly, it would be 1e-2
            assert theirs == pytest.approx(losses, rel=1e-10)
            for name, value in weights.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-8, atol=1e-10, err_msg=name)


# --- parts ---


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 5))
def test_shares_are_the_whole_batch_once_and_even(n, size, parts):
    shares = [Share(rank, size, parts) for rank in range(size)]
    assert sorted(np.concatenate([share.places(n) for share in shares]).tolist()) == list(range(n))
    for part, counts in enumerate(zip(*(share.counts(n) for share in shares), strict=True)):
        assert sum(counts) == len(np.array_split(range(n), parts)[part]), "the parts of one process"
        assert max(counts) - min(counts) <= 1


@given(st.integers(0, 50), st.integers(1, 9))
def test_every_batch_of_an_evaluation_is_one_process_s(n, size):
    assert [i for rank in range(size) for i in range(n)[Share(rank, size).stretch(n)]] == list(range(n))


def test_every_process_draws_dropout_for_itself():
    assert len({step_seed(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1, 11)}) == 12


def exchanges():
    """Return what the ways of exchanging give, each of numbers that tell whose they were."""
    world = World.from_environment()
    with world.connected(60):
        rows = torch.arange(7)[torch.from_numpy(world.share(2).places(7))]
        places = torch.tensor([6, 0, 3, 3, 1, 5, 2])
        tensors = [torch.full((2, 2), float(world.rank)), torch.tensor([1.0])]
        world.total(tensors)
        return {
            "gathered": world.gather(torch.full((world.rank, 2), world.rank)).tolist(),
            "taken": world.take(rows, places, 2).tolist(),
            "expected": places[torch.from_numpy(world.share(2).places(7))].tolist(),
            "sum": world.sum([world.rank, 0.5]),
            "largest": world.largest(-world.rank),
            "total": [tensor.tolist() for tensor in tensors],
        }


def test_processes_exchange_rows_of_uneven_numbers_sums_and_largest_values():
    for found in together(3, exchanges):
        assert found["gathered"] == [[1, 1], [2, 2], [2, 2]]
        assert found["taken"] == found["expected"]
        assert found["sum"] == [3.0, 1.5]
        assert found["largest"] == 0
        assert found["total"] == [[[3.0, 3.0], [3.0, 3.0]], [3.0]]


def gradients_both_ways():
    """Return the gradients by us and by DistributedDataParallel, of one network with small buckets."""
    distributed_module = resnetv2.training.distributed
    distributed_module._BUCKET = 2**14  # some dozens, so that their order matters
    world = World.from_environment()
    torch.manual_seed(0)
    ours = resnetv2.create_model("resnet18v2", num_classes=3, width_factor=0.25)
    theirs = copy.deepcopy(ours)
    ours.unused = theirs.unused = None
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(world.rank))
    with world.connected(60):
        gradients = Gradients(ours)
        ours(pictures).square().mean().backward()  # an earlier part of the batch, which is not sent
        gradients.begin()
        ours(pictures.flip(0)).square().mean().backward()
        gradients.finish()
        joined = nn.parallel.DistributedDataParallel(theirs)
        with joined.no_sync():
            joined(pictures).square().mean().backward()
        joined(pictures.flip(0)).square().mean().backward()
    return len(gradients.buckets), [[p.grad.numpy() for p in model.parameters()] for model in (ours, theirs)]


def test_gradients_are_those_of_distributed_data_parallel_times_the_processes():
    answers = together(2, gradients_both_ways)
    for buckets, (ours, theirs) in answers:
        assert buckets > 10
        for one, other, first in zip(ours, theirs, answers[0][1][0], strict=True):
            np.testing.assert_allclose(one, 2 * other, rtol=1e-5, atol=1e-7)  # float32 sums of two
            assert np.array_equal(one, first), "the same bits in every process"


# --- being stopped, killed, stuck, and refused ---


def stopped_run(data, out, settings, options):
    """Train; the last process gets SIGTERM within the third step."""
    take_step, world = Run.take_step, World.from_environment()

    def stop(run, batch, rate):
        if run.progress.step == 2 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(run, batch, rate)

    Run.take_step = stop
    resnetv2.train(data, out=out, set=options, **settings)


def resumed_run(data, out):
    resnetv2.train(data, out=out, resume=True)


def same_files(one, other):
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "config.json", "index.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_signal_to_one_process_stops_all_after_the_step_and_resuming_gives_the_bits_of_an_uninterrupted_run(
    runs, colours, tmp_path
):
    out = tmp_path / "run"
    assert together(3, stopped_run, colours, out, SHARED, OPTIONS) == [143] * 3
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step-00000003.safetensors"]
    assert together(3, resumed_run, colours, out) == [None] * 3
    same_files(runs[3][1], out)


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(runs, colours, tmp_path):
    out = tmp_path / "run"
    together(3, stopped_run, colours, out, SHARED, OPTIONS)
    resnetv2.train(colours, out=out, resume=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["val_n"] == 27


def stuck_run(data, out, settings, options):
    """Train; the second of the processes never comes back from loading the third batch."""
    take_step, world = Run.take_step, World.from_environment()

    def hang(run, batch, rate):
        if run.progress.step == 2 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return take_step(run, batch, rate)

    Run.take_step = hang
    resnetv2.train(data, out=out, set=options, **settings)


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_named_by_the_others(colours, tmp_path):
    options = {**OPTIONS, "peer_timeout_s": 15.0}  # longer than any step takes on a busy machine
    answers = together(3, stuck_run, colours, tmp_path / "run", SHARED, options, silent=[1])
    for answer in (answers[0], answers[2]):
        assert isinstance(answer, Error)
        assert f"process 1 on {socket.gethostname()} ended, or did not answer for 15 s" in str(answer)
        assert "process 0" not in str(answer)
        assert "process 2" not in str(answer)


def test_what_cannot_be_shared_is_refused_by_the_first_process_and_the_others_leave(runs, colours, tmp_path):
    small = {**SHARED, "batch_size": 4}
    first, second, third = together(3, watched_run, colours, tmp_path / "small", small, OPTIONS)
    assert isinstance(first, ConfigError)
    assert "a batch of 3 pictures cannot be shared by 3 processes" in str(first)
    for other in (second, third):
        assert "stops because the first one did" in str(other)
    start = {"weights": str(runs[1][1] / "best.safetensors"), "recipe": "probe", "device": "cpu"}
    first, _ = together(2, watched_run, colours, tmp_path / "probe", start, {"workers": 1})
    assert "recipe 'probe' is one process's work" in str(first)
    assert not (tmp_path / "probe").exists()


def differing_run(data, out, settings, options):
    """Train; the second process begins with other weights than the first."""
    resnetv2.training.run.make_model = nudged if World.from_environment().rank == 1 else make_model
    resnetv2.train(data, out=out, set=options, **settings)


@pytest.mark.slow
def test_processes_that_begin_with_different_weights_are_named_before_the_first_step(colours, tmp_path):
    for answer in together(2, differing_run, colours, tmp_path / "run", SHARED, OPTIONS):
        assert "processes [1] read other pictures, weights or checkpoints than process 0" in str(answer)


def launch(size, *words, restarts=0):
    """Start ``torchrun -m resnetv2 train words…``."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    full = [*start, "--max-restarts", str(restarts), "-m", "resnetv2", "train", *map(str, words)]
    return subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid):
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in Linux's /proc")
def test_torchrun_starts_again_when_a_process_is_killed_and_the_run_ends_with_the_bits_of_an_uninterrupted_one(
    colours, tmp_path
):
    settings, options = {**SHARED, "epochs": 6}, {**OPTIONS, "sync_bn": False, "save_minutes": 0}
    together(2, watched_run, colours, tmp_path / "whole", settings, options)
    words = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    words += [f"--set={key}={json.dumps(value)}" for key, value in options.items()]
    out = tmp_path / "run"
    process = launch(2, colours, "--out", out, *words, restarts=1)
    until = time.monotonic() + 240
    while not list_checkpoints(out / "checkpoints") and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    answer, talk = process.communicate(timeout=240)
    assert process.returncode == 0, talk
    assert answer.startswith(f"{out / 'best.safetensors'}\nbest epoch "), "one process tells the result"
    assert "Traceback" not in talk
    same_files(tmp_path / "whole", out)
