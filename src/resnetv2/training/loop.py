"""The loop: epochs of steps, each ending with a validation, a line in the log, and what is needed to go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import resnetv2
from resnetv2.console import talk
from resnetv2.data.index import Index, Samples
from resnetv2.data.load import Batch
from resnetv2.errors import DataError, Error, Interrupted
from resnetv2.files import replace_file
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.recipes import TrainConfig
from resnetv2.runtime.pytorch import model_file, place
from resnetv2.training import batchnorm
from resnetv2.training.average import MovingAverage
from resnetv2.training.checkpoint import (
    KEPT,
    Progress,
    State,
    list_checkpoints,
    read_newest,
    restore,
    save_checkpoint,
    saved_step,
)
from resnetv2.training.display import Display
from resnetv2.training.distributed import World
from resnetv2.training.mix import Mix
from resnetv2.training.objective import Objective
from resnetv2.training.optimizers import MOMENTS, StartingPoint, make_optimizer
from resnetv2.training.plots import parse_line, write_plots
from resnetv2.training.samples import golden_pictures
from resnetv2.training.schedules import image_size_at, rate_at
from resnetv2.training.speed import Speed, Stopwatch
from resnetv2.training.step import Outcome, Stepper
from resnetv2.training.syncbn import synchronize
from resnetv2.training.track import Tracker
from resnetv2.weights.modelfile import Header, write_model_file
from resnetv2.weights.sealed import digest_of

RECALIBRATED = 2_048  # pictures that exact statistics of batch norm are taken from
_TRACK_EVERY = 10  # steps between two losses that trackers are told
_RESIZE_STEP = 32  # pixels by which progressive sizes rise


class Batches(Protocol):
    """What gives a run its batches: ``data.load.Loader``, or cached maps."""

    samples: Samples
    workers: int

    @property
    def seconds(self) -> float: ...

    def __len__(self) -> int: ...

    def batches(self, epoch: int = 0, start: int = 0, size: int | None = None) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        network: whole, as the model file has it.
        trained: the part of it that is trained: all of it, or its last stage.
        preprocessing: of validation and of the model file.
        read: makes what ``trained`` reads of a batch's array on the device.
        train, val: batches.
        shown: in which views pictures are shown, for people.
        is_fitted: whether ``trained`` may be the best there is before the first step.
    """

    network: ResNetV2
    trained: torch.nn.Module
    preprocessing: Preprocessing
    read: Callable[[torch.Tensor], torch.Tensor]
    train: Batches
    val: Batches
    shown: str
    is_fitted: bool = False


@dataclass(frozen=True)
class Origin:
    """Where a run's weights come from, for the model file and for a checkpoint to know its run by."""

    weights: str | None = None
    digest: str | None = None


class Run:
    """One training run: its parts, and where it is.

    Args:
        config: resolved settings.
        index: the pictures.
        parts: network and batches.
        out: the run's folder.
        origin: of the starting weights.
        world: the processes that train together; None is this one alone.
    """

    def __init__(
        self,
        config: TrainConfig,
        index: Index,
        parts: Parts,
        out: Path,
        origin: Origin,
        world: World | None = None,
    ) -> None:
        self.config, self.index, self.parts, self.out, self.origin = config, index, parts, out, origin
        self.world = world or World()
        self.device = self.world.device(config.device)
        place(parts.network, self.device)
        self.model = parts.trained
        self.statistics: str | None = None  # of batch norm, where they must stay
        if config.bn == "frozen":
            batchnorm.freeze(self.model)
            self.statistics = batchnorm.statistics_digest(self.model)
        elif config.sync_bn and self.world.size > 1:
            synchronize(self.model)
        self.average = MovingAverage(self.model, config.ema_decay)
        self.optimizer = self.make_optimizer()
        self.objective = Objective(config, index, self.device)
        anchor = StartingPoint(parts.network, config.l2_sp) if config.l2_sp else None
        self.stepper = Stepper(self.model, self.objective.loss, self.optimizer, config, self.device, anchor, self.world)
        self.state = State(self.model, self.average, self.optimizer, self.stepper.scaler)
        self.mix = Mix(config.mixup, config.cutmix, len(index.classes))
        self.pictures = {"sha256": index.digest(), "pictures": index.counts()}  # what the run reads
        # by which a checkpoint knows its run
        self.data = {**self.pictures, "steps": len(parts.train), "weights": origin.digest}
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.signal: int | None = None

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return what changes the parameters."""
        config = self.config
        return make_optimizer(
            self.parts.network,
            config.optimizer,
            lr=config.peak_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            decay_head_only=config.l2_sp > 0,
        )

    # --- files of the run ---

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.out / "checkpoints"

    def restore(self) -> None:
        """Go back to the newest checkpoint that is whole; without any, to the start."""
        if self.world.is_first:
            for leftover in (*self.out.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):  # of a writer that was killed
                leftover.unlink()
        if list_checkpoints(self.checkpoints):
            header, tensors, problems = read_newest(self.checkpoints)
            for problem in problems if self.world.is_first else ():
                talk().print(f"warning: {problem}; going on from an older checkpoint", soft_wrap=True)
            self.progress = restore(header, tensors, self.state, self.data)
        if not self.world.is_first:
            return
        self.cut_log()

    def cut_log(self) -> None:
        """Cut the log to what the checkpoint knows, and to whole lines; say what of it is lost."""
        with (self.out / "metrics.jsonl").open("a+b") as file:
            file.seek(0)
            log = file.read(self.progress.metrics_bytes)
            whole = log[: log.rfind(b"\n") + 1]
            if len(log) < self.progress.metrics_bytes:
                talk().print("warning: metrics.jsonl is shorter than the checkpoint says; some lines are lost")
            elif whole != log or not all(parse_line(line) for line in whole.decode(errors="replace").splitlines()):
                talk().print("warning: metrics.jsonl is damaged; some lines are lost")
            file.truncate(len(whole))

    def save(self) -> None:
        """Write a checkpoint; all processes have the same state, and one writes it."""
        if self.world.is_first:
            try:
                save_checkpoint(self.checkpoints, self.progress, self.state, self.data)
            except Error as error:
                raise Error(f"{error}; make room and go on with --resume: {self._last_good()}") from error
        self.saved_at = time.monotonic()

    def needed_bytes(self) -> int:
        """Return about how much disk the run takes: checkpoints, one more while it is written, and two model files."""
        weights: int = sum(value.nbytes for value in self.model.state_dict().values())
        return weights * ((KEPT + 1) * (2 + MOMENTS[self.config.optimizer]) + 2)

    def is_save_due(self) -> bool:
        """Return whether the last checkpoint is old enough."""
        return time.monotonic() - self.saved_at > 60 * self.config.save_minutes

    def write_model(self, name: str, line: Mapping[str, Any], headline: Mapping[str, Any]) -> None:
        """Write the averaged network, whole, as a model file."""
        if not self.world.is_first:
            return
        network = self.parts.network
        header = Header(
            architecture=network.config,
            preprocessing=self.parts.preprocessing,
            classes=self.index.classes,
            task=self.index.task,
            provenance={
                "created_by": f"resnetv2 {resnetv2.__version__}",
                "recipe": self.config.to_dict(),
                "data": self.pictures,
                **(
                    {"weights": self.origin.weights, "weights_sha256": self.origin.digest} if self.origin.digest else {}
                ),
            },
            metrics={"val": {**headline, "epoch": line["epoch"], "loss": line["val_loss"]}},
        )
        path = self.out / name
        pictures = golden_pictures(self.index.split("val"), self.parts.preprocessing.image_size)
        with self.averaged() as averaged, self.objective.in_units(averaged) as model:
            write_model_file(path, model_file(model, header, pictures, self.device))

    def write_last(self, line: Mapping[str, Any], headline: Mapping[str, Any]) -> None:
        """Write the last epoch's model file; where it is the best, it is that file."""
        if self.progress.best_epoch != line["epoch"]:
            self.write_model("last.safetensors", line, headline)
        elif self.world.is_first:
            with replace_file(self.out / "last.safetensors") as temporary:
                shutil.copyfile(self.out / "best.safetensors", temporary)

    @contextmanager
    def averaged(self) -> Iterator[ResNetV2]:
        """Let the whole network have the averaged weights within the block."""
        if isinstance(self.average.average, ResNetV2):
            yield self.average.average
            return
        trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        training = self.parts.network.training
        self.model.load_state_dict(self.average.average.state_dict())
        try:
            yield self.parts.network.eval()
        finally:
            self.model.load_state_dict(trained)
            self.parts.network.train(training)

    # --- the run ---

    def fit(self) -> None:
        """Train until the last epoch, or until a signal; every epoch ends with a validation and a line in the log."""
        config, progress = self.config, self.progress
        total = config.epochs * len(self.parts.train)
        with (
            self.catch_signals(),
            self.world.connected(config.peer_timeout_s),
            Display(total, progress.step, is_silent=not self.world.is_first) as display,
            Tracker(config.track if self.world.is_first else "none", self.out, config.to_dict()) as tracker,
        ):
            self.join()
            if progress.step == 0:
                self.introduce(display)
                self.judge_start()
            while progress.epoch < config.epochs:
                started = time.monotonic()
                speed = self.train_epoch(display, tracker)
                line = self.finish_epoch()
                self.append("speed.jsonl", {"epoch": progress.epoch, **speed.to_dict()})
                tracker.log(progress.step, {**line, **speed.figures()})
                seconds, best = time.monotonic() - started, progress.best_epoch == progress.epoch
                display.epoch(line, config.epochs, seconds, speed, best)
                self.stop_if_told(display)
        if self.world.is_first:
            self.draw()

    def draw(self) -> None:
        """Draw the run's curves; it is whole without."""
        try:
            write_plots(self.out)
        except Error as problem:
            talk().print(f"warning: the curves were not drawn: {problem}", soft_wrap=True)

    def join(self) -> None:
        """Begin to take steps with the other processes, which must be about to take the same ones."""
        if self.world.size == 1:
            return
        arrays = {name: value.detach().cpu().numpy() for name, value in self.model.state_dict().items()}
        digest = digest_of({**self.data, "progress": self.progress.step}, arrays)
        starts = self.world.gather(torch.tensor([int(digest[:12], 16)])).tolist()
        others = [rank for rank, start in enumerate(starts) if start != starts[0]]
        if others:
            raise Error(
                f"processes {others} read other pictures, weights or checkpoints than process 0: DATA, --out and "
                "--weights must be the same files on every host"
            )
        self.stepper.join()

    def train_epoch(self, display: Display, tracker: Tracker) -> Speed:
        """Take every step that is left of the epoch under way; return how fast that went."""
        progress, steps = self.progress, len(self.parts.train)
        self.model.train()
        stopwatch = Stopwatch(self.parts.train, self.device)
        for batch in stopwatch.watch(self.batches()):
            rate = self.rate(progress.step)
            outcome = self.take_step(batch, rate)
            if progress.step % _TRACK_EVERY == 0 and progress.batch < steps:  # the epoch's line is its last step's
                tracker.log(progress.step, {"loss": outcome.loss, "lr": rate})
            is_counted = self.index.task == "classification"
            display.step(progress, self.config.epochs, batch.total, rate, is_counted, stopwatch.speed())
            self.stop_if_told(display)
            if self.is_save_due() and progress.batch < steps:
                self.save()
        return stopwatch.speed()

    def batches(self) -> Iterator[Batch]:
        """Yield what is left of the epoch under way; a picture that cannot be read costs no step that was taken."""
        try:
            yield from self.parts.train.batches(self.progress.epoch, self.progress.batch, self.image_size())
        except DataError:
            if self.world.size == 1:  # else the others wait for a step, not for a save
                self.save()
            raise

    def take_step(self, batch: Batch, rate: float) -> Outcome:
        """Take one step, and add to the epoch's sums."""
        progress, config = self.progress, self.config
        outcome = self.try_step(batch, rate)
        if not np.isfinite(outcome.loss):
            raise self._diverged(f"the loss became {outcome.loss} at step {progress.step + 1}")
        progress.step += 1
        progress.batch += 1
        progress.loss_sum += outcome.loss * batch.total
        progress.correct += int(*self.world.sum([self.objective.correct(outcome.outputs, outcome.targets)]))
        progress.seen += batch.total
        if progress.step % config.ema_every == 0 or progress.batch == len(self.parts.train):
            self.average.update(progress.step)
            progress.average_step = progress.step
        return outcome

    def try_step(self, batch: Batch, rate: float) -> Outcome:
        """Forward, loss, backward, optimizer; with a loss that is no number, nothing is changed."""
        progress = self.progress
        pictures, targets = self.on_device(batch), self.objective.targets(batch.labels)
        if self.mix.active:
            rng = np.random.default_rng((self.config.seed, progress.epoch, 2, progress.batch))
            take = partial(self.world.take, parts=self.config.grad_accum_steps)
            pictures, targets = self.mix(pictures, targets, rng, batch.total, take)
        return self.stepper(pictures, targets, rate, progress.step, batch.elsewhere)

    def _diverged(self, what: str) -> Error:
        """Return the error of a network that gives no numbers; a checkpoint of its very weights is not a good one."""
        return Error(
            f"{what} (epoch {self.progress.epoch + 1}): start a new run with a lower --lr; "
            f"{self._last_good(before=self.progress.step)}"
        )

    def _last_good(self, before: int | None = None) -> str:
        saved = [path for path in list_checkpoints(self.checkpoints) if before is None or saved_step(path) < before]
        models = "best.safetensors in it is the best epoch" if self.progress.best else "no epoch was completed"
        return f"the last good checkpoint is {saved[0] if saved else 'none'}, the run {self.out}; {models}"

    def finish_epoch(self) -> dict[str, Any]:
        """Validate, log, keep the best network, and save if it is time; return the epoch's line."""
        progress, config = self.progress, self.config
        if config.bn == "recalibrate":
            self.recalibrate()
        if self.statistics is not None and self.statistics != batchnorm.statistics_digest(self.model):
            raise Error("batch norm's statistics changed, and bn=frozen promises that they do not: please report this")
        answers, labels = self.validate()
        if not np.isfinite(answers).all():
            raise self._diverged(f"the answers to validation pictures are no numbers after step {progress.step}")
        figures = self.objective.figures(answers, labels)
        top1 = {"train_top1": progress.correct / progress.seen} if self.index.task == "classification" else {}
        progress.epoch += 1
        line = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": self.rate(progress.step - 1),
            "train_loss": progress.loss_sum / progress.seen,
            **top1,
            **figures,
        }
        progress.batch, progress.loss_sum, progress.correct, progress.seen = 0, 0.0, 0, 0
        headline = self.objective.headline(answers, labels)
        self.keep_if_best(line, headline)
        if progress.epoch == config.epochs:
            self.write_last(line, headline)
        progress.metrics_bytes = self.append("metrics.jsonl", line)  # without times, so that equal runs have equal logs
        if progress.epoch == config.epochs or self.is_save_due():
            self.save()
        return line

    def judge_start(self) -> None:
        """Let what is trained compete as epoch 0, where it was fitted before the first step."""
        if self.parts.is_fitted:
            answers, labels = self.validate()
            line = {"epoch": 0, **self.objective.figures(answers, labels)}
            self.keep_if_best(line, self.objective.headline(answers, labels))

    def keep_if_best(self, line: Mapping[str, Any], headline: Mapping[str, Any]) -> None:
        """Write the best network's model file, if no earlier epoch was better."""
        progress, score = self.progress, self.objective.score(line)
        if not progress.best or score >= progress.best_score:  # of equals the later: its rate was lower
            progress.best_score, progress.best_epoch, progress.best = score, line["epoch"], dict(headline)
            self.write_model("best.safetensors", line, headline)

    @torch.inference_mode()
    def validate(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the averaged network's answers (N, K) to the validation pictures, each once, and their labels."""
        empty = np.empty((0, len(self.index.classes)), np.float32)  # what a process has that got no batch
        answers = [self.objective.answers(self.average.average(self.on_device(b))) for b in self.parts.val.batches()]
        return self.world.gather(
            torch.from_numpy(np.concatenate([empty, *answers]))
        ).numpy(), self.parts.val.samples.labels

    def known_answers(self, split: str) -> np.ndarray | None:  # noqa: ARG002  of a run that keeps them
        """Return the best network's answers (N, K) to the pictures of a split, None where they must be computed."""
        return None

    def recalibrate(self) -> None:
        """Give the averaged network exact statistics of batch norm, from the pictures of the epoch under way."""
        count = -(-RECALIBRATED // self.config.batch_size)  # whole batches: the same in any number of processes
        batches = islice(self.parts.train.batches(self.progress.epoch, size=self.image_size()), count)
        pictures = (self.on_device(batch) for batch in batches)
        batchnorm.recalibrate(self.average.average, pictures, count * self.config.batch_size, self.world.total)

    # --- what an epoch or a step has ---

    def on_device(self, batch: Batch) -> torch.Tensor:
        """Return what ``trained`` reads, on its device."""
        return self.parts.read(torch.from_numpy(batch.pictures).to(self.device))

    def rate(self, step: int) -> float:
        """Return the learning rate of a step counted from 0."""
        return learning_rate(self.config, step, len(self.parts.train))

    def image_size(self) -> int:
        """Return the side of the training pictures of the epoch under way."""
        config = self.config
        if config.start_image_size is None:
            return config.image_size
        share = self.progress.epoch / config.epochs
        return image_size_at(share, config.start_image_size, config.image_size, config.resize_ramp, _RESIZE_STEP)

    def append(self, name: str, line: Mapping[str, Any]) -> int:
        """Append one line to a log, durably; return the log's length in bytes, 0 in processes that write none."""
        if not self.world.is_first:
            return 0
        try:
            with (self.out / name).open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise Error(f"cannot write {self.out / name}: {error.strerror or error}; {self._last_good()}") from error

    def introduce(self, display: Display) -> None:
        """Say what is about to happen."""
        counts, config = self.index.counts(), self.config
        pictures = ", ".join(f"{n:,} {split}" for split, n in counts.items() if n)
        from_where = f"from {self.origin.weights}" if self.origin.weights else f"of {config.arch}"
        what = "a number" if self.index.task == "regression" else f"{len(self.index.classes):,} classes"
        display.say(
            f"{config.recipe} {from_where}: {self.parts.preprocessing.image_size} px on {self.device}, {what}, "
            f"pictures: {pictures}; {self.pace()}, {self.parts.shown}; run in {self.out}"
        )

    def pace(self) -> str:
        """Say how large steps are."""
        return f"batch {self.config.batch_size}, peak lr {self.config.peak_lr:g}"

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

    def stop_if_told(self, display: Display) -> None:
        """Save and leave if a signal came, to any of the processes."""
        number = int(self.world.largest(self.signal or 0))
        if number:
            self.save()
            display.say(f"stopped after step {self.progress.step}; continue with --resume")
            raise Interrupted(number)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step counted from 0: linear warm-up, then the config's schedule."""
    warmup = min(config.warmup_epochs, config.epochs / 4) * steps_per_epoch
    return rate_at(config.schedule, config.peak_lr, step, config.epochs * steps_per_epoch, warmup)
