"""What a person sees of a run: a live line on a terminal, one line an epoch elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from resnetv2.console import talk
from resnetv2.training.checkpoint import Progress
from resnetv2.training.speed import Speed


class Display:
    """Progress of one run; used as a context manager.

    Args:
        total: optimizer steps of the whole run.
        done: steps done before, by the run that is resumed.
        is_silent: whether another process speaks.
    """

    def __init__(self, total: int, done: int = 0, is_silent: bool = False) -> None:
        self.console = talk()
        self.console.quiet = is_silent
        self.bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=is_silent or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, completed=done, figures="")
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, progress: Progress, epochs: int, pictures: int, rate: float, is_counted: bool, speed: Speed) -> None:
        """Show one more step.

        Args:
            progress: of the run: its epoch's mean loss and accuracy so far are shown.
            epochs: of the whole run.
            pictures: of the step.
            rate: the learning rate.
            is_counted: whether right answers are counted.
            speed: of the epoch so far: the share of waiting for pictures, and the memory.
        """
        self.recent.append((time.monotonic(), pictures))
        elapsed = self.recent[-1][0] - self.recent[0][0]
        pace = sum(n for _, n in list(self.recent)[1:]) / elapsed if elapsed else 0.0
        top1 = f"  top-1 {progress.correct / progress.seen:6.2%}" if is_counted else ""
        memory = f"  {speed.peak_memory_mb / 1000:.1f} GB" if speed.peak_memory_mb is not None else ""
        figures = (
            f"loss {progress.loss_sum / progress.seen:.3f}{top1}  lr {rate:.2g}  {pace:,.0f} img/s  "
            f"waits {speed.waited_share:.0%}{memory}"
        )
        self.bar.update(self.task, advance=1, description=f"epoch {progress.epoch + 1}/{epochs}", figures=figures)

    def epoch(self, line: dict[str, Any], epochs: int, seconds: float, speed: Speed, best: bool) -> None:
        """Print the line of a finished epoch: figures, rate and what bounds it, time; a star marks the best so far."""
        train_top1 = f"  top-1 {line['train_top1']:6.2%}" if "train_top1" in line else ""
        shown = {"val_top1": "{:7.2%}", "val_map": "mAP {:7.2%}", "val_mae": "mean error {:.4g}"}
        score = next(text.format(line[key]) for key, text in shown.items() if key in line)
        self.say(
            f"epoch {line['epoch']:{len(str(epochs))}d}/{epochs}  loss {line['train_loss']:.4f}{train_top1}"
            f"  │ val {line['val_loss']:.4f}  {score}"
            f"  │ {speed.images_per_s:,.0f} img/s ({speed.limit}-bound)  {seconds:.1f} s{'  ★' if best else ''}"
        )

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text, soft_wrap=True)
