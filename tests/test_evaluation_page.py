"""The page of an evaluation: what it shows, that it fetches nothing, and that a browser sorts its table."""

import re
from dataclasses import replace

import numpy as np
import pytest
from browser import CHROMIUM, browse, click_heads
from pictures import write_dataset
from test_sheet import NASTY, Page

from resnetv2.config import architecture
from resnetv2.data.index import read_index
from resnetv2.evaluation.mistakes import Shown
from resnetv2.evaluation.page import write_page
from resnetv2.evaluation.run import make_report
from resnetv2.preprocess import Preprocessing
from resnetv2.weights.modelfile import Header

CLASSES = ("ant", "bee", "cat")


def make_shown(root, task="classification", classes=CLASSES, n=8):
    """Return what a page is made of: pictures, and answers that are mostly right."""
    index = read_index(write_dataset(root, {"test": dict.fromkeys(classes, n)}))
    rng = np.random.default_rng(0)
    if task == "classification":
        labels, logits = index.labels, 2 * np.eye(len(classes))[index.labels] + rng.normal(size=(n * len(classes), 3))
    elif task == "multilabel":
        labels = rng.random((len(index.labels), 3)) < 0.4
        logits = 2.0 * labels - 1 + rng.normal(size=labels.shape)
    else:
        labels = rng.normal(size=len(index.labels))
        logits = labels[:, None] + 0.1 * rng.normal(size=(len(labels), 1))
    names = index.classes if task != "regression" else ("age",)
    index = type(index)(**{**vars(index), "labels": labels, "task": task})
    report = {"model": "run/best.safetensors", "data": "my data", "split": "test", "tta": None, "task": task}
    report |= make_report(task, logits, labels, names)
    report["skipped"] = [{"path": "bad.png", "reason": "the file is empty"}]
    header = Header(
        architecture=architecture("resnet50v2", num_classes=len(names)),
        preprocessing=Preprocessing(),
        classes=names,
        task=task,
    )
    return Shown(report, header, index, logits)


def page_of(tmp_path, **options):
    path = tmp_path / "page.html"
    write_page(path, make_shown(tmp_path / "data", **options))
    return path, path.read_text(encoding="utf-8")


def test_every_defined_headline_figure_is_shown_with_its_interval(tmp_path):
    shown = make_shown(tmp_path / "data")
    write_page(tmp_path / "page.html", shown)
    words = "".join(Page((tmp_path / "page.html").read_text(encoding="utf-8")).words)
    for key in ("top1", "balanced_accuracy", "average_precision"):
        low, high = shown.report[f"{key}_ci95"]
        assert f"{shown.report[key]:.2%}" in words
        assert f"{low:.2%} – {high:.2%}" in words
    assert shown.report["note"] in words
    assert "bad.png" in words
    assert "resnetv2 evaluate run/best.safetensors 'my data' --split test" in words


def test_the_worst_mistakes_come_first_and_right_answers_are_none(tmp_path):
    shown = make_shown(tmp_path / "data")
    write_page(tmp_path / "page.html", shown)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    wrong = shown.logits.argmax(axis=1) != shown.index.labels
    assert 0 < page.tags.count("img") == wrong.sum() <= 24
    true = np.take_along_axis(shown.logits, shown.index.labels[:, None], axis=1)[:, 0]
    worst = int(np.argmax(shown.logits.max(axis=1) - true))
    first = next(value for name, value in page.attributes if name == "title")
    assert first == shown.index.paths[worst]


def test_beside_a_mistake_is_where_the_network_saw_its_answer(tmp_path):
    shown = make_shown(tmp_path / "data")
    asked = []

    def heat(pixels, number):
        asked.append((pixels.shape, number))
        return np.linspace(0, 1, 224 * 224, dtype=np.float32).reshape(224, 224)

    write_page(tmp_path / "page.html", replace(shown, heat=heat))
    said = shown.logits.argmax(axis=1)
    wrong = said != shown.index.labels
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).tags.count("img") == 2 * wrong.sum()
    assert sorted(asked) == sorted(((224, 224, 3), int(number)) for number in said[wrong])


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_have_their_page(tmp_path, task):
    _, text = page_of(tmp_path, task=task)
    assert ("mean average precision" if task == "multilabel" else "mean absolute error") in text
    assert "Confusion" not in text


def test_names_are_text_and_never_markup(tmp_path):
    classes = [name.replace("/", "") for name in (*NASTY[:2], "{{ 7 * 7 }}")]
    _, text = page_of(tmp_path, classes=tuple(classes))
    page = Page(text)
    assert page.tags.count("script") == 1
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert all(name in "".join(page.words) for name in classes)


def test_nothing_is_fetched_and_only_the_page_s_own_script_may_run(tmp_path):
    _, text = page_of(tmp_path)
    assert not re.search(r"(https?:)?//\w", re.sub(r"<script>.*</script>|base64,[^\"]*", "", text, flags=re.DOTALL))
    page = Page(text)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-\S+'", policy
    )


@pytest.mark.parametrize(("classes", "is_long"), [(CLASSES, False), (("ant", "bee", "red-winged blackbird"), True)])
def test_long_names_stand_upright_beside_the_confusion_matrix(tmp_path, classes, is_long):
    _, text = page_of(tmp_path, classes=classes)
    page = Page(text)
    assert (("class", "matrix long") in page.attributes) == is_long
    assert page.attributes.count(("title", classes[2])) == 2, "where a name is cut, pointing at it tells the whole"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_browser_shows_the_page_without_complaint_and_its_script_is_allowed(tmp_path):
    path, text = page_of(tmp_path)
    elements, complaints = browse(path)
    assert complaints == []
    assert "Worst mistakes" in elements
    path.write_text(text.replace("for (const button", "console.error('run'); for (const button"), encoding="utf-8")
    assert "Content Security Policy" in browse(path)[1][0], "a script that is not the page's own is refused"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_click_on_a_head_sorts_the_table(tmp_path):
    path, _ = page_of(tmp_path)
    for column, read in ((0, str), (3, float)):
        once, twice = ([read(value) for value in values] for values in click_heads(path, column))
        assert len(once) == 3
        assert once == sorted(once, reverse=True)
        assert twice == sorted(twice)
