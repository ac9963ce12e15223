"""The training run: what it writes, that it learns, that it stops and goes on without losing anything."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from pictures import noise, write_picture
from PIL import Image
from runs import COLOURS, SETTINGS, TINY, command, write_colours
from torch.nn import functional as F

import resnetv2
from resnetv2.data.decoding import Decoder
from resnetv2.data.index import read_index
from resnetv2.errors import ConfigError, DataError, Error, Interrupted, MissingExtra
from resnetv2.recipes import TrainConfig
from resnetv2.training import run
from resnetv2.training.average import MovingAverage
from resnetv2.training.checkpoint import list_checkpoints
from resnetv2.training.loop import Run, learning_rate
from resnetv2.training.objective import Objective
from resnetv2.training.optimizers import make_optimizer
from resnetv2.weights.modelfile import read_model_file


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(colours, out=out, set={**TINY, "save_minutes": 0}, **SETTINGS)


def read_log(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(path):
    return read_model_file(path).weights


def same_files(one, other):
    """The parts of two runs that must not differ by a bit."""
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "config.json", "index.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_writes_its_settings_pictures_environment_log_and_models(trained, colours):
    out = trained.out
    config = json.loads((out / "config.json").read_text())
    assert TrainConfig.from_dict(config).epochs == 3
    assert config["hflip"] == 0.5
    assert config["crop_scale"] == [0.35, 1.0], "the resolved value, not None"
    assert len((out / "index.csv").read_text().splitlines()) == 1 + 3 * 18
    assert json.loads((out / "environment.json").read_text())["torch"] == torch.__version__
    assert [line["epoch"] for line in read_log(out)] == [1, 2, 3]
    assert trained.best == out / "best.safetensors"
    assert trained.best.exists()
    assert trained.last.exists()
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []


def test_a_run_learns_what_can_be_learned(colours, tmp_path):
    run = resnetv2.train(colours, out=tmp_path / "run", set=TINY, **{**SETTINGS, "epochs": 8, "lr": 0.02})
    log = read_log(run.out)
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    assert run.val_score == max(line["val_top1"] for line in log)
    assert run.val_score > 0.9, "three colours far apart; chance is 1/3"


def test_the_model_file_carries_classes_preprocessing_recipe_figures_and_golden_samples(trained):
    file = read_model_file(trained.best)
    assert file.header.classes == ("blue", "green", "red")
    assert file.header.preprocessing.image_size == 32
    assert file.header.provenance["recipe"]["arch"] == "resnet18v2"
    assert file.header.provenance["data"]["pictures"] == {"train": 30, "val": 12, "test": 12}
    assert file.header.metrics["val"]["n"] == 12
    assert file.header.metrics["val"]["top1"] == trained.val_score
    assert len(file.golden.pictures) == 4
    assert resnetv2.verify(trained.best, device="cpu").ok


def test_the_figures_in_the_log_are_those_of_evaluate(trained, colours):
    report = resnetv2.evaluate(trained.last, colours, split="val", device="cpu")
    assert report["top1"] == read_log(trained.out)[-1]["val_top1"]
    assert report["n"] == 12


def test_equal_settings_give_equal_bits(trained, colours, tmp_path):
    again = resnetv2.train(colours, out=tmp_path / "again", set={**TINY, "save_minutes": 0}, **SETTINGS)
    same_files(trained.out, again.out)


def test_another_seed_gives_other_weights(trained, colours, tmp_path):
    other = resnetv2.train(colours, out=tmp_path / "other", set={**TINY, "save_minutes": 0}, seed=1, **SETTINGS)
    name = "stem.conv.weight"
    assert not np.array_equal(weights(trained.last)[name], weights(other.last)[name])


def test_the_number_of_workers_changes_nothing(trained, colours, tmp_path):
    options = {**TINY, "save_minutes": 0, "workers": 1}
    other = resnetv2.train(colours, out=tmp_path / "other", set=options, **SETTINGS)
    one, two = weights(trained.last), weights(other.last)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert read_log(trained.out) == read_log(other.out)


def test_a_signal_finishes_the_step_saves_and_resume_gives_the_bits_of_an_uninterrupted_run(
    trained, colours, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    step = Run.take_step
    stop_after = [2, 7]  # in the first epoch, and in the second

    def interrupted(self, batch, rate):
        outcome = step(self, batch, rate)
        if stop_after and self.progress.step == stop_after[0]:
            stop_after.pop(0)
            os.kill(os.getpid(), signal.SIGINT)
        return outcome

    monkeypatch.setattr(Run, "take_step", interrupted)
    options = {**TINY, "save_minutes": 0}
    with pytest.raises(Interrupted) as stop:
        resnetv2.train(colours, out=out, set=options, **SETTINGS)
    assert stop.value.exit_code == 130
    with pytest.raises(Interrupted):
        resnetv2.train(colours, out=out, resume=True)
    resnetv2.train(colours, out=out, resume=True)
    assert stop_after == []
    same_files(trained.out, out)


def begin(colours, out):
    """Start the run ``trained`` in a process of its own, and return that once a checkpoint is there."""
    words = [sys.executable, "-m", "resnetv2", "train", str(colours), "--out", str(out)]
    words += [f"--{k.replace('_', '-')}={v}" for k, v in SETTINGS.items()]
    words += ["--set=model.width_factor=0.25", "--set=hflip=0.5", "--set=workers=2", "--set=save_minutes=0"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list_checkpoints(out / "checkpoints") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def test_a_run_killed_with_sigkill_resumes_to_the_bits_of_an_uninterrupted_run(trained, colours, tmp_path):
    out = tmp_path / "run"
    process = begin(colours, out)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert command("train", colours, "--out", out, "--resume").returncode == 0
    same_files(trained.out, out)


def test_a_second_training_in_one_folder_is_refused_and_one_that_was_killed_is_not_in_the_way(
    trained, colours, tmp_path
):
    def state():
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}

    out = tmp_path / "run"
    process = begin(colours, out)
    process.send_signal(signal.SIGSTOP)
    try:
        before = state()
        with pytest.raises(ConfigError, match=f"another process trains in {out}: wait"):
            resnetv2.train(colours, out=out, set=TINY, **SETTINGS)
        second = command("train", colours, "--out", out, "--resume")
        assert second.returncode == 2
        assert f"another process trains in {out}: wait" in " ".join(second.stderr.split())
        assert state() == before
    finally:
        process.kill()
        process.wait()
    assert (out / ".lock").exists()
    with pytest.raises(ConfigError, match="already holds a run"):
        resnetv2.train(colours, out=out, set=TINY, **SETTINGS)
    resnetv2.train(colours, out=out, resume=True)
    same_files(trained.out, out)
    assert not list(out.glob(".*"))


def test_of_two_that_begin_at_once_in_one_folder_one_trains_and_leaves_no_lock(colours, tmp_path, monkeypatch):
    out, make_run, first = tmp_path / "run", run.make_run, []

    def overtaken(*words):
        monkeypatch.setattr(run, "make_run", make_run)
        first.append(resnetv2.train(colours, out=out, set=TINY, **{**SETTINGS, "epochs": 1}))
        return make_run(*words)

    monkeypatch.setattr(run, "make_run", overtaken)
    with pytest.raises(ConfigError, match="already holds a run"):
        resnetv2.train(colours, out=out, set=TINY, **{**SETTINGS, "epochs": 2})
    assert [line["epoch"] for line in read_log(first[0].out)] == [1]
    assert json.loads((out / "config.json").read_text())["epochs"] == 1
    assert not list(out.glob(".*"))


EVERY_AUGMENTATION = {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.5, "auto_augment": "trivial"}


def test_with_every_augmentation_a_stopped_run_ends_with_the_bits_of_an_uninterrupted_one(
    trained, colours, tmp_path, monkeypatch
):
    options = {**TINY, **EVERY_AUGMENTATION, "save_minutes": 0}
    whole = resnetv2.train(colours, out=tmp_path / "whole", set=options, **SETTINGS)
    step = Run.take_step

    def interrupted(self, batch, rate):
        outcome = step(self, batch, rate)
        if self.progress.step == 6:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return outcome

    monkeypatch.setattr(Run, "take_step", interrupted)
    with pytest.raises(Interrupted):
        resnetv2.train(colours, out=tmp_path / "parts", set=options, **SETTINGS)
    monkeypatch.undo()
    resnetv2.train(colours, out=tmp_path / "parts", resume=True, set={"workers": 1, "cache_mb": 0})
    for name in ("best.safetensors", "last.safetensors"):
        one, two = (weights(tmp_path / run / name) for run in ("whole", "parts"))
        assert all(np.array_equal(one[key], two[key]) for key in one)
    assert read_log(whole.out) == read_log(tmp_path / "parts")
    name = "stem.conv.weight"
    assert not np.array_equal(weights(whole.last)[name], weights(trained.last)[name])


@pytest.mark.parametrize("setting", list(EVERY_AUGMENTATION.items()))
def test_each_augmentation_alone_changes_the_run_and_its_figures_stay_finite(trained, colours, tmp_path, setting):
    options = {**TINY, **dict([setting])}
    result = resnetv2.train(colours, out=tmp_path / "run", set=options, **{**SETTINGS, "epochs": 1})
    line = read_log(result.out)[0]
    assert 0 < line["train_loss"] < 10
    assert line["train_loss"] != read_log(trained.out)[0]["train_loss"]
    assert 0 <= line["train_top1"] <= 1


def test_pictures_kept_decoded_change_no_bit_of_a_run(trained, colours, tmp_path):
    options = {**TINY, "save_minutes": 0, "cache_mb": 0}
    other = resnetv2.train(colours, out=tmp_path / "run", set=options, **SETTINGS)
    one, two = weights(trained.last), weights(other.last)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_each_epoch_tells_whether_loader_or_model_was_the_limit(colours, tmp_path, capsys):
    out = resnetv2.train(colours, out=tmp_path / "run", set=TINY, **{**SETTINGS, "epochs": 2}).out
    lines = [json.loads(line) for line in (out / "speed.jsonl").read_text().splitlines()]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line, sentence in zip(lines, said, strict=True):
        rates = line["loader_images_per_s"], line["model_images_per_s"]
        assert line["limit"] == ("loader" if rates[0] < rates[1] else "model")
        assert f"({line['limit']}-bound)" in sentence
        assert line["images_per_s"] <= rates[1]


def test_a_slow_loader_is_told_as_the_limit(colours, tmp_path, monkeypatch):
    decode = Decoder.__call__

    def slow(self, *task):
        time.sleep(0.1)
        return decode(self, *task)

    monkeypatch.setattr(Decoder, "__call__", slow)
    settings = {**SETTINGS, "epochs": 1}
    out = resnetv2.train(colours, out=tmp_path / "run", set={**TINY, "workers": 1}, **settings).out
    assert json.loads((out / "speed.jsonl").read_text())["limit"] == "loader"


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(trained, colours, tmp_path, capsys):
    out = tmp_path / "run"
    resnetv2.train(colours, out=out, set={**TINY, "save_minutes": 0}, **SETTINGS)
    newest, before = list_checkpoints(out / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1000])
    resnetv2.train(colours, out=out, resume=True)
    assert "older checkpoint" in capsys.readouterr().err
    same_files(trained.out, out)
    assert before.exists()


def test_a_finished_run_can_be_resumed_without_effect(trained, colours):
    before = trained.last.stat().st_mtime_ns
    assert resnetv2.train(colours, out=trained.out, resume=True) == trained
    assert trained.last.stat().st_mtime_ns == before


def test_resume_refuses_other_settings_and_names_them(trained, colours):
    with pytest.raises(ConfigError, match=r"batch_size: 8 in the run, 16 asked for"):
        resnetv2.train(colours, out=trained.out, resume=True, batch_size=16)


def test_resume_without_a_run_says_so(colours, tmp_path):
    with pytest.raises(ConfigError, match=r"no run to resume: there is no .*nothing.config\.json; train without"):
        resnetv2.train(colours, out=tmp_path / "nothing", resume=True)


def test_a_folder_with_another_run_asks_for_resume_or_a_new_name(trained, colours):
    with pytest.raises(ConfigError, match="--resume, or choose another --out"):
        resnetv2.train(colours, out=trained.out, **SETTINGS)


def test_a_folder_with_other_files_is_not_touched(colours, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not an empty folder"):
        resnetv2.train(colours, out=tmp_path, **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_an_unreadable_picture_is_named_and_nothing_is_written(tmp_path):
    data = write_colours(tmp_path / "data", train=2, val=2, test=2)
    (data / "train" / "red" / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 19 pictures cannot be read:\n.*bad\.jpg"):
        resnetv2.train(data, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 31}, "image_size must be a whole number of at least 32, got 31"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"arch": "resnet50"}, "unknown architecture 'resnet50': did you mean 'resnet50v2'?"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"set": {"weight_decy": 1}}, "unknown setting 'weight_decy': did you mean 'weight_decay'?"),
        ({"set": {"model": {"stem": "5x5"}}}, "stem must be one of"),
        ({"set": {"model": {"num_classes": 3}}}, "num_classes is set by the data"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(colours, tmp_path, settings, message):
    with pytest.raises(ConfigError) as error:
        resnetv2.train(colours, out=tmp_path / "run", **settings)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_data_is_never_written_to(colours, trained):
    kept = {p.suffix for p in colours.rglob("*") if p.is_file()}
    assert kept == {".png"}
    assert len(list(colours.rglob("*.png"))) == 3 * 18


def test_every_dataset_size_modulo_the_batch_size_trains(tmp_path):
    for extra in range(4):
        data = write_colours(tmp_path / f"data{extra}", train=2, val=1, test=1)
        source = data / "train" / "red" / "000.png"
        for i in range(extra):
            (data / "train" / "red" / f"extra{i}.png").write_bytes(source.read_bytes())
        settings = {**SETTINGS, "batch_size": 4, "epochs": 1}
        result = resnetv2.train(data, out=tmp_path / f"run{extra}", set=TINY, **settings)
        assert np.isfinite(read_log(result.out)[0]["train_loss"])


def test_a_loss_that_is_not_a_number_stops_with_the_step(colours, tmp_path):
    with pytest.raises(Error, match=r"the loss became (nan|inf) at step \d+ .*lower --lr"):
        resnetv2.train(colours, out=tmp_path / "run", set=TINY, lr=1e30, **SETTINGS)


def test_a_checkpoint_of_the_weights_that_gave_no_number_is_not_called_good(colours, tmp_path):
    with pytest.raises(Error, match=r"became (nan|inf) at step 2 .*the last good checkpoint is none, .*no epoch was"):
        resnetv2.train(colours, out=tmp_path / "run", set={**TINY, "save_minutes": 0}, lr=1e30, **SETTINGS)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001.safetensors"]


def test_a_network_that_gives_no_numbers_after_its_last_step_is_not_written(colours, tmp_path):
    settings = {**SETTINGS, "epochs": 1, "batch_size": 64}  # one step
    with pytest.raises(Error, match=r"answers to validation pictures are no numbers after step 1 .*lower --lr"):
        resnetv2.train(colours, out=tmp_path / "run", set={**TINY, "warmup_epochs": 0}, lr=1e30, **settings)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_one_picture_cannot_train(tmp_path):
    data = write_colours(tmp_path / "data", train=1, val=1, test=0)
    rows = ["image_path,target,split"]
    rows += [f"data/{split}/red/000.png,{i},{split}" for i, split in enumerate(("train", "val"))]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    assert data.exists()
    with pytest.raises(DataError, match="one picture to train on, and batch norm needs two"):
        resnetv2.train(tmp_path / "list.csv", out=tmp_path / "run", set=TINY, **SETTINGS)


def test_a_tracker_that_is_not_installed_is_told_before_the_run_begins(colours, tmp_path, monkeypatch):
    monkeypatch.setattr("resnetv2.training.track.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="--track wandb needs"):
        resnetv2.train(colours, out=tmp_path / "run", track="wandb", set=TINY, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_training_works_outside_the_main_thread_where_signals_cannot_be_caught(colours, tmp_path):
    results = []
    settings = {**SETTINGS, "epochs": 1}
    thread = threading.Thread(
        target=lambda: results.append(resnetv2.train(colours, out=tmp_path / "run", set=TINY, **settings))
    )
    thread.start()
    thread.join(timeout=120)
    assert results
    assert results[0].epochs == 1


def test_recomputed_activations_change_no_bit_of_a_run(trained, colours, tmp_path):
    options = {**TINY, "save_minutes": 0, "memory": "recompute"}
    other = resnetv2.train(colours, out=tmp_path / "run", set=options, **SETTINGS)
    one, two = weights(trained.last), weights(other.last)
    assert all(np.array_equal(one[name], two[name]) for name in one)


# --- its parts ---


def test_the_rate_warms_up_peaks_once_and_falls_to_nearly_nothing():
    config = TrainConfig(epochs=10, batch_size=256)
    rates = [learning_rate(config, step, 20) for step in range(200)]
    peak = int(np.argmax(rates))
    assert peak == 40, "two epochs of warm-up"
    assert rates[peak] == pytest.approx(0.2, rel=1e-12)  # one cosine of zero
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert 0 < rates[-1] < 1e-4


def test_warm_up_takes_at_most_a_quarter_of_a_short_run():
    config = TrainConfig(epochs=2, warmup_epochs=5)
    rates = [learning_rate(config, step, 100) for step in range(200)]
    assert int(np.argmax(rates)) == 50


def test_norms_and_biases_are_not_decayed():
    model = resnetv2.create_model("resnet18v2", num_classes=3, width_factor=0.25)
    decayed, free = make_optimizer(model, lr=0.1, weight_decay=5e-4).param_groups
    assert decayed["weight_decay"] == 5e-4
    assert free["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_average_follows_the_weights_and_an_update_later_counts_for_the_steps_between():
    model = resnetv2.create_model("resnet18v2", num_classes=3, width_factor=0.25)
    average = MovingAverage(model, decay=0.5)
    name = "head.fc.bias"
    before = average.average.state_dict()[name].clone()
    with torch.no_grad():
        model.state_dict()[name].add_(1)
    average.update(
        1000
    )  # at step 1000 of a young run the decay is min(0.5, 1001/1010), to the 1000th power: nothing is left
    assert torch.allclose(average.average.state_dict()[name], before + 1)  # float32 rounding of the sum
    with torch.no_grad():
        model.state_dict()[name].add_(1)
    average.update(1002)
    expected = before + 1 + (1 - 0.5**2)
    assert torch.allclose(average.average.state_dict()[name], expected)  # likewise


def test_signals_during_the_last_validation_are_obeyed_after_it(colours, tmp_path, monkeypatch):
    validate = Run.validate

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(self)

    monkeypatch.setattr(Run, "validate", interrupted)
    with pytest.raises(Interrupted) as stop:
        resnetv2.train(colours, out=tmp_path / "run", set=TINY, **{**SETTINGS, "epochs": 1})
    assert stop.value.exit_code == 143
    monkeypatch.undo()
    assert resnetv2.train(colours, out=tmp_path / "run", resume=True).epochs == 1


def test_a_run_inside_the_data_is_refused(colours):
    with pytest.raises(ConfigError, match="which is only read"):
        resnetv2.train(colours, out=colours / "run", **SETTINGS)
    assert not (colours / "run").exists()


def test_where_a_run_runs_may_change_when_it_is_resumed(trained, colours):
    result = resnetv2.train(colours, out=trained.out, resume=True, set={"workers": 1, "save_minutes": 5})
    assert result == trained


def test_a_checkpoint_of_another_data_list_is_refused(colours, tmp_path):
    out = tmp_path / "run"
    resnetv2.train(colours, out=out, set=TINY, **{**SETTINGS, "epochs": 1})
    lines = (out / "index.csv").read_text().splitlines()
    (out / "index.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ConfigError, match="of a run on other data"):
        resnetv2.train(colours, out=out, resume=True)


def test_a_log_shorter_than_the_checkpoint_says_is_told_and_not_padded(colours, tmp_path, capsys):
    out = tmp_path / "run"
    resnetv2.train(colours, out=out, set=TINY, **{**SETTINGS, "epochs": 1})
    (out / "metrics.jsonl").write_bytes(b"")
    resnetv2.train(colours, out=out, resume=True)
    assert "metrics.jsonl is shorter" in capsys.readouterr().err
    assert (out / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("damage", "epochs"),  # that are left: of a run that goes on, of a finished one
    [(lambda log: log[:-20], ([2], [1])), (lambda log: b"\0" * 40 + log[40:], ([2], [2]))],
    ids=["cut", "zeros"],
)
def test_a_torn_log_is_told_and_no_line_is_written_behind_half_of_one(
    colours, tmp_path, capsys, damage, epochs, is_finished
):
    out, stop = tmp_path / "run", [] if is_finished else [None]
    options = {"set": {**TINY, "save_minutes": 0}, **SETTINGS, "epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        finish = Run.finish_epoch

        def stopped(self):
            line = finish(self)
            if stop:
                os.kill(os.getpid(), signal.SIGINT)
            return line

        patch.setattr(Run, "finish_epoch", stopped)
        with pytest.raises(Interrupted) if stop else nullcontext():
            resnetv2.train(colours, out=out, **options)
    log = (out / "metrics.jsonl").read_bytes()
    assert log.count(b"\n") == (2 if is_finished else 1)
    (out / "metrics.jsonl").write_bytes(damage(log))
    capsys.readouterr()
    resnetv2.train(colours, out=out, resume=True)
    assert "warning: metrics.jsonl is" in capsys.readouterr().err
    lines = [line for line in (out / "metrics.jsonl").read_bytes().splitlines() if b"\0" not in line]
    assert [json.loads(line)["epoch"] for line in lines] == epochs[is_finished]


@pytest.mark.parametrize("text", ["[]", "5", "\ufeff{", "[" * 5000, '{"epochs": 0}'])
def test_a_damaged_config_of_a_run_is_one_clear_error(colours, tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json is damaged, .*train without --resume and with another --out"):
        resnetv2.train(colours, out=tmp_path, resume=True)


def test_golden_samples_carry_no_metadata_and_few_pixels(tmp_path):
    data = write_colours(tmp_path / "data", train=2, val=1, test=1)
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    for path in (data / "val").rglob("*.png"):
        Image.effect_noise((300, 200), 50).convert("RGB").save(path, exif=exif)
    result = resnetv2.train(data, out=tmp_path / "run", set=TINY, **{**SETTINGS, "epochs": 1})
    for encoded in read_model_file(result.best).golden.pictures:
        assert b"where I live" not in encoded
        assert max(Image.open(io.BytesIO(encoded)).size) == 64, "twice the network's 32"


# --- splits, groups, uneven classes ---


def splits_of(out):
    with (out / "index.csv").open(newline="") as file:
        return {row["image_path"]: row["split"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    """Pictures of three colours without a split, each of which a "film" shows twice."""
    root = tmp_path_factory.mktemp("data") / "unsplit"
    for kind, (name, colour) in enumerate(COLOURS.items()):
        for i in range(12):
            picture = Image.blend(noise(40, 40, 100 * kind + i), Image.new("RGB", (40, 40), colour), 0.5)
            write_picture(root / name / f"film{i}-a.png", picture)
            write_picture(root / name / f"film{i}-b.jpg", picture, quality=90)
    return root


def test_a_run_keeps_copies_and_groups_in_one_split_and_saves_it(unsplit, tmp_path):
    settings = {**SETTINGS, "epochs": 1}
    alone = resnetv2.train(unsplit, out=tmp_path / "alone", set=TINY, **settings).out
    splits = splits_of(alone)
    assert all(splits[path] == splits[path.replace("a.png", "b.jpg")] for path in splits if path.endswith("a.png"))
    grouped = resnetv2.train(unsplit, out=tmp_path / "films", group_by=r"film\d+", set=TINY, **settings).out
    films = {}
    for path, split in splits_of(grouped).items():
        films.setdefault(path.split("/")[1].split("-")[0], set()).add(split)
    assert len(films) == 12
    assert all(len(found) == 1 for found in films.values())
    assert json.loads((grouped / "config.json").read_text())["group_by"] == r"film\d+"


def test_resuming_refuses_pictures_that_changed_and_names_them(colours, tmp_path):
    data = shutil.copytree(colours, tmp_path / "data")
    out = resnetv2.train(data, out=tmp_path / "run", set=TINY, **{**SETTINGS, "epochs": 1}).out
    assert resnetv2.train(data, out=out, resume=True).epochs == 1
    write_picture(data / "val" / "red" / "001.png", noise(24, 24, 5))
    with pytest.raises(DataError, match=r"1 of 54 pictures have changed since the run began") as caught:
        resnetv2.train(data, out=out, resume=True)
    assert str(caught.value).splitlines()[1:] == [f"  {data / 'val' / 'red' / '001.png'}"]


@pytest.mark.parametrize("setting", [{"sampling": "balanced"}, {"class_weights": "balanced"}])
def test_with_balanced_classes_a_stopped_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, setting):
    data = write_colours(tmp_path / "data")
    for path in sorted((data / "train" / "red").iterdir())[3:]:
        path.unlink()
    settings = {**TINY, **setting, "save_minutes": 0}
    whole = resnetv2.train(data, out=tmp_path / "whole", set=settings, **SETTINGS)
    plain = resnetv2.train(data, out=tmp_path / "plain", set=TINY, **SETTINGS)
    assert whole.last.read_bytes() != plain.last.read_bytes(), "else the setting does nothing"
    take_step, taken = Run.take_step, []

    def stop_at_five(run, batch, rate):
        take_step(run, batch, rate)
        taken.append(rate)
        if len(taken) == 5:
            run.signal = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(Run, "take_step", stop_at_five)
        with pytest.raises(Interrupted):
            resnetv2.train(data, out=tmp_path / "stopped", set=settings, **SETTINGS)
    resnetv2.train(data, out=tmp_path / "stopped", resume=True)
    same_files(whole.out, tmp_path / "stopped")


def test_balanced_weights_make_the_loss_of_rare_classes_count_more(tmp_path):
    data = write_colours(tmp_path / "data")
    for path in sorted((data / "train" / "red").iterdir())[2:]:
        path.unlink()
    index = read_index(data)
    config = TrainConfig(**SETTINGS, **TINY, class_weights="balanced", label_smoothing=0)
    objective = Objective(config.fitted(index.task, index.classes), index, torch.device("cpu"))
    logits = torch.zeros(2, 3)
    logits[0, 0] = logits[1, 0] = -1.0  # one blue and one red picture, answered alike wrongly and rightly
    surprise = F.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
    expected = (surprise * torch.tensor([22 / 30, 22 / 6])).sum() / (22 / 30 + 22 / 6)
    assert torch.allclose(objective.loss(logits, torch.tensor([0, 2])), expected)  # float32 rounding of two terms


def test_the_losses_of_numbers_are_in_one_unit(tmp_path):
    """Of an answer that is always the mean, the loss is 1 in training and in validation."""
    folder = write_colours(tmp_path / "data", train=2, val=2, test=0)
    paths = sorted(folder.rglob("*.png"))
    rows = [f"{path},{1000 + 50 * i},{path.parts[-3]}" for i, path in enumerate(paths)]
    (tmp_path / "list.csv").write_text("\n".join(["image_path,target,split", *rows]))
    index = read_index(tmp_path / "list.csv")
    config = TrainConfig(**SETTINGS, **TINY).fitted(index.task, index.classes)
    objective = Objective(config, index, torch.device("cpu"))
    labels = index.labels[index.splits == "train"]
    loss = objective.loss(torch.zeros(len(labels), 1), objective.targets(labels))
    figures = objective.figures(objective.answers(torch.zeros(len(labels), 1)), labels)
    assert loss.item() == pytest.approx(1, rel=1e-5)  # sums in float32
    assert figures["val_loss"] == pytest.approx(1, rel=1e-5)


def test_balanced_sampling_and_weights_together_are_refused(colours, tmp_path):
    with pytest.raises(ConfigError, match="rare classes, which would count twice"):
        resnetv2.train(colours, out=tmp_path / "run", set={"sampling": "balanced", "class_weights": "balanced"})
