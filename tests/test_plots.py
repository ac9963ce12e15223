"""Curves of a run: what is drawn, from any log, in equal bytes."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from resnetv2.errors import DataError, MissingExtra
from resnetv2.training import plots
from resnetv2.training.plots import DARK, LIGHT, best_place, draw_curves, drawing, heading, read_history, write_plots


def make_lines(n, *scores):
    rng = np.random.default_rng(0)
    lines = []
    for epoch in range(1, n + 1):
        line = {"epoch": epoch, "step": 10 * epoch, "lr": 0.1 * (1 - epoch / n), "val_n": 1797}
        line |= {"train_loss": 2 / epoch + 0.1 * rng.random(), "val_loss": 2.2 / epoch + 0.1 * rng.random()}
        line |= {score: 1 - 1 / (epoch + 1) - 0.01 * rng.random() for score in scores}
        lines.append(line)
    return lines


TOP1 = ("train_top1", "val_top1")


def write_log(out, lines):
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def words(path):
    """The words of an SVG, in order."""
    return [node.text for node in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def history(tmp_path, lines):
    return read_history(write_log(tmp_path, lines) / "metrics.jsonl")


@pytest.mark.parametrize(
    ("n", "scores", "titles"),
    [
        (1, TOP1, ["Top-1 accuracy"]),
        (2, TOP1, ["Top-1 accuracy"]),
        (1000, TOP1, ["Top-1 accuracy"]),
        (9, ("val_map",), ["Mean average precision"]),
        (9, ("val_mae", "val_r2"), ["Mean absolute error, less is better", "R²"]),
        (9, (), []),
    ],
)
def test_a_run_of_any_length_and_task_is_drawn(tmp_path, n, scores, titles):
    paths = write_plots(write_log(tmp_path / "run", make_lines(n, *scores)))
    assert [path.name for path in paths] == ["curves.png", "curves.svg", "curves-dark.svg"]
    for path in paths[1:]:
        found = words(path)
        assert [word for word in found if word in {*titles, "Loss", "Learning rate"}] == [
            *titles,
            "Loss",
            "Learning rate",
        ]
        assert sum(word.startswith("best: epoch ") for word in found) == 1
    image = np.asarray(Image.open(paths[0]).convert("L"))
    assert image.shape[1] > 1000
    assert (image < 250).mean() > 0.01, "there is ink"


@pytest.mark.parametrize("gone", ["lr", "train_loss", "val_loss", "train_top1", "val_top1", "val_n"])
def test_a_log_without_one_of_its_keys_is_drawn_without_it(tmp_path, gone):
    lines = [{key: value for key, value in line.items() if key != gone} for line in make_lines(5, *TOP1)]
    write_plots(write_log(tmp_path, lines))
    found = " ".join(words(tmp_path / "curves.svg"))
    assert ("Learning rate" in found) == (gone != "lr")
    assert ("validation pictures" in found) == (gone != "val_n")


def test_a_log_with_epochs_alone_is_no_error(tmp_path):
    lines = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.0}]
    write_plots(write_log(tmp_path, lines))
    assert "2 epochs, not validated" in words(tmp_path / "curves.svg")


def test_gaps_and_values_that_are_no_numbers_leave_gaps(tmp_path):
    lines = make_lines(6, *TOP1)
    lines[2]["val_top1"] = None
    lines[3]["val_loss"] = float("nan")
    lines[4]["train_loss"] = float("inf")
    del lines[5]["train_top1"]
    found = history(tmp_path, lines)
    assert np.isnan([found["val_top1"][2], found["val_loss"][3], found["train_loss"][4], found["train_top1"][5]]).all()
    write_plots(tmp_path)


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    write_log(tmp_path, make_lines(4, *TOP1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "lr": 0.')
    assert read_history(tmp_path / "metrics.jsonl")["epoch"].tolist() == [1, 2, 3, 4]


def test_no_log_or_an_empty_one_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*metrics\.jsonl"):
        write_plots(tmp_path)
    write_log(tmp_path, [])
    with pytest.raises(DataError, match="holds no finished epoch yet"):
        write_plots(tmp_path)


def test_the_best_epoch_is_the_last_of_equals_and_the_least_of_errors(tmp_path):
    values = {"val_top1": [0.5, 0.9, 0.8, 0.9, 0.7], "val_mae": [3.0, 1, 2, 1, 4], "val_loss": [3.0, 1, 2, 1, 4]}
    for key, column in values.items():
        lines = [{"epoch": i + 1, key: value} for i, value in enumerate(column)]
        score, place = best_place(history(tmp_path / key, lines))
        assert (f"val_{score.key}", place) == (key, 3)
    assert best_place({"epoch": np.array([1.0]), "train_loss": np.array([1.0])}) is None


def test_the_heading_says_what_the_run_came_to(tmp_path):
    lines = [{"epoch": i + 1, "val_top1": v, "val_n": 1797} for i, v in enumerate([0.5, 0.912, 0.9])]
    title, beside = heading(history(tmp_path, lines))
    assert title == "Top-1 accuracy 91.2 %"
    assert beside == "epoch 2 of 3  ·  1,797 validation pictures  ·  90.0 % at the end"


def test_the_same_log_gives_the_same_bytes_without_date_version_or_path(tmp_path):
    lines = make_lines(12, *TOP1)
    one = write_plots(write_log(tmp_path / "one", lines))
    script = (
        "import sys, pathlib; from resnetv2.training.plots import write_plots; write_plots(pathlib.Path(sys.argv[1]))"
    )
    write_log(tmp_path / "other", lines)
    subprocess.run([sys.executable, "-c", script, tmp_path / "other"], check=True)
    for path in one:
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()
    for path in one[1:]:
        text = path.read_text()
        assert not re.search(r"dc:date|Matplotlib|\b20\d\d-", text)
        assert str(tmp_path) not in text
        assert text.count("<title>Top-1 accuracy") == 1
        assert "system-ui" in text


def test_what_the_person_set_in_matplotlib_neither_shows_nor_is_changed(tmp_path):
    lines = make_lines(5, *TOP1)
    one = write_plots(write_log(tmp_path / "one", lines))
    mine = {"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}
    with mpl.rc_context(mine):
        before = dict(mpl.rcParams)
        other = write_plots(write_log(tmp_path / "other", lines))
        assert dict(mpl.rcParams) == before
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, other, strict=True))


def test_pyplot_and_its_global_state_are_not_loaded(tmp_path):
    write_log(tmp_path, make_lines(3, *TOP1))
    script = (
        "import sys, pathlib; from resnetv2.training.plots import write_plots; write_plots(pathlib.Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"resnetv2\[train\]"):
        write_plots(write_log(tmp_path, make_lines(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def luminance(colour):
    """Relative luminance by WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_words_and_lines_stand_out_from_the_page(theme):
    paper = luminance(theme.paper)
    for colour in (theme.ink, theme.soft, theme.val, theme.train):
        light, dark = sorted((luminance(colour), paper), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, "WCAG AA for text"


@pytest.mark.parametrize("ends", [(0.9, 0.9), (0.9, 0.901), (0.0, 1.0), (1.0, 1.0)])
def test_names_at_the_ends_of_curves_do_not_touch_and_stay_on_the_page(tmp_path, ends):
    lines = [{"epoch": e, "train_top1": ends[0], "val_top1": ends[1], "val_loss": 1.0, "lr": 0.1} for e in (1, 2)]
    with drawing():
        figure = draw_curves(history(tmp_path, lines), LIGHT)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for axis in figure.axes for text in axis.texts]
        page = figure.bbox
    for place, box in enumerate(boxes):
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_a_score_that_falls_by_orders_is_drawn_on_a_logarithmic_scale(tmp_path):
    lines = [{"epoch": e, "val_loss": 10.0**-e} for e in range(1, 6)]
    with drawing():
        figure = draw_curves(history(tmp_path, lines), LIGHT)
    assert figure.axes[0].get_yscale() == "log"
    assert plots.SCORES[-1].key == "loss"
