"""A run that is killed, or whose disk is full, loses nothing that it had saved: real processes, real faults."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from processes import CONTEXT, together
from runs import SETTINGS, TINY, write_colours
from safetensors.numpy import save_file
from torch import nn

import resnetv2
from resnetv2 import files
from resnetv2.errors import ConfigError, Error
from resnetv2.training.average import MovingAverage
from resnetv2.training.checkpoint import Progress, State, list_checkpoints, read_newest, save_checkpoint

EVERYTHING = {  # of what a run could forget
    **TINY,
    "workers": 1,
    "track": "none",
    "save_minutes": 0,
    "ema_decay": 0.9,
    "ema_every": 3,
    "mixup": 0.2,
    "cutmix": 0.5,
    "random_erasing": 0.5,
    "drop_rate": 0.1,
    "drop_path_rate": 0.1,
    "amp": "bf16",
    "grad_accum_steps": 2,
    "clip_grad": 1.0,
    "start_image_size": 32,
    "resize_ramp": (0.0, 0.5),
    "sampling": "balanced",
    "bn": "recalibrate",
}
LONG = {**SETTINGS, "image_size": 64, "epochs": 4}
COMPARED = ("best.safetensors", "last.safetensors", "metrics.jsonl", "config.json", "index.csv")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


def go_on(data, out):
    """Train, or go on with the run where it was begun."""
    begun = (out / "config.json").exists()
    resnetv2.train(data, out=out, resume=begun, **({} if begun else {"set": EVERYTHING, **LONG}))


def counted(data, out):
    """Train, and return how many operations on the run's files that took, those of the report after it left out."""
    count = [0]
    resnetv2.training.run.report_run = lambda *_: None

    def count_one(event, arguments):
        count[0] += is_about(out, event, arguments)

    sys.addaudithook(count_one)
    go_on(data, out)
    return count[0]


def is_about(out, event, arguments):
    """Whether an audit event is an operation on the run's files."""
    return event in ("open", "os.rename", "os.remove") and str(out) in str(arguments[0])


def killed_at(data, out, number):
    """Train until right before an operation on the run's files; there, the process kills itself."""
    left = [number]

    def kill(event, arguments):
        if is_about(out, event, arguments):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    go_on(data, out)


def killed_while_writing(data, out, number):
    """Train until the middle of writing a file of tensors."""
    left = [number]

    def write_half(arrays, path, metadata):
        save_file(arrays, path, metadata)
        left[0] -= 1
        if left[0] < 0:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    resnetv2.weights.sealed.save_file = write_half
    go_on(data, out)


def start(function, *arguments):
    process = CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


@pytest.fixture(scope="module")
def whole(colours, tmp_path_factory):
    """A run that nothing disturbs, the operations on its files, and the seconds it took."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    began = time.monotonic()
    (operations,) = together(1, counted, colours, out)
    return out, operations, time.monotonic() - began


def same_files(one, other):
    for name in COMPARED:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_at_file_operations_and_in_the_middle_of_saves_a_run_ends_with_the_bits_of_an_undisturbed_one(
    whole, colours, tmp_path
):
    undisturbed, operations, _ = whole
    out, moments = tmp_path / "run", random.Random(0)
    kills = [(killed_at, moments.randrange(20, operations // 3)) for _ in range(4)]
    kills += [(killed_while_writing, moments.randrange(1, 5)) for _ in range(2)]
    moments.shuffle(kills)
    steps = []
    for how, number in kills:
        process = start(how, colours, out, number)
        process.join(240)
        assert process.exitcode == -signal.SIGKILL, "else nothing was killed"
        if list_checkpoints(out / "checkpoints"):
            steps.append(read_newest(out / "checkpoints")[0]["progress"]["step"])
    assert steps == sorted(steps)
    assert len(set(steps)) > 2, "else the kills met one place"
    assert together(1, go_on, colours, out) == [None]
    same_files(undisturbed, out)
    assert sorted(path.name for path in out.rglob(".*")) == [], "nothing is left of what was being written"


@pytest.mark.slow
def test_killed_at_any_time_a_run_ends_with_the_bits_of_an_undisturbed_one(whole, colours, tmp_path):
    undisturbed, _, seconds = whole
    out, moments = tmp_path / "run", random.Random(1)
    for _ in range(3):
        process = start(go_on, colours, out)
        process.join(moments.uniform(0.1, 0.6) * seconds)
        process.kill()
        process.join()
    assert together(1, go_on, colours, out) == [None]
    same_files(undisturbed, out)


# --- full disks ---


def limited(data, out, size):
    """Go on with a run where no file may be larger than ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    go_on(data, out)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_good_one_and_the_run_says_so(whole, colours, tmp_path):
    undisturbed, operations, _ = whole
    out = tmp_path / "run"
    start(killed_at, colours, out, operations // 2).join(240)
    before = {path: path.read_bytes() for path in list_checkpoints(out / "checkpoints")}
    (error,) = together(1, limited, colours, out, 2**20)
    newest = max(before)
    assert isinstance(error, Error)
    assert "File too large" in str(error)
    assert f"make room and go on with --resume: the last good checkpoint is {newest}" in str(error)
    assert {path: path.read_bytes() for path in list_checkpoints(out / "checkpoints")} == before
    assert together(1, go_on, colours, out) == [None]
    same_files(undisturbed, out)


def disk(free):
    usage = namedtuple("usage", ["total", "used", "free"])
    return lambda _: usage(10**12, 0, free)


def test_a_run_that_would_fill_the_disk_is_refused_before_anything_is_written(colours, tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", disk(10**6))
    with pytest.raises(Error, match=r"the disk of .*run is too full: [\d.]+ MB are needed, and 1\.0 MB are free"):
        resnetv2.train(colours, out=tmp_path / "run", set=TINY, **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("room_after_dropping", [True, False])
def test_where_space_is_short_the_older_checkpoint_gives_way_and_the_newest_never(
    tmp_path, monkeypatch, room_after_dropping
):
    model = nn.BatchNorm2d(1000)
    optimizer = torch.optim.SGD(model.parameters())
    state = State(model, MovingAverage(model, 0.9), optimizer, torch.amp.GradScaler("cpu", enabled=False))
    for step in (1, 2):
        save_checkpoint(tmp_path, Progress(step=step), state, {})
    names = ["step-00000002.safetensors", "step-00000001.safetensors"]
    assert [path.name for path in list_checkpoints(tmp_path)] == names

    def usage(_):
        return disk(10**6 if room_after_dropping and len(list_checkpoints(tmp_path)) == 1 else 10)(None)

    monkeypatch.setattr(files.shutil, "disk_usage", usage)
    if room_after_dropping:
        save_checkpoint(tmp_path, Progress(step=3), state, {})
        assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003.safetensors", names[0]]
    else:
        with pytest.raises(Error, match=r"is too full: 0\.0 MB are needed, and 0\.0 MB are free"):
            save_checkpoint(tmp_path, Progress(step=3), state, {})
        assert [path.name for path in list_checkpoints(tmp_path)] == names[:1]


MOUNT = "mount -t tmpfs -o size={size} none {folder}"


UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]


def may_mount(folder):
    probe = [*UNSHARE, MOUNT.format(size="1m", folder=folder)]
    return shutil.which("unshare") and subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_small_disk_that_is_really_full_is_told_before_training(colours, tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("a file system of its own needs Linux's user namespaces")
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items()]
    train = f"{sys.executable} -m resnetv2 train {colours} --out {tmp_path}/run {' '.join(words)}"
    script = f"{MOUNT.format(size='20m', folder=tmp_path)} && {train}; code=$?; ls {tmp_path}; exit $code"
    done = subprocess.run([*UNSHARE, script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is too full" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "nothing was written"


# --- sizes that do not divide ---


@pytest.mark.parametrize("extra", range(4))
def test_every_part_of_a_batch_that_is_computed_in_parts_has_two_pictures(tmp_path, extra):
    data = write_colours(tmp_path / "data", train=2, val=1, test=1)
    for i in range(extra):
        shutil.copy(data / "train" / "red" / "000.png", data / "train" / "red" / f"extra{i}.png")
    settings = {**SETTINGS, "batch_size": 4, "epochs": 1}
    out = resnetv2.train(data, out=tmp_path / "run", set={**TINY, "grad_accum_steps": 2}, **settings).out
    assert json.loads((out / "metrics.jsonl").read_text())["train_loss"] < 10


def test_too_few_pictures_for_the_parts_of_a_batch_are_refused(tmp_path):
    data = write_colours(tmp_path / "data", train=1, val=1, test=1)
    options = {**TINY, "grad_accum_steps": 2}
    with pytest.raises(ConfigError, match="a batch of 3 pictures cannot be shared by 1 processes in 2 parts"):
        resnetv2.train(data, out=tmp_path / "run", set=options, **{**SETTINGS, "batch_size": 4})
    assert not Path(tmp_path / "run").exists()
