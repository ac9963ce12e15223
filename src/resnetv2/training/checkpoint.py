"""What a run needs to go on exactly where it stopped, in files that are whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetv2.errors import ModelFileError
from resnetv2.runtime.pytorch import weights_of
from resnetv2.training.optim import MovingAverage
from resnetv2.weights.sealed import read_sealed, write_sealed

KEPT = 2  # checkpoints: the newest, and one to fall back on
KIND = "checkpoint"


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
    best_top1: float = -1.0
    best_epoch: int = 0
    metrics_bytes: int = 0  # length of metrics.jsonl


def save_checkpoint(
    folder: Path, progress: Progress, model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint named by its step, and drop all but the newest two.

    Raises:
        Error: the file system refused; earlier checkpoints are as they were.
    """
    tensors = {f"model.{k}": v for k, v in weights_of(model).items()}
    tensors |= {f"average.{k}": v for k, v in weights_of(average.average).items()}
    tensors |= {f"momentum.{k}": v for k, v in _momenta(model, optimizer).items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    header = {"kind": KIND, "schema_version": 1, "progress": asdict(progress)}
    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
    write_sealed(folder / f"step-{progress.step:08d}.safetensors", header, arrays)
    for old in list_checkpoints(folder)[KEPT:]:
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
    header: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    model: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Put a checkpoint's state into network, average, optimizer and random generators; return where the run was."""
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
    if "rng.cuda" in values and torch.cuda.is_available():
        torch.cuda.set_rng_state(values["rng.cuda"])
    return progress


def _momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {
        name: optimizer.state[p].get("momentum_buffer") for name, p in model.named_parameters() if p in optimizer.state
    }
    return {name: momentum for name, momentum in found.items() if momentum is not None}
