"""Where figures go: TensorBoard's own reader finds them, services are told each step once, failures stop nothing."""

import json
import math
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest

from resnetv2.errors import ConfigError, Interrupted, MissingExtra
from resnetv2.training.track import Tracker

CONFIG = {
    "arch": "resnet50v2",
    "lr": 0.1,
    "model": {"stem": "3x3"},
    "crop_scale": [0.35, 1.0],
    "workers": None,
    "group_by": "a|b",
}


def run(out, kind, steps, *, value=float, failing=None):
    """Track a run's steps as training does; ``failing`` is raised after them."""
    with Tracker(kind, out, CONFIG) as tracker:
        for step in steps:
            tracker.log(step, {"val_top1": value(step), "train_loss": 1 / (1 + step)})
        if failing is not None:
            raise failing


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def read_events(out):
    """Return what TensorBoard shows: {tag: [(step, value), …]}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, tags


@pytest.mark.parametrize("kind", ["auto", "tensorboard"])
def test_tensorboard_shows_every_figure_at_its_step_and_the_settings(tmp_path, kind):
    run(tmp_path, kind, [10, 20, 30])
    scalars, tags = read_events(tmp_path)
    assert scalars["val_top1"] == [(10, 10.0), (20, 20.0), (30, 30.0)]
    assert [step for step, _ in scalars["train_loss"]] == [10, 20, 30]
    assert tags["tensors"] == ["config"]
    content = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b'| model | {"stem": "3x3"} |' in content
    assert b"| group_by | a&#124;b |" in content, "a bar would end the table's cell"


def test_a_resumed_run_replaces_the_steps_it_takes_again(tmp_path):
    run(tmp_path, "auto", [10, 20, 30, 40])
    run(tmp_path, "auto", [30, 40, 50], value=lambda step: step + 0.5)
    run(tmp_path, "auto", [60])
    scalars, _ = read_events(tmp_path)
    assert scalars["val_top1"] == [(10, 10.0), (20, 20.0), (30, 30.5), (40, 40.5), (50, 50.5), (60, 60.0)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3


def test_what_a_killed_run_wrote_is_there_and_its_torn_end_harms_nothing(tmp_path):
    tracker = Tracker("auto", tmp_path, CONFIG)
    tracker.log(10, {"val_top1": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    with path.open("ab") as file:
        file.write(b"\x20\0\0")
    run(tmp_path, "auto", [20])
    assert read_events(tmp_path)[0]["val_top1"] == [(10, 0.5), (20, 20.0)]


def test_a_run_that_logs_nothing_leaves_nothing_of_tensorboard(tmp_path):
    run(tmp_path, "auto", [])
    assert list(tmp_path.iterdir()) == []


def test_figures_that_are_no_number_are_left_out(tmp_path):
    with Tracker("auto", tmp_path, CONFIG) as tracker:
        tracker.log(1, {"a": math.nan, "b": math.inf, "c": 1, "d": None})
    assert read_events(tmp_path)[0] == {"c": [(1, 1.0)]}


def test_neither_torch_nor_tensorflow_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path, "tensorboard", [1])
    assert read_events(tmp_path)[0]["val_top1"] == [(1, 1.0)]


# --- services, played by modules that remember what they were told ----------------------------------------------------


@pytest.fixture
def wandb(monkeypatch):
    """A module like wandb; ``wandb.runs`` holds the arguments, history and exit code of each session."""
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.runs = []

    class Run:
        def __init__(self, arguments):
            self.arguments, self.history, self.exit_code = arguments, [], None

        def log(self, figures, step):
            self.history.append((step, figures["val_top1"]))

        def finish(self, exit_code):
            self.exit_code = exit_code

    def init(**arguments):
        module.runs.append(Run(arguments))
        return module.runs[-1]

    module.init, module.Settings = init, SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    """Modules like mlflow's; ``server`` holds what it was told."""
    server = SimpleNamespace(experiments={}, runs={})

    class Client:
        def get_experiment_by_name(self, name):
            return server.experiments.get(name)

        def create_experiment(self, name):
            server.experiments[name] = SimpleNamespace(experiment_id=name)
            return name

        def create_run(self, experiment, run_name):
            name = f"run-{len(server.runs)}"
            server.runs[name] = {"experiment": experiment, "name": run_name, "params": {}, "history": [], "status": ""}
            return SimpleNamespace(info=SimpleNamespace(run_id=name))

        def log_batch(self, run, metrics=(), params=()):
            server.runs[run]["params"] |= dict(params)
            server.runs[run]["history"] += [(m[3], m[1]) for m in metrics if m[0] == "val_top1"]

        def update_run(self, run, status):
            server.runs[run]["status"] = status

        def set_terminated(self, run, status):
            server.runs[run]["status"] = status

    parts = {
        "mlflow": {},
        "mlflow.entities": {"Metric": lambda *a: a, "Param": lambda *a: a},
        "mlflow.tracking": {"MlflowClient": Client},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return server


def test_wandb_gets_the_run_once_under_one_id(tmp_path, wandb):
    out = tmp_path / "my-run"
    with pytest.raises(Interrupted):
        run(out, "wandb", [10, 20, 30], failing=Interrupted(15))
    run(out, "wandb", [20, 30, 40], value=lambda step: step + 0.5)
    first, second = wandb.runs
    assert first.arguments["id"] == second.arguments["id"]
    assert second.arguments["resume"] == "allow"
    assert first.arguments["name"] == "my-run"
    assert first.arguments["config"] == CONFIG
    assert first.arguments["settings"].console == "off"
    assert first.history + second.history == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.5)]
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert read_events(out)[0]["val_top1"][-1] == (40, 40.5), "TensorBoard has it, too"


def test_two_runs_have_two_ids(tmp_path, wandb):
    run(tmp_path / "a", "wandb", [1])
    run(tmp_path / "b", "wandb", [1])
    assert len({each.arguments["id"] for each in wandb.runs}) == 2


def test_mlflow_gets_the_run_once_under_one_id(tmp_path, mlflow):
    out = tmp_path / "my-run"
    with pytest.raises(Interrupted):
        run(out, "mlflow", [10, 20, 30], failing=Interrupted(15))
    (told,) = mlflow.runs.values()
    assert told["status"] == "FAILED"
    run(out, "mlflow", [20, 30, 40], value=lambda step: step + 0.5)
    (told,) = mlflow.runs.values()
    assert told["history"] == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.5)]
    assert told["params"] == {
        "arch": "resnet50v2",
        "lr": "0.1",
        "model": '{"stem": "3x3"}',
        "crop_scale": "[0.35, 1.0]",
        "workers": "null",
        "group_by": "a|b",
    }
    assert (told["experiment"], told["name"], told["status"]) == ("resnetv2", "my-run", "FINISHED")
    run(tmp_path / "other", "mlflow", [1])
    assert len(mlflow.runs) == 2


def test_a_torn_memory_begins_a_new_run_of_the_service(tmp_path, wandb):
    run(tmp_path, "wandb", [1])
    (tmp_path / "tracking.json").write_text("{")
    run(tmp_path, "wandb", [1, 2])
    assert wandb.runs[1].history == [(1, 1.0), (2, 2.0)]
    assert wandb.runs[0].arguments["id"] != wandb.runs[1].arguments["id"]


def test_both_services_share_one_memory(tmp_path, wandb, mlflow):
    run(tmp_path, "wandb", [1])
    run(tmp_path, "mlflow", [1])
    assert set(json.loads((tmp_path / "tracking.json").read_text())) == {"wandb", "mlflow"}
    run(tmp_path, "wandb", [1, 2])
    assert wandb.runs[-1].history == [(2, 2.0)]


# --- failures ---------------------------------------------------------------------------------------------------------


def warnings(text):
    return [line for line in text.splitlines() if line.startswith("warning:")]


def test_a_service_that_fails_at_any_time_is_warned_about_once_and_the_rest_goes_on(tmp_path, wandb, capsys):
    def refuse(*_, **__):
        raise ConnectionError("no route to host\nand a page of details")

    steps = {"init": wandb.init, "log": None, "finish": None}
    for place in steps:
        out = tmp_path / place

        def init(place=place, **arguments):
            session = steps["init"](**arguments)
            if place == "init":
                refuse()
            setattr(session, place, refuse)
            return session

        wandb.init = init
        run(out, "wandb", [1, 2, 3])
        assert warnings(capsys.readouterr().err) == [
            "warning: wandb gets no more figures of this run: no route to host"
        ], place
        assert len(read_events(out)[0]["val_top1"]) == 3


def test_a_full_disk_stops_tensorboard_and_not_the_run(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("in the way")
    run(tmp_path, "auto", [1, 2, 3])
    (warning,) = warnings(capsys.readouterr().err)
    assert warning.startswith("warning: tensorboard gets no more figures of this run: ")


def test_ctrl_c_in_a_service_is_passed_on(tmp_path, wandb):
    def interrupt(**_):
        raise KeyboardInterrupt

    wandb.init = interrupt
    with pytest.raises(KeyboardInterrupt):
        Tracker("wandb", tmp_path, CONFIG)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named_before_the_run(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingExtra, match=rf"--track {kind} needs .*resnetv2\[{kind}\]"):
        Tracker(kind, tmp_path, CONFIG)


def test_without_tensorboard_nothing_is_written_and_nothing_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    run(tmp_path, "auto", [1])
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_none_writes_nothing_and_another_word_is_refused(tmp_path):
    run(tmp_path, "none", [1])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="did you mean 'mlflow'"):
        Tracker("mlflo", tmp_path, CONFIG)


# --- the services' own libraries, where they are installed ------------------------------------------------------------


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_real_mlflow_keeps_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(out, "mlflow", [10, 20], failing=Interrupted(15))
    run(out, "mlflow", [20, 30])
    from mlflow.tracking import MlflowClient

    name = json.loads((out / "tracking.json").read_text())["mlflow"]["name"]
    client = MlflowClient()
    assert [(m.step, m.value) for m in client.get_metric_history(name, "val_top1")] == [(10, 10), (20, 20), (30, 30)]
    kept = client.get_run(name)
    assert kept.data.params["arch"] == "resnet50v2"
    assert kept.info.status == "FINISHED"
    assert warnings(capsys.readouterr().err) == []


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb_keeps_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    run(out, "wandb", [10, 20])
    run(out, "wandb", [20, 30])
    from wandb.proto.wandb_internal_pb2 import Record

    name = json.loads((out / "tracking.json").read_text())["wandb"]["name"]
    seen = []
    for session in out.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"):
        content = session.read_bytes()
        place = 7  # after the file's head; then LevelDB's log: checksum, length, kind, and here one block of it
        while place + 7 < min(len(content), 32768):
            end = place + 7 + int.from_bytes(content[place + 4 : place + 6], "little")
            items = {i.nested_key[0]: i.value_json for i in Record.FromString(content[place + 7 : end]).history.item}
            if items:
                seen.append((json.loads(items["_step"]), json.loads(items["val_top1"])))
            place = end
    assert sorted(seen) == [(10, 10), (20, 20), (30, 30)]
    assert warnings(capsys.readouterr().err) == []
