"""What a run needs to go on exactly where it stopped, in files that are whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetv2.errors import ConfigError, ModelFileError
from resnetv2.runtime.pytorch import weights_of
from resnetv2.training.optim import MovingAverage
from resnetv2.weights.sealed import read_sealed, write_sealed

KEPT = 2  # checkpoints: the newest, and one to fall back on
KIND, SCHEMA_VERSION = "checkpoint", 1


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
    best_correct: int = -1  # right answers on the validation pictures, of the best epoch
    best_epoch: int = 0
    metrics_bytes: int = 0  # length of metrics.jsonl


@dataclass(frozen=True)
class State:
    """Everything of a run that steps change, beside its progress."""

    model: nn.Module
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    device: torch.device


def save_checkpoint(folder: Path, progress: Progress, state: State, data: Mapping[str, Any]) -> None:
    """Write a checkpoint named by its step, and drop all but the newest two.

    Args:
        folder: of the run's checkpoints.
        progress: where the run is.
        state: what to save.
        data: what the run reads, as plain values; ``restore`` refuses other data.

    Raises:
        Error: the file system refused; earlier checkpoints are as they were.
    """
    model, average, optimizer = state.model, state.average, state.optimizer
    tensors = {f"model.{k}": v for k, v in weights_of(model).items()}
    tensors |= {f"average.{k}": v for k, v in weights_of(average.average).items()}
    tensors |= {f"momentum.{k}": v for k, v in _momenta(model, optimizer).items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if state.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(state.device)
    elif state.device.type == "mps":
        tensors["rng.mps"] = torch.mps.get_rng_state()
    header = {"kind": KIND, "schema_version": SCHEMA_VERSION, "data": dict(data), "progress": asdict(progress)}
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
    write_sealed(folder / f"step-{progress.step:08d}.safetensors", header, arrays)
    for old in list_checkpoints(folder)[KEPT:]:
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
    """Put a checkpoint into network, average, optimizer and random generators; return where the run was.

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
    parameters = dict(model.named_parameters())
    for name, momentum in part("momentum.").items():
        parameter = parameters[name]
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    torch.set_rng_state(values["rng.cpu"])
    if state.device.type == "cuda" and "rng.cuda" in values:
        torch.cuda.set_rng_state(values["rng.cuda"], state.device)
    elif state.device.type == "mps" and "rng.mps" in values:
        torch.mps.set_rng_state(values["rng.mps"])
    return progress


def _momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {
        name: optimizer.state[p].get("momentum_buffer") for name, p in model.named_parameters() if p in optimizer.state
    }
    return {name: momentum for name, momentum in found.items() if momentum is not None}
