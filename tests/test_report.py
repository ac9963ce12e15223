"""The report of a run and its model card: what they say, that no run is lost by them, and that a browser shows them."""

import csv
import html
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from browser import CHROMIUM, browse, click_heads
from huggingface_hub import ModelCard
from pictures import noise, write_picture
from runs import SETTINGS, TINY, command, write_colours
from test_sheet import Page

import resnetv2
from resnetv2.training import frozen, report
from resnetv2.training.curves import draw_run

OPTIONS = {**TINY, "track": "none"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a shell is in it when a run is started: colours/ and run/."""
    place = tmp_path_factory.mktemp("place")
    write_colours(place / "colours")
    done = command(
        *("train", "colours", "--out", "run", "--arch", "resnet18v2", "--image-size", "32", "--batch-size", "8"),
        *("--epochs", "3", "--device", "cpu", "--set", "model.width_factor=0.25", "--set", "track=none"),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert "report: run/report.html" in done.stderr
    return place


def words_of(out):
    text = (out / "report.html").read_text(encoding="utf-8")
    return " ".join("".join(Page(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).words).split())


def write_list(root, column, labels, splits=("train", "val", "test")):
    """List the pictures of colours in a CSV, labelled by what ``labels`` makes of a class and a number."""
    path = root / f"{column}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", column, "split"])
        for picture in sorted(root.glob("*/*/*.png")):
            split, name = picture.parts[-3:-1]
            if split in splits:
                writer.writerow([picture.relative_to(root), labels(name, int(picture.stem)), split])
    return path


def train(data, out, **options):
    return resnetv2.train(data, out=out, set=OPTIONS, **{**SETTINGS, "epochs": 1, **options})


def test_the_report_has_the_figures_of_evaluate_on_the_test_split_and_the_list_it_was_trained_on(place, monkeypatch):
    monkeypatch.chdir(place)
    words = words_of(place / "run")
    measured = resnetv2.evaluate("run/best.safetensors", "colours", device="cpu", runtime="torch")
    for key in ("top1", "balanced_accuracy", "average_precision"):
        interval = measured[f"{key}_ci95"]  # none where no picture is ranked wrong
        bounds = "{:.2%} – {:.2%}".format(*interval) if interval else "no interval"
        assert f"{measured[key]:.2%} {bounds}" in words
    assert "12 pictures of the test split, which played no part in training" in words
    assert resnetv2.info("run/best.safetensors")["provenance"]["data"]["sha256"] in words
    for title in ("Top-1 accuracy", "Loss", "Learning rate", "Do probabilities mean what they say?", "Every setting"):
        assert title in words
    assert "No leak found." in words


@pytest.mark.parametrize("recipe", ["probe", "lp-ft"])
def test_a_run_on_frozen_features_reports_the_figures_of_evaluate(place, tmp_path, monkeypatch, recipe):
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    shown, show_run = [], report.show_run
    monkeypatch.setattr(report, "show_run", lambda *words: shown.append(words[2]) or show_run(*words))
    options = {"recipe": recipe, "image_size": 32, "device": "cpu", "weights": place / "run" / "best.safetensors"}
    run = resnetv2.train(place / "colours", out=tmp_path / "run", **options)
    measured = resnetv2.evaluate(run.best, place / "colours", device="cpu")
    (found,) = shown
    assert found.report.keys() == measured.keys()
    for key in ("top1", "top1_ci95", "balanced_accuracy", "confusion", "n", "skipped", "split", "task", "abstention"):
        assert found.report[key] == measured[key]
    assert found.report["log_loss"] == pytest.approx(measured["log_loss"], rel=1e-4)  # float32, batches of another size


def test_what_a_probe_knows_is_not_computed_again_for_its_report(place, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(report, "measure", None)  # whoever calls it fails, and the report is not written
    options = {"recipe": "probe", "image_size": 32, "device": "cpu", "weights": place / "run" / "best.safetensors"}
    run = resnetv2.train(place / "colours", out=tmp_path / "run", **options)
    assert "12 pictures of the test split" in words_of(run.out)


@pytest.mark.parametrize("full", ["budget", "disk"])
def test_where_there_is_no_room_for_the_test_split_s_features_it_is_measured_without_them(
    place, tmp_path, monkeypatch, capsys, full
):
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    for i in range(40):  # more pictures than are trained on
        write_picture(tmp_path / "colours" / "test" / "red" / f"more{i}.png", noise(24, 24, i))
    shutil.copytree(place / "colours", tmp_path / "colours", dirs_exist_ok=True)
    options = {"recipe": "probe", "image_size": 32, "device": "cpu", "weights": place / "run" / "best.safetensors"}
    if full == "budget":  # 128 numbers of four bytes for each of 30 pictures that are trained on; 52 are tested
        options["set"] = {"features_gb": 40 * 128 * 4 / 1e9}
    else:
        look = frozen.Frozen.look

        def refuse_test(self, split, layer):
            if split == "test":
                monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
            return look(self, split, layer)

        monkeypatch.setattr(frozen.Frozen, "look", refuse_test)
    run = resnetv2.train(tmp_path / "colours", out=tmp_path / "run", **options)
    assert "52 pictures of the test split" in words_of(run.out)
    assert "was not written" not in capsys.readouterr().err


def test_every_command_in_the_report_works_where_the_run_was_started(place):
    text = (place / "run" / "report.html").read_text(encoding="utf-8")
    commands = [html.unescape(found) for found in re.findall(r"<pre>(.*?)</pre>", text)]
    expected = {"predict", "evaluate", "explain", "check", "verify", "info", "export"}
    assert {line.split()[1] for line in commands} == expected
    for line in commands:
        done = command(*shlex.split(line)[1:], cwd=place)
        assert done.returncode == 0, (line, done.stderr)


def test_where_pictures_were_left_out_commands_leave_them_out_too(place, tmp_path):
    shutil.copytree(place / "colours", tmp_path / "colours")
    for split in ("train", "test"):
        (tmp_path / "colours" / split / "red" / "bad.png").write_bytes(b"no picture")
    out = train(tmp_path / "colours", tmp_path / "run", on_bad_image="skip").out
    text = (out / "report.html").read_text(encoding="utf-8")
    commands = [html.unescape(found) for found in re.findall(r"<pre>(.*?)</pre>", text)]
    readers = [line for line in commands if line.split()[1] in ("evaluate", "check")]
    assert len(readers) == 2
    for line in readers:
        done = command(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)


def test_every_command_in_the_card_works_beside_the_model(place):
    lines = re.search(r"```sh\n(.*?)```", (place / "run" / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    commands = [shlex.split(line, comments=True) for line in lines.splitlines() if line.startswith("resnetv2 ")]
    picture = next((place / "colours" / "test" / "red").iterdir())
    assert [words[1] for words in commands] == ["predict", "verify", "info"]
    for words in commands:
        done = command(*[str(picture) if word == "PICTURE" else word for word in words[1:]], cwd=place / "run")
        assert done.returncode == 0, (words, done.stderr)


def test_the_card_is_what_the_hub_reads_with_the_report_s_figures_and_an_unknown_licence(place, monkeypatch):
    monkeypatch.chdir(place)
    card = ModelCard.load(place / "run" / "README.md")
    measured = resnetv2.evaluate("run/best.safetensors", "colours", device="cpu", runtime="torch")
    assert card.data.license == "unknown"
    assert card.data.pipeline_tag == "image-classification"
    assert "resnetv2" in card.data.tags
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["accuracy"] == pytest.approx(measured["top1"], abs=1e-6)  # rounded to six digits
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    assert "## What speaks against it" in card.text
    assert "(curves.png)" in card.text


def test_nothing_is_fetched_and_the_page_is_small(place):
    text = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//\w", re.sub(r"<script>.*</script>|base64,[^\"]*", "", text, flags=re.DOTALL))
    assert Page(text).tags.count("script") == 1
    assert len(text) < 3_000_000


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_browser_shows_the_report_without_complaint_and_sorts_its_classes(place):
    elements, complaints = browse(place / "run" / "report.html")
    assert complaints == []
    assert "How it learnt" in elements
    once, twice = click_heads(place / "run" / "report.html", 0)
    assert once == ["red", "green", "blue"]
    assert twice == ["blue", "green", "red"]


def test_a_finished_run_that_is_resumed_writes_its_report_again_and_changes_no_model(place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copytree("run", "again")
    (place / "again" / "report.html").unlink()
    (place / "again" / "README.md").write_text("license: mine")
    with (place / "again" / "speed.jsonl").open("a") as file:
        file.write('{"limit": "mod')  # a writer was killed
    before = (place / "again" / "best.safetensors").read_bytes()
    resnetv2.train("colours", out="again", resume=True)
    assert "Training report" in words_of(place / "again")
    assert (place / "again" / "README.md").read_text() == "license: mine", "what a person wrote stays"
    assert (place / "again" / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("fault", [RuntimeError("no room\nat all"), MemoryError(), OSError("the disk is full")])
def test_a_report_that_cannot_be_written_loses_no_run_and_says_why_in_a_line(
    place, tmp_path, monkeypatch, capsys, fault
):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(report, "render_page", fail)
    result = train(place / "colours", tmp_path / "run")
    assert result.best.exists()
    assert not (tmp_path / "run" / "report.html").exists()
    said = capsys.readouterr().err
    why = str(fault).partition("\n")[0] or "MemoryError"
    assert f"warning: the run is done, and its report was not written: {why}\n" in said


def test_without_a_test_split_the_figures_are_validation_s_which_is_said_on_page_and_card(place, tmp_path):
    data = tmp_path / "colours"
    shutil.copytree(place / "colours", data)
    shutil.rmtree(data / "test")
    out = train(data, tmp_path / "run").out
    assert "There is no test split: these are the 12 validation pictures" in words_of(out)
    card = ModelCard.load(out / "README.md")
    assert {result.dataset_split for result in card.data.eval_results} == {"val"}
    assert "There was no test split" in card.text


def test_a_leak_and_a_wrong_label_are_told(place, tmp_path):
    data = tmp_path / "colours"
    shutil.copytree(place / "colours", data)
    shutil.copy(data / "train" / "red" / "000.png", data / "test" / "red" / "copy.png")
    for number in range(4, 8):
        shutil.copy(data / "train" / "blue" / f"{number:03d}.png", data / "test" / "red" / f"blue-{number}.png")
    weights = place / "run" / "best.safetensors"
    out = resnetv2.train(data, out=tmp_path / "run", weights=weights, recipe="probe", image_size=32, device="cpu").out
    words = words_of(out)
    assert "The splits leak: same picture, different splits" in words
    assert "Pictures are in several splits, by which the figures flatter" in words
    assert "Labels to look at" in words
    assert "rather blue" in words
    assert "solved for by cross-validation" in words


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_have_their_report_and_card(place, tmp_path, task):
    data = tmp_path / "colours"
    shutil.copytree(place / "colours", data)
    if task == "multilabel":
        listed = write_list(data, "labels", lambda name, i: f"{name}|odd" if i % 2 else name)
    else:
        listed = write_list(data, "target", lambda name, i: len(name) + i / 10)
    out = train(listed, tmp_path / "run").out
    words = words_of(out)
    figure = "mean average precision" if task == "multilabel" else "mean absolute error"
    assert figure in words
    assert ("Largest errors" in words) == (task == "regression")
    assert "glows where it found evidence for" in words
    card = ModelCard.load(out / "README.md")
    assert card.data.eval_results[0].metric_name == figure
    assert ("image-regression" in card.data.tags) == (task == "regression")


def test_names_are_text_and_never_markup_on_page_and_card(tmp_path):
    data = write_colours(tmp_path / "a_*b*<i>", train=4, val=2, test=2)
    for split in ("train", "val", "test"):
        (data / split / "red").rename(data / split / "<script>alert(1)<!--")
        (data / split / "blue").rename(data / split / "[link](x) |*b*")
    out = train(data, tmp_path / "run").out
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert "<script>alert(1)<!--" in "".join(page.words)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert r"\[link\](x) \|\*b\*" in card
    assert ModelCard.load(out / "README.md").data.model_name == "resnet18v2 on a_*b*<i>"


@pytest.mark.parametrize("epochs", [1, 2, 13, 1000])
def test_curves_of_any_length_are_drawn_with_whole_epochs_below(epochs):
    number = np.arange(1.0, epochs + 1)
    history = {"epoch": number, "lr": 0.1 / number, "train_loss": 2 / number, "val_loss": 500 / number**2}
    history |= {"train_top1": 1 - 0.9 / number, "val_top1": np.where(number == 1, np.nan, 1 - 0.8 / number)}
    charts = draw_run(history)
    assert [title for title, _, _ in charts][-2:] == (["Loss", "Learning rate"] if epochs > 1 else ["Loss"])
    for _, _, svg in charts:
        ticks = re.findall(r'text-anchor="middle">([^<]*)<', svg)
        assert 1 <= len(ticks) <= 9
        assert all(re.fullmatch(r"[\d,]+", tick) for tick in ticks)
        assert "nan" not in svg
    loss = next(chart for chart in charts if chart[0] == "Loss")
    assert "logarithmic" in loss[1], "from 500 to less than a twentieth"


def test_the_report_is_of_the_run_s_own_settings(place):
    config = json.loads((place / "run" / "config.json").read_text())
    words = words_of(place / "run")
    assert f"{config['epochs']} epochs in batches of {config['batch_size']}" in words
    assert f"sgd, peak rate {config['lr']:g}, cosine" in words
