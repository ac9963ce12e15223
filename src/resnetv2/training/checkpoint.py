"""What a run needs to go on exactly where it stopped, in files that are whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetv2.errors import ConfigError, Error, ModelFileError
from resnetv2.files import require_space
from resnetv2.runtime.pytorch import weights_of
from resnetv2.training.average import MovingAverage
from resnetv2.training.optimizers import load_state_tensors, state_tensors
from resnetv2.weights.sealed import read_sealed, write_sealed

KEPT = 2  # checkpoints: the newest, and one to fall back on
KIND, SCHEMA_VERSION = "checkpoint", 2


@dataclass
class Progress:
    """Where a run is: plain numbers, written with every checkpoint."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches completed in the epoch under way
    step: int = 0  # optimizer steps in all
    average_step: int = 0  # the step of the average's last update
    loss_sum: float = 0.0  # over the pictures of the epoch under way
    correct: int = 0
    seen: int = 0
    best_epoch: int = 0  # 0: before the first step, of a head that was fitted
    best_score: float = 0.0  # of the best epoch: the higher the better
    best: dict[str, Any] = field(
        default_factory=dict
    )  # its figure on the validation pictures, with interval and n; empty: none yet
    metrics_bytes: int = 0  # length of metrics.jsonl


@dataclass(frozen=True)
class State:
    """Everything of a run that steps change, beside its progress."""

    model: nn.Module
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def saved_step(path: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(path.stem.rpartition("-")[2])


def save_checkpoint(folder: Path, progress: Progress, state: State, data: Mapping[str, Any]) -> None:
    """Write a checkpoint named by its step, and drop all but the newest two; where space is short, the older one first.

    Args:
        folder: of the run's checkpoints.
        progress: where the run is.
        state: what to save.
        data: what the run reads, as plain values; ``restore`` refuses other data.

    Raises:
        Error: the file system refused, or has no room; the newest of the earlier checkpoints is as it was.
    """
    model, average, optimizer = state.model, state.average, state.optimizer
    tensors = {f"model.{k}": v for k, v in weights_of(model).items()}
    tensors |= {f"average.{k}": v for k, v in weights_of(average.average).items()}
    tensors |= {f"optimizer.{k}": v for k, v in state_tensors(model, optimizer).items()}
    header = {"kind": KIND, "schema_version": SCHEMA_VERSION, "data": dict(data), "progress": asdict(progress)}
    header["scaler"] = state.scaler.state_dict()
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
    size = sum(array.nbytes for array in arrays.values())
    try:
        require_space(folder, size)
    except Error:
        _drop(list_checkpoints(folder)[1:])
        require_space(folder, size)
    write_sealed(folder / f"step-{progress.step:08d}.safetensors", header, arrays)
    _drop(list_checkpoints(folder)[KEPT:])


def _drop(checkpoints: list[Path]) -> None:
    for old in checkpoints:
        with contextlib.suppress(OSError):  # held open by another program; the next save tries again
            old.unlink()


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def read_newest(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
    """Return header and tensors of the newest checkpoint that is whole, and what was wrong with newer ones.

    Raises:
        ModelFileError: there is none.
    """
    problems = []
    for path in list_checkpoints(folder):
        try:
            header, tensors = read_sealed(path)
        except ModelFileError as error:
            problems.append(str(error))
            continue
        if header.get("kind") == KIND:
            return header, tensors, problems
        problems.append(f"{path} is no checkpoint")
    raise ModelFileError("\n  ".join([f"no checkpoint to resume from in {folder}", *problems]))


def restore(
    header: Mapping[str, Any], tensors: Mapping[str, np.ndarray], state: State, data: Mapping[str, Any]
) -> Progress:
    """Put a checkpoint into network, average and optimizer; return where the run was.

    Random generators have no state to restore: every choice is drawn from the seed and the number of its step.

    Raises:
        ConfigError: the checkpoint is of another version, or of a run on other data.
    """
    if header.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(f"the checkpoint has schema version {header.get('schema_version')}, not {SCHEMA_VERSION}")
    if header["data"] != data:
        raise ConfigError(f"the checkpoint is of a run on other data: {header['data']}, now {dict(data)}")
    model, average, optimizer = state.model, state.average, state.optimizer
    values = {name: torch.from_numpy(value) for name, value in tensors.items()}

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    progress = Progress(**header["progress"])
    model.load_state_dict(part("model."))
    average.average.load_state_dict(part("average."))
    average.step = progress.average_step
    load_state_tensors(model, optimizer, part("optimizer."))
    state.scaler.load_state_dict(header["scaler"])
    return progress
