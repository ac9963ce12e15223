"""Recipes on a frozen network: what is trained and what is not, and what is computed only once."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SETTINGS, TINY, write_colours

import resnetv2
from resnetv2.errors import ConfigError, Error, Interrupted
from resnetv2.runtime.pytorch import build_model
from resnetv2.training.frozen import LazySession, fold_norms
from resnetv2.training.loop import Run
from resnetv2.weights.modelfile import read_model_file

LP_FT = {"epochs": 3, "batch_size": 8, "recipe": "lp-ft"}
HEAD = ("head.fc.weight", "head.fc.bias")
TAIL = ("stages.3.", "norm.", "head.")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights trained on other pictures, of two classes, at another size."""
    data = write_colours(tmp_path_factory.mktemp("data") / "others", size=40)
    for split in ("train", "val", "test"):
        (data / split / "green").rename(data / split / "leaf")
    run = resnetv2.train(data, out=data.parent / "run", set=TINY, **{**SETTINGS, "epochs": 4, "lr": 0.02})
    return run.best


def learn(data, out, start, **options):
    options = {"recipe": "probe", "image_size": 32, "device": "cpu", **options}
    return resnetv2.train(data, out=out, weights=start, **options)


def weights(path):
    return read_model_file(path).weights


def log_of(run):
    return [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]


def same_runs(one, other):
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "config.json", "index.csv"):
        assert (one.out / name).read_bytes() == (other.out / name).read_bytes(), name


def only_changed(start, after, prefixes):
    before = weights(start)
    changed = {name for name in before if not np.array_equal(before[name], weights(after)[name])}
    return changed and all(name.startswith(prefixes) for name in changed)


# --- probe ---


def test_a_probe_is_an_ordinary_run_in_which_the_head_alone_is_new(colours, start, tmp_path):
    run = learn(colours, tmp_path / "run", start)
    file = read_model_file(run.best)
    assert file.header.classes == ("blue", "green", "red")
    assert only_changed(start, run.best, HEAD)
    assert resnetv2.verify(run.best, device="cpu").ok
    assert run.val_score > 0.9, "three colours far apart; chance is 1/3"
    (line,) = log_of(run)
    assert line["train_top1"] > 0.9, "of each picture by the head that did not see it"
    report = resnetv2.evaluate(run.best, colours, split="val", device="cpu")
    assert report["top1"] == line["val_top1"]
    assert {"curves.png", "check.json", "index.csv", "environment.json"} <= {path.name for path in run.out.iterdir()}
    assert resnetv2.train(colours, out=run.out, resume=True).val_score == run.val_score


def test_a_probe_needs_nothing_of_pytorch_s_compiler_and_its_last_network_is_its_best(colours, start, tmp_path):
    words = ["train", colours, "--out", "run", "--weights", start, "--recipe", "probe", "--image-size", "32"]
    script = f"""
import sys
from resnetv2.cli import main
assert main({[*map(str, words), "--device", "cpu"]!r}) == 0
assert "torch" in sys.modules and "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best, last = (tmp_path / "run" / f"{name}.safetensors" for name in ("best", "last"))
    assert best.read_bytes() == last.read_bytes()


def test_the_second_probe_computes_no_features_and_a_changed_picture_is_computed_alone(
    colours, start, tmp_path, monkeypatch
):
    first = learn(colours, tmp_path / "first", start)
    seen, features = [], LazySession.features
    monkeypatch.setattr(LazySession, "features", lambda self, x: seen.append(len(x)) or features(self, x))
    same_runs(first, learn(colours, tmp_path / "second", start))
    assert seen == []
    data = write_colours(tmp_path / "changed")
    changed = data / "train" / "red" / "000.png"
    Image.open(changed).rotate(180).save(changed)
    learn(data, tmp_path / "third", start)
    assert len(seen) == 1


def test_a_probe_that_is_killed_while_it_looks_goes_on_with_the_same_command(colours, start, tmp_path, monkeypatch):
    features, calls = LazySession.features, []

    def dies(self, pictures):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(pictures))
        return features(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(LazySession, "features", dies)
        with pytest.raises(KeyboardInterrupt):
            learn(colours, tmp_path / "run", start)
    with pytest.raises(ConfigError, match="holds no run to resume"):
        learn(colours, tmp_path / "run", start, resume=True)
    assert learn(colours, tmp_path / "run", start).val_score > 0.9


def test_more_views_are_learnt_from_and_one_is_judged(colours, start, tmp_path, monkeypatch):
    seen, features = [], LazySession.features
    monkeypatch.setattr(LazySession, "features", lambda self, x: seen.append(len(x)) or features(self, x))
    run = learn(colours, tmp_path / "run", start, set={"views": 4})
    assert sum(-(-n // 32) for n in (4 * 30, 12, 12)) == len(seen)
    assert run.val_score > 0.9
    assert log_of(run)[0]["val_n"] == 12


@pytest.mark.parametrize(("column", "metric"), [("labels", "map"), ("target", "mae")])
def test_several_classes_and_numbers_are_probed(column, metric, colours, start, tmp_path):
    truth = {"red": ("warm", 1.0), "green": ("cold|leaf", 20.0), "blue": ("cold", 300.0)}
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", column, "split"])
        for path in sorted(colours.rglob("*.png")):
            tags, number = truth[path.parent.name]
            writer.writerow([path, tags if column == "labels" else number, path.parent.parent.name])
    run = learn(tmp_path / "list.csv", tmp_path / "run", start)
    assert run.metric == metric
    assert run.val_score > 0.95 if metric == "map" else run.val_score < 30  # the mean alone errs by 130
    report = resnetv2.evaluate(run.best, tmp_path / "list.csv", split="val", device="cpu")
    assert report[metric] == pytest.approx(run.val_score, rel=1e-4)  # float32 in batches of another size
    assert only_changed(start, run.best, HEAD)


# --- lp-ft ---


def test_lp_ft_trains_the_last_stage_and_leaves_the_rest_to_the_bit(colours, start, tmp_path):
    run = learn(colours, tmp_path / "run", start, **LP_FT)
    assert only_changed(start, run.best, TAIL)
    changed = {n for n, value in weights(run.last).items() if not np.array_equal(value, weights(start)[n])}
    assert {"norm.weight", "norm.bias", "head.fc.weight"} <= changed
    assert not any("running" in name for name in changed), "the head was solved for on these statistics"
    assert run.val_score > 0.9
    assert [line["epoch"] for line in log_of(run)] == [1, 2, 3]
    assert resnetv2.verify(run.best, device="cpu").ok
    report = resnetv2.evaluate(run.last, colours, split="val", device="cpu")
    # half a unit in the last of 11 bits of each map, through one stage
    assert report["log_loss"] == pytest.approx(log_of(run)[-1]["val_loss"], abs=5e-3)


def test_lp_ft_begins_where_the_probe_ends(colours, start, tmp_path):
    probe = learn(colours, tmp_path / "probe", start)
    still = {"weight_decay": 0.0, "ema_decay": 0.0, "bn": "frozen"}
    run = learn(colours, tmp_path / "run", start, lr=1e-12, set=still, **LP_FT)
    for line in (log_of(probe)[-1], log_of(run)[-1]):
        assert line["val_top1"] == 1
        assert line["val_loss"] < 0.01, "of a head that knows nothing: 1.1"


def test_steps_that_spoil_the_probes_head_leave_it_the_best(colours, start, tmp_path):
    leap = {"bn": "train", "ema_decay": 0.0, "schedule": "constant", "warmup_epochs": 0, "label_smoothing": 0.9}
    run = learn(colours, tmp_path / "run", start, lr=100.0, set=leap, **{**LP_FT, "epochs": 1})
    assert run.best_epoch == 0
    assert run.val_score > 0.9
    assert only_changed(start, run.best, HEAD)
    (line,) = log_of(run)
    assert line["val_top1"] < run.val_score


def test_folded_norms_change_no_feature_but_by_rounding(start):
    file = read_model_file(start)
    model = build_model(file.header.architecture, file.weights).eval()
    x = torch.randn(3, 3, 40, 40)
    with torch.inference_mode():
        plain, folded = model(x), fold_norms(model)(x)
    assert not torch.equal(plain, folded)
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-5)  # float32 through 18 layers


def test_a_stopped_lp_ft_ends_with_the_bits_of_one_that_was_not(colours, start, tmp_path, monkeypatch):
    options = {**LP_FT, "set": {"views": 2, "save_minutes": 0, "mixup": 0.2}}
    whole = learn(colours, tmp_path / "whole", start, **options)
    step, stop_after = Run.take_step, [2, 6]

    def interrupted(self, batch, rate):
        outcome = step(self, batch, rate)
        if stop_after and self.progress.step == stop_after[0]:
            stop_after.pop(0)
            os.kill(os.getpid(), signal.SIGINT)
        return outcome

    monkeypatch.setattr(Run, "take_step", interrupted)
    with pytest.raises(Interrupted):
        learn(colours, tmp_path / "parts", start, **options)
    with pytest.raises(Interrupted):
        resnetv2.train(colours, out=tmp_path / "parts", resume=True)
    same_runs(whole, resnetv2.train(colours, out=tmp_path / "parts", resume=True))
    assert stop_after == []


def test_maps_beyond_the_budget_are_refused_with_what_they_take(colours, start, tmp_path):
    with pytest.raises(Error, match=r"keeps maps of .* GB, and features_gb is 1e-06: raise it"):
        learn(colours, tmp_path / "run", start, set={"features_gb": 1e-6}, **LP_FT)
    assert not (tmp_path / "run" / "config.json").exists()


# --- the choice ---


@pytest.mark.parametrize(("recipe", "options"), [("probe", {"epochs": 3, "lr": 0.1}), ("finetune", {"views": 2})])
def test_settings_without_use_are_refused_by_name(recipe, options, colours, start, tmp_path):
    with pytest.raises(ConfigError, match=f"recipe '{recipe}' has no use for {', '.join(options)}: leave them out"):
        learn(colours, tmp_path / "run", start, recipe=recipe, set=options)


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, "finetune"),  # thirty small pictures take no time
        ({"time_budget": 1e-3}, "probe"),
        ({"time_budget": 1e-3, "set": {"lr": 0.01}}, "lp-ft"),
        ({"time_budget": 1e-3, "set": {"lr": 0.01, "features_gb": 1e-6}}, None),
        ({"time_budget": 1e-3, "set": {"bn": "frozen", "start_image_size": 32}}, "finetune"),
    ],
)
def test_auto_chooses_among_the_recipes_that_have_a_use_for_what_was_chosen(
    options, choice, colours, start, tmp_path, capsys
):
    if choice is None:
        with pytest.raises(ConfigError, match="no recipe has a use for all of these"):
            learn(colours, tmp_path / "run", start, recipe="auto", **options)
        return
    run = learn(colours, tmp_path / "run", start, recipe="auto", **options)
    assert json.loads((run.out / "config.json").read_text())["recipe"] == choice
    assert f"auto takes {choice}:" in capsys.readouterr().err
    again = learn(colours, tmp_path / "run", start, recipe="auto", resume=True, **options)  # what it came to, then
    assert again == run
