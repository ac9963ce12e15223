"""Labels: from text to numbers and back, and the order of class names."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_picture

from resnetv2.data.index import read_index, read_saved_index
from resnetv2.data.packing import pack
from resnetv2.data.targets import class_names, count_classes, encode_labels, label_text, misread, natural_key
from resnetv2.errors import DataError
from resnetv2.tasks import TASKS

NAMES = st.text(alphabet=list("ab019²٣ _"), max_size=6) | st.text(max_size=6)


@given(NAMES, NAMES)
def test_different_names_have_different_keys(one, other):
    assert (natural_key(one) == natural_key(other)) == (one == other)
    assert (natural_key(one) < natural_key(other)) == (natural_key(other) > natural_key(one))


@given(st.text("abc", max_size=3), st.integers(0, 10**6), st.integers(0, 10**6), st.text("abc", max_size=3))
def test_numbers_in_names_count_as_numbers(before, one, other, after):
    keys = [natural_key(f"{before}{number}{after}") for number in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)


@given(st.text("ab01", max_size=5), st.text("ab", min_size=1, max_size=3))
def test_a_name_comes_before_a_longer_one_that_begins_with_it(name, more):
    assert natural_key(name) < natural_key(name + more)


def write_list(folder, column, labels, splits=None, name="labels.csv"):
    """Write a list of as many pictures as there are labels, and the pictures."""
    splits = splits or ["train", "val"] * (len(labels) // 2) + ["train"] * (len(labels) % 2)
    for i in range(len(labels)):
        write_picture(folder / f"{i}.png")
    with (folder / name).open("w", newline="") as file:
        rows = [(f"{i}.png", label, split) for i, (label, split) in enumerate(zip(labels, splits, strict=True))]
        csv.writer(file).writerows([("image_path", column, "split"), *rows])
    return folder / name


CLASS = st.text(st.characters(exclude_characters="|", exclude_categories=("Cs",)), min_size=1, max_size=4).map(
    str.strip
)


@given(st.lists(st.lists(CLASS.filter(bool), max_size=4, unique=True), min_size=1, max_size=6))
def test_several_classes_come_back_in_the_order_of_the_class_names(named):
    labels, classes = encode_labels("multilabel", ["|".join(names) for names in named])
    assert labels.shape == (len(named), len(classes))
    assert list(classes) == sorted({name for names in named for name in names}, key=natural_key)
    for row, names, again in zip(labels, named, class_names("multilabel", labels, classes), strict=True):
        assert sorted(again, key=natural_key) == sorted(names, key=natural_key)
        assert label_text("multilabel", row, classes) == "|".join(again)
    assert count_classes("multilabel", labels, len(classes)).tolist() == [
        sum(name in names for names in named) for name in classes
    ]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_a_target_comes_back_to_the_bit(targets):
    labels, classes = encode_labels("regression", [repr(x) for x in targets])
    assert classes == ("target",)
    assert [float(label_text("regression", x, classes)) for x in labels] == targets


@pytest.mark.parametrize(
    ("column", "labels", "task"),
    [
        ("label", ["cat", "dog"], "classification"),
        ("label", ["cat|dog", "dog"], "multilabel"),
        ("labels", ["cat", "dog"], "multilabel"),
        ("labels", ["cat| dog ", ""], "multilabel"),
        ("target", ["1e3", "-2.5"], "regression"),
    ],
)
def test_the_column_of_a_csv_tells_the_task_and_every_other_form_keeps_it(tmp_path, column, labels, task):
    path = write_list(tmp_path, column, labels)
    index = read_index(path)
    assert index.task == task
    index.write_csv(tmp_path / "run" / "index.csv")
    pack(path, tmp_path / "packed")
    for again in (
        read_index(tmp_path / "run" / "index.csv"),
        read_saved_index(tmp_path / "run" / "index.csv", tmp_path),
        read_index(tmp_path / "packed"),
    ):
        assert (again.task, again.classes) == (task, index.classes)
        assert np.array_equal(again.labels, index.labels)
        assert again.digest() == index.digest()


def test_what_the_data_says_can_be_taken_otherwise(tmp_path):
    path = write_list(tmp_path, "label", ["1|2", "3"])
    assert read_index(path, task="classification").classes == ("1|2", "3")
    assert read_index(write_list(tmp_path, "label", ["1", "3"]), task="multilabel").labels.tolist() == [[1, 0], [0, 1]]
    for i, name in enumerate(("18", "30.5")):
        write_picture(tmp_path / "ages" / name / f"{i}.png")
    assert read_index(tmp_path / "ages", task="regression").labels.tolist() == [18, 30.5]
    write_picture(tmp_path / "ages" / "old" / "x.png")
    with pytest.raises(DataError, match=r"old/x[.]png: the target 'old' is no number"):
        read_index(tmp_path / "ages", task="regression")


def test_every_label_that_cannot_be_read_is_named_with_its_line(tmp_path):
    path = write_list(tmp_path, "target", ["1", "nan", "tall", ""])
    with pytest.raises(DataError) as error:
        read_index(path)
    assert [f"line {n}" in str(error.value) for n in (2, 3, 4, 5)] == [False, True, True, True]
    with pytest.raises(DataError, match="needs the columns image_path,target"):
        read_index(write_list(tmp_path, "label", ["1", "2"]), task="regression")


@pytest.mark.parametrize(
    ("column", "labels", "message"),
    [
        ("labels", ["", ""], "no picture has a label"),
        ("labels", ["a|b", "b", "b"], "class 'a' has a single picture"),
        ("labels", ["a", "a|b", "a", "b"], "class 'b' is in 'val' but not in 'train'"),
        ("target", ["7", "7.0"], "every target is 7"),
    ],
)
def test_data_that_cannot_be_learnt_is_refused(tmp_path, column, labels, message):
    with pytest.raises(DataError, match=message):
        read_index(write_list(tmp_path, column, labels)).check_trainable()


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_assigned_for_every_task(tmp_path, task):
    labels = {"classification": ["a", "b"], "multilabel": ["a|b", "b"], "regression": ["1", "2"]}[task] * 20
    column = {"classification": "label", "multilabel": "labels", "regression": "target"}[task]
    index = read_index(write_list(tmp_path, column, labels, [""] * 40))
    assert all(index.counts().values())
    assert (index.table() > 0).all(), "every class in every split"


def test_a_number_of_thousands_of_digits_is_a_name():
    assert sorted(["9" * 5000, "10", "9"], key=natural_key)[:2] == ["9", "10"]


@pytest.mark.parametrize("text", ["1_000", "1e300", "nan", ""])
def test_what_a_network_cannot_be_taught_is_no_target(text):
    assert misread("regression", text)
