"""The training run, from a folder of pictures to a model file. ``train`` reads top to bottom."""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch.nn import functional as F

import resnetv2
from resnetv2.console import counting, printable, talk
from resnetv2.data.augment import Augment
from resnetv2.data.check import Report, check_pictures, readable_index
from resnetv2.data.crews import Budget
from resnetv2.data.index import Index, read_index, read_saved_index
from resnetv2.data.load import Batch, Loader
from resnetv2.data.manifest import shorten
from resnetv2.data.sampling import balanced_weights
from resnetv2.errors import ConfigError, DataError, Error, Interrupted
from resnetv2.evaluation.metrics import wilson_interval
from resnetv2.files import write_json
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing, open_picture
from resnetv2.recipes import TrainConfig
from resnetv2.runtime.pytorch import Normalize, choose_device, choose_resize, model_file, place
from resnetv2.training.checkpoint import Progress, State, list_checkpoints, read_newest, restore, save_checkpoint
from resnetv2.training.display import Display
from resnetv2.training.mix import Mix
from resnetv2.training.optim import MovingAverage, learning_rate, make_optimizer
from resnetv2.training.speed import Speed, Stopwatch
from resnetv2.weights.modelfile import Header, write_model_file

GOLDEN_SAMPLES = 4
_LEFT_OUT = 20  # unreadable pictures told one by one; check.json has them all
# Settings a resumed run may change: where it runs, not what it does.
MOVABLE = ("device", "workers", "workers_in", "cache_mb", "save_minutes")
DESCRIPTION = {"index.csv", "environment.json", "check.json"}  # what a run that never began may have left


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: its folder, its model files, and the best epoch's figures on the validation split."""

    out: Path
    best: Path
    last: Path
    epochs: int
    best_epoch: int
    val_top1: float
    val_top1_ci95: tuple[float, float]
    val_n: int


def train(
    data: str | Path,
    *,
    out: str | Path,
    arch: str | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    on_bad_image: str | None = None,
    group_by: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  the command's word
    resume: bool = False,
) -> TrainResult:
    """Train a ResNet-v2 from scratch on labelled pictures.

    Args:
        data: a folder ``root/{train,val,test}/class/*`` or ``root/class/*``, a CSV manifest, or a packed folder.
        out: a new folder for the run: ``best.safetensors``, ``last.safetensors``, ``metrics.jsonl``, ``config.json``,
            ``speed.jsonl``, ``environment.json``, ``index.csv``, ``check.json`` and ``checkpoints/``.
        arch: an architecture such as "resnet50v2".
        epochs, image_size, batch_size, lr, seed, device, on_bad_image, group_by: see ``TrainConfig``; None means its
            default.
        set: any other field of ``TrainConfig`` by name.
        resume: go on with the run in ``out`` from its newest checkpoint.

    Returns:
        The run's model files and validation figures.

    Raises:
        ConfigError: an unknown or impossible setting, or ``out`` holds another run.
        DataError: pictures that cannot be used; all of them are named.
        Error: the loss is no longer a number, the disk is full, or the device's memory is.
        Interrupted: SIGINT or SIGTERM; the state was saved first.
    """
    named: dict[str, Any] = {
        "arch": arch,
        "epochs": epochs,
        "image_size": image_size,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "on_bad_image": on_bad_image,
        "group_by": group_by,
    }
    settings = {**(set or {}), **{key: value for key, value in named.items() if value is not None}}
    data, out = Path(data), Path(out)
    if resume:
        run = Run(*_resumed(data, out, settings), out)
        run.restore()
    else:
        config, index, report = _new(data, out, settings)
        run = Run(config, index, out)
        run.write_description(data, report)
    try:
        return run.fit()
    except torch.OutOfMemoryError as error:
        raise Error(
            f"{run.device} is out of memory: choose a smaller --batch-size, or --set memory=recompute"
        ) from error


def _new(data: Path, out: Path, settings: Mapping[str, Any]) -> tuple[TrainConfig, Index, Report]:
    """Return config, index and the check of the data of a new run, after everything that can be checked was."""
    config = TrainConfig.from_dict(settings)
    config = replace(config, device=str(choose_device(config.device)))
    if (out / "config.json").exists():
        raise ConfigError(f"{out} already holds a run: continue it with --resume, or choose another --out")
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - DESCRIPTION):
        raise ConfigError(f"{out} exists and is not an empty folder: choose another --out")
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"{out} lies inside {data}, which is only read: choose another --out")
    index = read_index(data, config.group_by)
    index, report = _check(index, data, config.on_bad_image)
    return config.fitted(index.classes), index, report


def _resumed(data: Path, out: Path, settings: Mapping[str, Any]) -> tuple[TrainConfig, Index]:
    """Return the config and index of the run in ``out``; settings that were given must be its own, save MOVABLE."""
    try:
        saved = {**json.loads((out / "config.json").read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{out} holds no run to resume: {error}") from error
    was = TrainConfig.from_dict(saved).to_dict()
    config = TrainConfig.from_dict({**saved, **settings})
    now = config.to_dict()
    changed = [
        f"{key}: {was[key]!r} in the run, {now[key]!r} asked for"
        for key in was
        if was[key] != now[key] and key not in MOVABLE
    ]
    if changed:
        raise ConfigError("\n  ".join(["a resumed run keeps its settings; these differ", *changed]))
    index = read_saved_index(out / "index.csv", data)
    now_there, _ = _check(
        index, data, "error", fixed=True
    )  # the run's list of pictures is what it is: none may be missing now
    _refuse_changed(index, now_there)
    return config, index


def _refuse_changed(saved: Index, now: Index) -> None:
    if saved.contents is None or now.contents is None:  # a list that an earlier version saved
        return
    places = np.flatnonzero((saved.contents.sha256 != now.contents.sha256).any(axis=1)).tolist()
    if places:
        names = "\n  ".join(shorten([str(saved.place(i)) for i in places]))
        raise DataError(
            f"{len(places)} of {len(saved.paths)} pictures have changed since the run began; "
            f"bring them back, or start a new run:\n  {names}"
        )


def _check(index: Index, data: Path, on_bad_image: str, fixed: bool = False) -> tuple[Index, Report]:
    """Return the pictures that can be read, and what was found; refuse data that cannot train."""
    index.check_trainable()
    with counting("checking pictures") as progress:
        index, examined, report = check_pictures(index, data, on_bad_image, progress)
    index = readable_index(index, examined.reasons, on_bad_image, fixed)
    index.check_trainable()
    return index, report


class Run:
    """One training run: its parts, and where it is.

    Args:
        config: resolved settings.
        index: the pictures.
        out: the run's folder.
    """

    def __init__(self, config: TrainConfig, index: Index, out: Path) -> None:
        self.config, self.index, self.out = config, index, out
        self.device = choose_device(config.device)
        torch.manual_seed(config.seed)
        architecture = config.architecture(len(index.classes))
        size = config.image_size
        self.preprocessing = Preprocessing(image_size=size, resize=size)
        model = ResNetV2(
            architecture,
            drop_rate=config.drop_rate,
            drop_path_rate=config.drop_path_rate,
            memory=config.memory,
            zero_init_last=config.zero_init_last,
        )
        self.model = place(model, self.device)
        self.average = MovingAverage(self.model, config.ema_decay)
        self.optimizer = make_optimizer(self.model, config)
        self.state = State(self.model, self.average, self.optimizer, self.device)
        self.normalize = Normalize(self.preprocessing).to(self.device)
        batch, workers, budget = config.batch_size, config.workers, Budget(config.cache_mb * 2**20)
        train, val = index.split("train"), index.split("val")
        self.class_weights: torch.Tensor | None = None
        if config.class_weights == "balanced":
            weights = balanced_weights(train.labels, len(index.classes))
            self.class_weights = torch.from_numpy(weights).float().to(self.device)
        self.mix = Mix(config.mixup, config.cutmix, len(index.classes))
        augment = Augment(
            scale=config.crop_scale or (1.0, 1.0),
            ratio=config.crop_ratio,
            hflip=config.hflip or 0.0,
            auto_augment=config.auto_augment,
            random_erasing=config.random_erasing,
            dct_scaling=config.dct_scaling,
            resize=choose_resize(),
        )
        self.train_loader = Loader(
            train,
            batch,
            self.preprocessing,
            augment,
            config.seed,
            workers,
            budget,
            config.sampling,
            config.workers_in,
        )
        self.val_loader = Loader(val, batch, self.preprocessing, workers=workers, budget=budget)
        self.pictures = {"sha256": index.digest(), "pictures": index.counts()}  # what the run reads
        self.data = {**self.pictures, "steps": len(self.train_loader)}  # by which a checkpoint knows its run
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.signal: int | None = None

    # --- files of the run ---

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.out / "checkpoints"

    def write_description(self, data: Path, report: Report) -> None:
        """Write what is known before the first step: settings, pictures, what is wrong with them, environment."""
        describe(report)
        self.index.write_csv(self.out / "index.csv")
        write_json(self.out / "check.json", report.to_dict())
        write_json(self.out / "environment.json", environment() | {"data": str(data), "device": str(self.device)})
        write_json(self.out / "config.json", self.config.to_dict())

    def restore(self) -> None:
        """Go back to the newest checkpoint that is whole; without any, to the start."""
        for leftover in (*self.out.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):  # of a writer that was killed
            leftover.unlink()
        if list_checkpoints(self.checkpoints):
            header, tensors, problems = read_newest(self.checkpoints)
            for problem in problems:
                talk().print(f"warning: {problem}; going on from an older checkpoint", soft_wrap=True)
            self.progress = restore(header, tensors, self.state, self.data)
        with (self.out / "metrics.jsonl").open("ab") as file:
            if file.tell() < self.progress.metrics_bytes:
                talk().print("warning: metrics.jsonl is shorter than the checkpoint says; some lines are lost")
            file.truncate(min(file.tell(), self.progress.metrics_bytes))

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.checkpoints, self.progress, self.state, self.data)
        self.saved_at = time.monotonic()

    def write_model(self, name: str, line: Mapping[str, Any]) -> Path:
        """Write the averaged network as a model file."""
        n = line["val_n"]
        interval = wilson_interval(round(line["val_top1"] * n), n)
        figures = {"top1": line["val_top1"], "top1_ci95": list(interval), "n": n}
        header = Header(
            architecture=self.model.config,
            preprocessing=self.preprocessing,
            classes=self.index.classes,
            provenance={
                "created_by": f"resnetv2 {resnetv2.__version__}",
                "recipe": self.config.to_dict(),
                "data": self.pictures,
            },
            metrics={"val": {**figures, "epoch": line["epoch"], "loss": line["val_loss"]}},
        )
        path = self.out / name
        write_model_file(path, model_file(self.average.average, header, self.golden_pictures(), self.device))
        return path

    def golden_pictures(self) -> list[bytes]:
        """Return a few validation pictures, of different classes where there are, as small PNG files.

        They keep the shape of the picture but neither its metadata nor more pixels than a resize needs to be tested.
        """
        samples = self.val_loader.samples
        _, first = np.unique(samples.labels, return_index=True)
        order = [*first, *(i for i in range(len(samples)) if i not in first)]
        most = 2 * self.config.image_size
        pictures = []
        for i in order[:GOLDEN_SAMPLES]:
            picture = open_picture(samples.paths[i])
            picture.thumbnail((most, most))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            pictures.append(buffer.getvalue())
        return pictures

    # --- the run ---

    def fit(self) -> TrainResult:
        """Train until the last epoch, or until a signal; every epoch ends with a validation and a line in the log."""
        config, progress = self.config, self.progress
        total = config.epochs * len(self.train_loader)
        with self.catch_signals(), Display(total, progress.step) as display:
            if progress.step == 0:
                self.introduce(display)
            while progress.epoch < config.epochs:
                started = time.monotonic()
                speed = self.train_epoch(display)
                line = self.finish_epoch()
                self.append("speed.jsonl", {"epoch": progress.epoch, **speed.to_dict()})
                seconds, best = time.monotonic() - started, progress.best_epoch == progress.epoch
                display.epoch(line, config.epochs, seconds, speed, best)
                if self.signal is not None:
                    self.stop(display, self.signal)
        return self.result()

    def train_epoch(self, display: Display) -> Speed:
        """Take every step that is left of the epoch under way; return how fast that went."""
        progress, config = self.progress, self.config
        self.model.train()
        steps = len(self.train_loader)
        watch = Stopwatch(self.train_loader)
        for batch in watch.batches(progress.epoch, progress.batch):
            rate = learning_rate(config, progress.step, steps)
            self.take_step(batch, rate)
            display.step(
                progress.epoch + 1,
                config.epochs,
                len(batch.labels),
                progress.loss_sum / progress.seen,
                progress.correct / progress.seen,
                rate,
            )
            if self.signal is not None:
                self.stop(display, self.signal)
            if time.monotonic() - self.saved_at > 60 * config.save_minutes and progress.batch < steps:
                self.save()
        return watch.speed()

    def take_step(self, batch: Batch, rate: float) -> None:
        """Forward, loss, backward, optimizer, average; and the epoch's sums."""
        progress, config = self.progress, self.config
        labels = torch.from_numpy(batch.labels).to(self.device)
        pictures = self.normalize(torch.from_numpy(batch.pictures).to(self.device))
        if self.mix.active:
            rng = np.random.default_rng((config.seed, progress.epoch, 2, progress.batch))
            pictures, labels = self.mix(pictures, labels, rng)
        logits = self.model(pictures)
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=config.label_smoothing)
        value = loss.item()
        if not np.isfinite(value):
            raise Error(
                f"the loss became {value} at step {progress.step + 1} (epoch {progress.epoch + 1}): "
                f"start a new run with a lower --lr; the last good models are in {self.out}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        progress.step += 1
        progress.batch += 1
        progress.loss_sum += value * len(labels)
        larger = labels.argmax(dim=1) if self.mix.active else labels  # of a mixed picture, the class with more of it
        progress.correct += int((logits.argmax(dim=1) == larger).sum())
        progress.seen += len(labels)
        if progress.step % config.ema_every == 0 or progress.batch == len(self.train_loader):
            self.average.update(progress.step)
            progress.average_step = progress.step

    def finish_epoch(self) -> dict[str, Any]:
        """Validate, log, keep the best network, and save if it is time; return the epoch's line."""
        progress, config = self.progress, self.config
        val_loss, val_correct, val_n = self.validate()
        progress.epoch += 1
        line = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": learning_rate(config, progress.step - 1, len(self.train_loader)),
            "train_loss": progress.loss_sum / progress.seen,
            "train_top1": progress.correct / progress.seen,
            "val_loss": val_loss,
            "val_top1": val_correct / val_n,
            "val_n": val_n,
        }
        progress.batch, progress.loss_sum, progress.correct, progress.seen = 0, 0.0, 0, 0
        if val_correct >= progress.best_correct:  # of equals the later: its rate was lower
            progress.best_correct, progress.best_epoch = val_correct, progress.epoch
            self.write_model("best.safetensors", line)
        if progress.epoch == config.epochs:
            self.write_model("last.safetensors", line)
        progress.metrics_bytes = self.append("metrics.jsonl", line)  # without times, so that equal runs have equal logs
        if progress.epoch == config.epochs or time.monotonic() - self.saved_at > 60 * config.save_minutes:
            self.save()
        return line

    def validate(self) -> tuple[float, int, int]:
        """Return the averaged network's mean loss, its correct answers and their number, each picture counted once."""
        loss_sum, correct, n = 0.0, 0, 0
        with torch.inference_mode():
            for batch in self.val_loader.batches():
                labels = torch.from_numpy(batch.labels).to(self.device)
                logits = self.average.average(self.normalize(torch.from_numpy(batch.pictures).to(self.device)))
                loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
                correct += int((logits.argmax(dim=1) == labels).sum())
                n += len(labels)
        return loss_sum / n, correct, n

    def append(self, name: str, line: Mapping[str, Any]) -> int:
        """Append one line to a log, durably; return the log's length in bytes."""
        with (self.out / name).open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def introduce(self, display: Display) -> None:
        """Say what is about to happen."""
        counts, config = self.index.counts(), self.config
        pictures = ", ".join(f"{n:,} {split}" for split, n in counts.items() if n)
        display.say(
            f"{config.arch} at {config.image_size} px on {self.device}, {len(self.index.classes)} classes, "
            f"pictures: {pictures}; batch {config.batch_size}, peak lr {config.peak_lr:g}, mirror {config.hflip:g}, "
            f"crop {'–'.join(f'{x:g}' for x in config.crop_scale or ())} of the area; run in {self.out}"
        )

    def result(self) -> TrainResult:
        """Return the run's figures."""
        progress, n = self.progress, len(self.val_loader.samples)
        return TrainResult(
            out=self.out,
            best=self.out / "best.safetensors",
            last=self.out / "last.safetensors",
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            val_top1=progress.best_correct / n,
            val_top1_ci95=wilson_interval(progress.best_correct, n),
            val_n=n,
        )

    # --- being stopped ---

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a wish to stop after the step under way; a second one kills at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def remember(number: int, _frame: object) -> None:
            self.signal = number
            for each in numbers:
                signal.signal(each, signal.SIG_DFL)

        for number in numbers:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, display: Display, number: int) -> None:
        """Save and leave, because of a signal."""
        self.save()
        display.say(f"stopped after step {self.progress.step}; continue with --resume")
        raise Interrupted(number)


def describe(report: Report) -> None:
    """Say in a line each what of the data's findings could spoil a run, and which pictures are left out and why."""
    for finding in report.findings:
        if finding.severity != "note":
            talk().print(f"{finding.severity}: {finding}", soft_wrap=True)
        if finding.kind == "unreadable":
            for item in finding.items[:_LEFT_OUT]:
                talk().print(f"  left out: {printable(item.path)}: {item.note}", soft_wrap=True)


def environment() -> dict[str, Any]:
    """Return what the figures of a run depend on beside its settings."""
    return {
        "resnetv2": resnetv2.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
    }
