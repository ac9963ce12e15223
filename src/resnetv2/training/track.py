"""Where a run's figures go beside ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow. None can stop a run."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from resnetv2.console import printable, talk
from resnetv2.errors import ConfigError, MissingExtra, first_line, unknown
from resnetv2.files import write_json
from resnetv2.recipes import RULES

PROJECT = "resnetv2"  # of Weights & Biases, and MLflow's experiment, unless the environment names another
_MEMORY = "tracking.json"  # in the run's folder: the services' names of the run, and the last step they were told


class Sink(Protocol):
    """One place that figures go to."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step; steps rise."""

    def close(self, failed: bool) -> None:
        """Finish; ``failed`` tells that the run did not come to its end."""


def require_tracker(kind: str) -> None:
    """Refuse a tracker that is unknown or not installed; "auto" takes what there is.

    Raises:
        ConfigError: the kind is unknown.
        MissingExtra: its package is not installed.
    """
    kinds = RULES["track"].choices
    if kind not in kinds:
        raise ConfigError(unknown("tracker", kind, kinds))
    if kind not in ("auto", "none") and find_spec(kind) is None:
        raise MissingExtra(f"--track {kind}", kind)


class Tracker:
    """Passes a run's figures on; used as a context manager, by one process of a run.

    A step is written once, also by a run that was killed and resumed from before it. TensorBoard forgets what it had
    from the first step of a resumed run on; the services keep what they were told first, under the name of the run
    that ``tracking.json`` remembers. A service that fails is warned about once and left alone from then on.

    Args:
        kind: "wandb" or "mlflow", each beside TensorBoard where that is installed; "tensorboard" alone; "none"; or
            "auto": TensorBoard where it is installed.
        out: the run's folder. TensorBoard reads ``out/tensorboard``.
        config: the run's settings, which are written with it.

    Raises:
        ConfigError: the kind is unknown.
        MissingExtra: its package is not installed.
    """

    def __init__(self, kind: str, out: Path, config: Mapping[str, Any]) -> None:
        require_tracker(kind)
        services = [kind] if kind in ("wandb", "mlflow") else []
        if kind != "none" and find_spec("tensorboard") is not None:
            services.insert(0, "tensorboard")
        self.sinks: dict[str, Sink] = {}
        for name in services:
            self._attempt(name, partial(self._open, name, out, config))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def log(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Write figures; those that are undefined or no finite number are left out.

        Args:
            step: optimizer steps so far.
            figures: by name, such as "val_top1".
        """
        finite = {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}
        for name, sink in list(self.sinks.items()):
            self._attempt(name, partial(sink.log, step, finite))

    def close(self, failed: bool = False) -> None:
        """Finish; after that nothing is written."""
        for name, sink in list(self.sinks.items()):
            self._attempt(name, partial(sink.close, failed))
        self.sinks.clear()

    def _open(self, name: str, out: Path, config: Mapping[str, Any]) -> None:
        self.sinks[name] = SINKS[name](out, config)

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  whatever a service comes up with, training goes on
            self.sinks.pop(name, None)
            talk().print(
                f"warning: {name} gets no more figures of this run: {printable(first_line(error))}", soft_wrap=True
            )


class TensorBoard:
    """Event files that ``tensorboard --logdir RUN`` shows; written without TensorFlow.

    A file begins with the mark of a restart at its first step, which lets TensorBoard drop what earlier files have from
    there on. It is made at that step, so that a run which is resumed and killed at once leaves no mark.
    """

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder, self.config = out / "tensorboard", config
        self.event, self.summary, self.make_writer = event_pb2, summary_pb2.Summary, RecordWriter
        self.writer: Any = None

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write scalars, and the file's beginning before the first."""
        if self.writer is None:
            self._begin(step)
        values = [self.summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(step, summary=self.summary(value=values))
        self.writer.flush()

    def close(self, failed: bool) -> None:  # noqa: ARG002  event files do not say how a run ended
        """Close the file."""
        if self.writer is not None:
            self.writer.close()

    def _begin(self, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("events.*")))
        path = self.folder / f"events.out.tfevents.{int(time.time()):010d}.{number:04d}"  # read in the order of names
        self.writer = self.make_writer(path.open("xb"))
        self._write(0, file_version="brain.Event:2")
        start = self.event.SessionLog(status=self.event.SessionLog.START)
        self._write(step, session_log=start)
        if number == 0:
            self._write(0, summary=self.summary(value=[self._settings()]))

    def _settings(self) -> Any:
        from tensorboard.compat.proto import tensor_pb2, types_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata

        rows = "\n".join(f"| {key} | {_text(value).replace('|', '&#124;')} |" for key, value in self.config.items())
        table = f"| setting | value |\n|---|---|\n{rows}".encode()
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[table])
        return self.summary.Value(tag="config", metadata=create_summary_metadata("config", ""), tensor=tensor)

    def _write(self, step: int, **content: Any) -> None:
        event = self.event.Event(wall_time=time.time(), step=step, **content)
        self.writer.write(event.SerializeToString())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class WandB:
    """A run of Weights & Biases; who, where and whether online is for its own settings (``WANDB_MODE`` …) to say.

    A resumed run has the same id, so its figures join those that are there.
    """

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.memory = _Memory(out, "wandb", lambda: secrets.token_hex(4))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=out.resolve().name,
            id=self.memory.name,
            resume="allow",
            reinit="create_new",  # a run that the person has open stays so
            dir=str(out),
            config=dict(config),
            settings=wandb.Settings(console="off"),  # the terminal is the display's
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send a step that is new."""
        if self.memory.is_new(step):
            self.run.log(dict(figures), step=step)

    def close(self, failed: bool) -> None:
        """Wait until everything is sent."""
        self.run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says; a resumed run is the same one."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self.client, self.make_metric = MlflowClient(), Metric

        def begin() -> str:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self.client.get_experiment_by_name(name)
            experiment = self.client.create_experiment(name) if found is None else found.experiment_id
            run: str = self.client.create_run(experiment, run_name=out.resolve().name).info.run_id
            params = [Param(key, _text(value)) for key, value in config.items()]
            self.client.log_batch(run, params=params)
            return run

        self.memory = _Memory(out, "mlflow", begin)
        self.client.update_run(self.memory.name, status="RUNNING")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send a step that is new."""
        if self.memory.is_new(step):
            now = int(1000 * time.time())
            metrics = [self.make_metric(name, value, now, step) for name, value in figures.items()]
            self.client.log_batch(self.memory.name, metrics=metrics)

    def close(self, failed: bool) -> None:
        """Say how the run ended."""
        self.client.set_terminated(self.memory.name, "FAILED" if failed else "FINISHED")


class _Memory:
    """What a service calls the run, and the last step it was told: kept in the run's folder."""

    def __init__(self, out: Path, service: str, begin: Callable[[], str]) -> None:
        self.path = out / _MEMORY
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))[service]
            self.name, self.step = str(known["name"]), int(known["step"])
        except (OSError, ValueError, KeyError, TypeError):
            self.name, self.step = begin(), -1
            self._save(service)
        self.service = service

    def is_new(self, step: int) -> bool:
        """Tell whether the service has not been told of a step, and note that it is from now on."""
        if step <= self.step:
            return False
        self.step = step
        self._save(self.service)
        return True

    def _save(self, service: str) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        write_json(self.path, {**content, service: {"name": self.name, "step": self.step}})


SINKS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
