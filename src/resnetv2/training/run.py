"""The training run, from a folder of pictures to a model file. ``train`` reads top to bottom."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

import resnetv2
from resnetv2.console import counting, printable, talk
from resnetv2.data.augment import Augment
from resnetv2.data.check import Report, check_pictures, readable_index
from resnetv2.data.crews import Budget
from resnetv2.data.index import Index, read_index, read_saved_index, refuse_inside
from resnetv2.data.load import Loader
from resnetv2.data.manifest import shorten
from resnetv2.errors import ConfigError, DataError, Error
from resnetv2.files import hold, require_space, write_json
from resnetv2.kernels.memory import reuse_memory
from resnetv2.recipes import TrainConfig
from resnetv2.runtime.pytorch import Normalize, build_model, choose_device, choose_resize, place
from resnetv2.training.batchnorm import batch_norms
from resnetv2.training.distributed import World
from resnetv2.training.frozen import Frozen, make_frozen_run, map_bytes
from resnetv2.training.loop import Origin, Parts, Run
from resnetv2.training.plan import (
    PRETRAINED_SETTINGS,
    Facts,
    choose_strategy,
    fitting_size,
    fitting_strategies,
    make_config,
    resolve_recipe,
)
from resnetv2.training.report import report_run
from resnetv2.training.start import Start, make_model, make_preprocessing, read_start
from resnetv2.training.track import require_tracker

_LEFT_OUT = 20  # unreadable pictures told one by one; check.json has them all
# Settings a resumed run may change: where it runs, not what it does.
MOVABLE = ("device", "workers", "worker_type", "cache_mb", "features_gb", "save_minutes", "peer_timeout_s", "track")
ALONE = ("probe", "lp-ft")  # recipes that several processes cannot share
LOCK = ".lock"  # in the run's folder, while a process trains in it
DESCRIPTION = {"index.csv", "environment.json", "check.json", LOCK}  # what a run that never began may have left


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: its folder, its model files, and the best epoch's figure on the validation split.

    ``metric`` is "top1", "map" (mean average precision, of pictures with several classes) or "mae" (mean absolute
    error, of numbers); ``val_score_ci95`` is its 95 % interval, None where there is none.
    """

    out: Path
    best: Path
    last: Path
    epochs: int
    best_epoch: int
    metric: str
    val_score: float
    val_score_ci95: tuple[float, float] | None
    val_n: int


def train(
    data: str | Path,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    recipe: str | None = None,
    time_budget: float | None = None,
    arch: str | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    on_bad_image: str | None = None,
    group_by: str | None = None,
    amp: str | None = None,
    bn: str | None = None,
    compile: bool | None = None,  # noqa: A002  torch's word
    track: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  the command's word
    resume: bool = False,
) -> TrainResult:
    """Train a ResNet-v2 on labelled pictures, from scratch or from weights.

    Args:
        data: a folder ``root/{train,val,test}/class/*`` or ``root/class/*``, a CSV manifest, or a packed folder. Of a
            CSV, the column tells the task: "label", "labels" (several, with "|" between) or "target" (a number).
        out: a new folder for the run: ``best.safetensors``, ``last.safetensors``, ``metrics.jsonl``, ``config.json``,
            ``speed.jsonl``, ``environment.json``, ``index.csv``, ``check.json``, ``report.html``, ``README.md`` and
            ``checkpoints/``.
        weights: a model file, or published weights by name, that training starts from.
        recipe: "scratch", "finetune", "probe", "lp-ft", "auto", or a key of ``IMAGENET_RECIPES``. None is "auto" with
            ``weights``, and "scratch" without.
        time_budget: seconds that "auto" may plan for.
        arch: an architecture such as "resnet50v2"; weights bring their own.
        epochs, image_size, batch_size, lr, seed, device, on_bad_image, group_by, amp, bn, compile, track: see
            ``TrainConfig``; None means the recipe's.
        set: any other field of ``TrainConfig`` by name.
        resume: go on with the run in ``out`` from its newest checkpoint.

    Started by ``torchrun``, the processes train together: ``batch_size`` is that of all of them, every picture and its
    augmentation is the same as with one, and the first process writes and speaks.

    Returns:
        The run's model files and validation figures.

    Raises:
        ConfigError: an unknown or impossible setting, or ``out`` holds another run.
        DataError: pictures that cannot be used; all of them are named.
        Error: the loss is no longer a number, the disk is full, the device's memory is, or another process is gone.
        Interrupted: SIGINT or SIGTERM; the state was saved first.
    """
    named: dict[str, Any] = {
        "weights": None if weights is None else str(weights),
        "recipe": recipe,
        "arch": arch,
        "epochs": epochs,
        "image_size": image_size,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "on_bad_image": on_bad_image,
        "group_by": group_by,
        "amp": amp,
        "bn": bn,
        "compile": compile,
        "track": track,
    }
    settings = {**(set or {}), **{key: value for key, value in named.items() if value is not None}}
    data, out = Path(data), Path(out)
    with ExitStack() as claim:
        run = _fit(claim, data, out, settings, time_budget, resume)
        if run.world.is_first:
            report_run(out, run.index, data, str(run.device), run.known_answers)
    return _result(run)


def _fit(
    claim: ExitStack, data: Path, out: Path, settings: Mapping[str, Any], time_budget: float | None, resume: bool
) -> Run:
    """Return the run after its last epoch; ``claim`` then holds its folder."""
    try:
        run = _open(claim, data, out, settings, time_budget, resume)
        with reuse_memory() if run.config.memory == "saved" else nullcontext():
            run.fit()
    except torch.OutOfMemoryError as error:
        raise Error(
            "the device is out of memory: choose a smaller --batch-size, or --set grad_accum_steps=2, or "
            "--set memory=recompute"
        ) from error
    return run


def _open(
    claim: ExitStack, data: Path, out: Path, settings: Mapping[str, Any], time_budget: float | None, resume: bool
) -> Run:
    """Return the run: of several processes, the first one begins or resumes it, and the others read what it wrote.

    Processes that ``torchrun`` started again go on with their run by themselves.
    """
    world = World.from_environment()

    def lead() -> Run:
        if resume or (world.restarts > 0 and (out / "config.json").exists()):
            return _resume(claim, data, out, settings, world)
        return _begin(claim, data, out, settings, time_budget, world)

    run = world.lead(lead)
    if run is None:
        config, _ = _read_config(out, {})
        index = read_saved_index(out / "index.csv", data, config.task)
        run = make_run(config, index, out, read_start(config.weights), world)
        run.restore()
    return run


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes from training in ``out`` within the block, where the file system knows locks.

    Raises:
        ConfigError: one does.
        Error: the folder cannot be written.
    """
    refusal = ConfigError(f"another process trains in {out}: wait until it is done, or choose another --out")
    with ExitStack() as lock:
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock.enter_context(hold(out / LOCK, refusal))
        except NotImplementedError:
            pass
        except OSError as error:
            raise Error(f"cannot write to {out}: {error.strerror or error}") from error
        yield


def _refuse_begun(out: Path) -> None:
    if (out / "config.json").exists():
        raise ConfigError(f"{out} already holds a run: continue it with --resume, or choose another --out")


def _begin(
    claim: ExitStack, data: Path, out: Path, settings: Mapping[str, Any], time_budget: float | None, world: World
) -> Run:
    """Return a new run, after everything that can be checked was, with its description written."""
    if (out / LOCK).exists():
        with _alone(out):  # else whoever trains in it has gone
            pass
    _refuse_begun(out)
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - DESCRIPTION):
        raise ConfigError(f"{out} exists and is not an empty folder: choose another --out")
    refuse_inside(out, data)
    config, index, report, start = prepare(data, settings, time_budget, world.size)
    if world.size > 1 and config.recipe in ALONE:
        raise ConfigError(
            f"recipe {config.recipe!r} is one process's work: start it without torchrun, or choose --recipe finetune"
        )
    describe(report)
    run = make_run(config, index, out, start, world)
    require_space(out, run.needed_bytes())
    claim.enter_context(_alone(out))
    _refuse_begun(out)  # by another process meanwhile
    index.write_csv(out / "index.csv")
    write_json(out / "check.json", report.to_dict())
    write_json(
        out / "environment.json",
        environment() | {"data": str(data), "device": str(run.device), "processes": world.size},
    )
    write_json(out / "config.json", config.to_dict())
    return run


def prepare(
    data: Path, settings: Mapping[str, Any], time_budget: float | None = None, processes: int = 1
) -> tuple[TrainConfig, Index, Report, Start | None]:
    """Return what a new run is made of, after everything that can be checked was; nothing is written.

    Args:
        data: as ``train`` takes it.
        settings: fields of ``TrainConfig`` that were chosen.
        time_budget: seconds that "auto" may plan for.
        processes: how many will train together.
    """
    asked = TrainConfig.from_dict(settings)  # says at once what is wrong with them
    require_tracker(asked.track)
    start = read_start(asked.weights)
    index = read_index(data, asked.group_by, asked.task)
    index, report = _check(index, data, asked.on_bad_image)
    return _plan(settings, index, report, start, time_budget, processes), index, report, start


def _resume(claim: ExitStack, data: Path, out: Path, settings: Mapping[str, Any], world: World) -> Run:
    """Return the run in ``out`` where it was; settings that were given must be its own, save MOVABLE."""
    config, changed = _read_config(out, settings)
    if changed:
        raise ConfigError("\n  ".join(["a resumed run keeps its settings; these differ", *changed]))
    claim.enter_context(_alone(out))
    index = read_saved_index(out / "index.csv", data, config.task)
    now_there, _ = _check(
        index, data, "error", fixed=True
    )  # the run's list of pictures is what it is: none may be missing now
    _refuse_changed(index, now_there)
    run = make_run(config, index, out, read_start(config.weights), world)
    run.restore()
    return run


def _read_config(out: Path, settings: Mapping[str, Any]) -> tuple[TrainConfig, list[str]]:
    """Return the config of the run in ``out`` with settings that were given, and which of these it cannot take."""
    path = out / "config.json"
    try:
        saved = {**json.loads(path.read_text(encoding="utf-8"))}
        was = TrainConfig.from_dict(saved).to_dict()
    except FileNotFoundError as error:
        raise ConfigError(f"{out} holds no run to resume: there is no {path}; train without --resume") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged, and without it no run can be resumed: bring it back, or train without --resume and "
            f"with another --out ({error})"
        ) from error
    if settings.get("recipe") == "auto" and was["recipe"] in PRETRAINED_SETTINGS:  # what it came to, then
        settings = {name: value for name, value in settings.items() if name != "recipe"}
    config = TrainConfig.from_dict({**saved, **settings})
    now = config.to_dict()
    changed = [
        f"{key}: {was[key]!r} in the run, {now[key]!r} asked for"
        for key in was
        if was[key] != now[key] and key not in MOVABLE
    ]
    return config, changed


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


def _plan(
    settings: Mapping[str, Any],
    index: Index,
    report: Report,
    start: Start | None,
    time_budget: float | None,
    processes: int,
) -> TrainConfig:
    """Return the config, with everything resolved that depends on pictures, weights, device and time."""
    device = choose_device(TrainConfig.from_dict(settings).device)
    facts = Facts(
        pictures=index.counts()["train"],
        classes=len(index.classes),
        area=report.statistics["width"]["median"] * report.statistics["height"]["median"],
        start=start.header if start is not None else None,
        device=device.type,
    )
    recipe = resolve_recipe(settings)
    if recipe == "auto" and start is not None:
        size = settings.get("image_size") or fitting_size(facts)
        views = facts.pictures * int(settings.get("views", 1)) + index.counts()["val"]
        fitting = fitting_strategies(
            settings, views * map_bytes(start.header.architecture, size), ALONE if processes > 1 else ()
        )
        seconds = _seconds_per_picture(start, size, device)
        recipe, why = choose_strategy(facts, seconds, time_budget, fitting, settings)
        talk().print(f"auto takes {recipe}: {why}", soft_wrap=True)
    elif time_budget is not None:
        raise ConfigError("a time budget is for recipe 'auto', which starts from weights: name some, or leave it out")
    config = make_config(recipe, settings, facts)
    return replace(config.fitted(index.task, index.classes), device=str(device))


def _seconds_per_picture(start: Start, size: int, device: torch.device) -> float:
    """Return the time that one picture takes through a network, forward: the second of two batches."""
    model = place(build_model(start.header.architecture, start.file.weights), device).eval()
    pictures = torch.zeros(8, 3, size, size, device=device)
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            model(pictures).sum().item()
    return (time.perf_counter() - began) / len(pictures)


def make_run(config: TrainConfig, index: Index, out: Path, start: Start | None, world: World | None = None) -> Run:
    """Return the run of a recipe: the whole network on augmented pictures, or a part on what the rest makes of them.

    Args:
        config: resolved settings.
        index: the pictures.
        out: the run's folder.
        start: what to begin with.
        world: the processes that train together; None is this one alone.

    Raises:
        ConfigError: batches that cannot be shared out.
        DataError: there is one picture, and batch norm.
    """
    world = world or World()
    network = place(make_model(config, index.task, index.classes, start), world.device(config.device))
    preprocessing = make_preprocessing(config, start)
    augment = Augment(
        scale=config.crop_scale or (1.0, 1.0),
        ratio=config.crop_ratio,
        hflip=config.hflip or 0.0,
        auto_augment=config.auto_augment,
        random_erasing=config.random_erasing,
        dct_scaling=config.dct_scaling,
        resize=choose_resize(),
    )
    origin = Origin(config.weights, start.digest) if start is not None else Origin()
    if config.recipe in ALONE and start is not None:
        return make_frozen_run(Frozen(config, index, network, start, preprocessing, augment), out, origin)
    budget = Budget(config.cache_mb * 2**20)
    workers = config.workers or max(1, min((os.cpu_count() or 1) // world.local_size, 8))
    share, least = world.share(config.grad_accum_steps), 2 * config.grad_accum_steps  # batch norm needs two
    train = Loader(
        index.split("train"),
        config.batch_size,
        replace(preprocessing, image_size=config.image_size, resize=config.image_size),
        augment,
        config.seed,
        workers,
        budget,
        config.sampling,
        share,
        least,
        config.worker_type,
    )
    smallest = min(high - low for low, high in train.bounds)
    if smallest < 2 and config.bn != "frozen" and any(batch_norms(network)):
        raise DataError("there is one picture to train on, and batch norm needs two to compare: add some")
    _refuse_small(smallest, config.grad_accum_steps, world.size)
    val = Loader(index.split("val"), config.batch_size, preprocessing, workers=workers, budget=budget, share=share)
    normalize = Normalize(preprocessing).to(world.device(config.device))
    shown = f"mirror {augment.hflip:g}, crop {augment.scale[0]:g}–{augment.scale[1]:g} of the area"
    return Run(config, index, Parts(network, network, preprocessing, normalize, train, val, shown), out, origin, world)


def _refuse_small(batch: int, parts: int, processes: int) -> None:
    """Refuse to share out batches of which a process would get fewer than two pictures at a time."""
    if parts * processes > 1 and batch < 2 * parts * processes:
        raise ConfigError(
            f"a batch of {batch} pictures cannot be shared by {processes} processes in {parts} parts of two or more: "
            "choose a larger --batch-size, fewer processes, or a smaller grad_accum_steps"
        )


def _result(run: Run) -> TrainResult:
    """Return the run's figures."""
    progress, metric = run.progress, run.objective.metric
    interval = progress.best[f"{metric}_ci95"]
    return TrainResult(
        out=run.out,
        best=run.out / "best.safetensors",
        last=run.out / "last.safetensors",
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        metric=metric,
        val_score=progress.best[metric],
        val_score_ci95=None if interval is None else (interval[0], interval[1]),
        val_n=progress.best["n"],
    )


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
