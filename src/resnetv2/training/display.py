"""What a person sees of a run: a live line on a terminal, one line an epoch elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resnetv2.console import talk
from resnetv2.training.speed import Speed


class Display:
    """Progress of one run; used as a context manager.

    Args:
        total: optimizer steps of the whole run.
        done: steps done before, by the run that is resumed.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.console = talk()
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, completed=done, figures="")
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, epoch: int, epochs: int, pictures: int, loss: float, top1: float, rate: float) -> None:
        """Show one more step: pictures in it, the epoch's mean loss and accuracy so far, the learning rate."""
        self.recent.append((time.monotonic(), pictures))
        elapsed = self.recent[-1][0] - self.recent[0][0]
        speed = sum(n for _, n in list(self.recent)[1:]) / elapsed if elapsed else 0.0
        figures = f"loss {loss:.3f}  top-1 {top1:6.2%}  lr {rate:.2g}  {speed:,.0f} img/s"
        self.bar.update(self.task, advance=1, description=f"epoch {epoch}/{epochs}", figures=figures)

    def epoch(self, line: dict[str, Any], epochs: int, seconds: float, speed: Speed, best: bool) -> None:
        """Print the line of a finished epoch: figures, rate and what bounds it, time; a star marks the best so far."""
        self.say(
            f"epoch {line['epoch']:{len(str(epochs))}d}/{epochs}  "
            f"loss {line['train_loss']:.4f}  top-1 {line['train_top1']:6.2%}"
            f"  │ val {line['val_loss']:.4f}  {line['val_top1']:7.2%}"
            f"  │ {speed.images_per_s:,.0f} img/s ({speed.limit}-bound)  {seconds:.1f} s{'  ★' if best else ''}"
        )

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text, soft_wrap=True)
