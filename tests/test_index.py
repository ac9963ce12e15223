import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pictures import noise, write_dataset, write_picture

from resnetv2.config import architecture
from resnetv2.data.index import (
    Index,
    find_pictures,
    read_index,
    read_saved_index,
    refuse_inside,
)
from resnetv2.data.index import (
    _build as build,
)
from resnetv2.data.manifest import Row
from resnetv2.data.splits import SPLITS
from resnetv2.errors import ConfigError, DataError
from resnetv2.evaluation.run import evaluate
from resnetv2.inference import Classifier
from resnetv2.preprocess import Preprocessing
from resnetv2.weights.modelfile import Header

linux = pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
ODD_NAMES = [
    "new\nline",
    "comma, quote\" '",
    "käse 🧀",
    " space ",
    "tab\t",
    "semi;colon",
    "car\rriage",
    "#hash",
    "100 %",
]


def rows(index):
    """Return every picture with its class name and split."""
    return list(zip(index.paths, (index.classes[i] for i in index.labels), index.splits.tolist(), strict=True))


def counts(index):
    """Return {split: {class: n}} without the empty ones."""
    found = {}
    for _, label, split in rows(index):
        found.setdefault(split, {}).setdefault(label, 0)
        found[split][label] += 1
    return found


def problems_in_training(index):
    """Return the first line and the problems for which an index is refused as training data."""
    with pytest.raises(DataError) as caught:
        index.check_trainable()
    first, *problems = str(caught.value).splitlines()
    assert first == f"{index.root} cannot train a classifier:"
    return problems


def write_csv(path, *lines, encoding="utf-8"):
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


@pytest.fixture
def four(tmp_path):
    """Return a folder of four pictures, two a class, without splits."""
    return write_dataset(tmp_path / "four", {"": {"cat": 2, "dog": 2}})


# --- folders with splits ---


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("training", "valid", "test"), ("Train", "VALIDATION", "Test")],
)
def test_folders_of_splits_are_taken_as_they_are(tmp_path, names):
    train, val, test = names
    sizes = {"cat": 3, "dog": 2}, {"cat": 1, "dog": 2}, {"dog": 1}
    index = read_index(write_dataset(tmp_path, dict(zip(names, sizes, strict=True))))
    assert counts(index) == dict(zip(SPLITS, sizes, strict=True))
    assert index.counts() == {"train": 5, "val": 3, "test": 1}
    assert index.classes == ("cat", "dog")
    assert {path.split("/")[0] for path in index.paths} == {train, val, test}


def test_two_names_of_one_split_are_one_split(tmp_path):
    index = read_index(write_dataset(tmp_path, {"train": {"a": 1, "b": 1}, "val": {"a": 1}, "valid": {"b": 1}}))
    assert counts(index) == {"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 1}}


def test_of_train_alone_a_part_of_each_class_becomes_val(tmp_path):
    index = read_index(write_dataset(tmp_path, {"train": {"cat": 20, "dog": 3}}, size=2))
    found = counts(index)
    assert set(found) == {"train", "val"}
    for name, size in {"cat": 20, "dog": 3}.items():
        assert found["train"][name] + found["val"][name] == size
        assert 1 <= found["val"][name] < found["train"][name]


def test_without_val_a_part_of_train_becomes_val_and_test_stays(tmp_path):
    index = read_index(write_dataset(tmp_path, {"train": {"a": 20, "b": 20}, "test": {"a": 5, "b": 5}}, size=2))
    found = counts(index)
    assert found["test"] == {"a": 5, "b": 5}
    for name in "ab":
        assert found["train"][name] + found["val"][name] == 20
        assert 1 <= found["val"][name] < found["train"][name]
    assert {p.split("/")[0] for p, _, split in rows(index) if split == "val"} == {"train"}


def test_a_test_split_alone_is_a_test_split(tmp_path):
    assert counts(read_index(write_dataset(tmp_path, {"test": {"a": 2, "b": 2}}))) == {"test": {"a": 2, "b": 2}}


def test_a_split_holds_its_pictures_with_their_labels(tmp_path):
    root = write_dataset(tmp_path, {"train": {"b": 2, "a": 1}, "val": {"a": 1, "b": 1}})
    samples = read_index(root).split("train")
    assert tuple(samples.paths) == (root / "train/a/0.png", root / "train/b/0.png", root / "train/b/1.png")
    assert samples.labels.tolist() == [0, 1, 1]
    assert samples.labels.dtype == np.int64
    assert len(samples) == 3


def test_all_is_every_picture_of_every_split(tmp_path):
    root = write_dataset(tmp_path, {"train": {"a": 1, "b": 2}, "val": {"b": 1}, "test": {"a": 1}})
    samples = read_index(root).split("all")
    names = "test/a/0.png", "train/a/0.png", "train/b/0.png", "train/b/1.png", "val/b/0.png"
    assert tuple(samples.paths) == tuple(root / name for name in names)
    assert samples.labels.tolist() == [0, 0, 1, 1, 1]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    index = read_index(write_dataset(tmp_path, {"train": {"a": 3, "b": 3}}))
    with pytest.raises(DataError, match=r"has no 'test' split; it has 'train', 'val'$"):
        index.split("test")


def test_splits_beside_other_folders_are_refused_by_name(tmp_path):
    write_dataset(tmp_path, {"train": {"a": 2, "b": 2}, "trash": {"a": 1}})
    advice = "rename the one or the other, or list the pictures in a CSV"
    with pytest.raises(DataError, match=rf"splits and other folders side by side: 'trash'; {advice}$"):
        read_index(tmp_path)


def test_a_class_may_be_called_test_or_val(tmp_path):
    assert read_index(write_dataset(tmp_path, {"": {"test": 2, "exam": 2, "val": 2}})).classes == (
        "exam",
        "test",
        "val",
    )


# --- folders without splits ---


def test_a_folder_without_splits_is_split_in_each_class(tmp_path):
    found = counts(read_index(write_dataset(tmp_path, {"": {"cat": 50, "dog": 20}}, size=2)))
    for name, size in {"cat": 50, "dog": 20}.items():
        assert sum(found[split][name] for split in SPLITS) == size
        assert found["train"][name] > size / 2
        assert min(found["val"][name], found["test"][name]) >= 1


def test_two_pictures_are_split_into_train_and_val_and_three_into_all(tmp_path):
    index = read_index(write_dataset(tmp_path, {"": {"two": 2, "three": 3}}))
    assert counts(index) == {"train": {"two": 1, "three": 1}, "val": {"two": 1, "three": 1}, "test": {"three": 1}}


def test_the_split_is_the_same_in_any_place_and_order(tmp_path, monkeypatch):
    sizes = {"cat": 30, "dog": 25, "1": 4, "01": 4}
    first = read_index(write_dataset(tmp_path / "first", {"": sizes}, size=2))
    for name in reversed(first.paths):
        write_picture(tmp_path / "second" / name)
    walk = os.walk

    def backwards(top, **options):
        for base, folders, files in walk(top, **options):
            yield base, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(iterdir(self), reverse=True)))
    second = read_index(tmp_path / "second")
    assert rows(first) == rows(second)
    assert first.digest() == second.digest()


# --- what counts as a picture ---


def test_hidden_files_and_other_files_are_left_out(four):
    for name in ("cat/.hidden.png", "cat/._0.png", "cat/.cache/x.png", ".git/objects/x.png"):
        write_picture(four / name)
    for name in ("cat/notes.txt", "cat/Thumbs.db", "readme.md", "x.png", "cat/png"):
        (four / name).write_bytes(b"x")
    assert len(read_index(four).paths) == 4


def test_endings_count_in_any_case_and_folders_inside_a_class_belong_to_it(four):
    for name in ("cat/deep/er/a.JPG", "cat/deep/b.Jpeg", "dog/c.WEBP", "dog/1/2/3.tiff"):
        write_picture(four / name)
    assert {row[:2] for row in rows(read_index(four))} >= {
        ("cat/deep/er/a.JPG", "cat"),
        ("cat/deep/b.Jpeg", "cat"),
        ("dog/c.WEBP", "dog"),
        ("dog/1/2/3.tiff", "dog"),
    }


def test_classes_and_pictures_are_in_natural_order(tmp_path):
    root = write_dataset(tmp_path, {"train": {str(i): 11 for i in range(11)}, "val": {str(i): 1 for i in range(11)}}, 2)
    index = read_index(root)
    assert index.classes == tuple(map(str, range(11)))
    assert [p.name for p in index.split("train").paths[:11]] == [f"{i}.png" for i in range(11)]
    assert [p.name for p in find_pictures(root / "train" / "0")] == [f"{i}.png" for i in range(11)]


def test_links_to_folders_inside_a_class_are_not_followed(four):
    (four / "cat" / "loop").symlink_to(four)
    (four / "self").symlink_to(four / "self")
    (four / "cat" / "dangling.png").symlink_to(four / "nowhere.png")
    paths = read_index(four).paths
    assert len([p for p in paths if "dangling" not in p]) == 4
    assert "cat/dangling.png" in paths  # reported by the check, not forgotten


def test_a_class_may_be_a_link_to_a_folder(four, tmp_path):
    write_dataset(tmp_path / "elsewhere", {"": {"birds": 3}})
    (four / "bird").symlink_to(tmp_path / "elsewhere" / "birds")
    assert read_index(four).classes == ("bird", "cat", "dog")


@linux
@pytest.mark.parametrize("name", [*ODD_NAMES, os.fsdecode(b"caf\xe9 \xff")])
def test_any_file_name_survives_the_saved_index(four, tmp_path, name):
    write_picture(four / "cat" / f"{name}.png")
    write_picture(four / name / "x.png" if name in ODD_NAMES else four / "dog" / name / "x.png")
    write_picture(four / name / "y.png" if name in ODD_NAMES else four / "dog" / name / "y.png")
    index = read_index(four)
    assert f"cat/{name}.png" in index.paths
    index.write_csv(tmp_path / "index.csv")
    again = read_saved_index(tmp_path / "index.csv", four)
    assert rows(again) == rows(index)
    assert (again.classes, again.root, again.digest()) == (index.classes, index.root, index.digest())
    assert again.labels.tolist() == index.labels.tolist()
    assert all(path.is_file() for path in again.split("train").paths)


@linux
def test_classes_that_are_no_text_are_refused_by_name(four):
    write_picture(four / os.fsdecode(b"caf\xe9") / "x.png")
    write_picture(four / os.fsdecode(b"\xff") / "x.png")
    with pytest.raises(DataError, match=r"^class names that are no UTF-8 text; rename them: 'caf\\udce9', '\\udcff'$"):
        read_index(four)


def test_a_read_only_folder_can_be_read_and_nothing_in_it_changes(four, tmp_path):
    def state():
        return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [four, *four.rglob("*")])

    for path in [*four.rglob("*"), four]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state()
    try:
        index = read_index(four)
        index.write_csv(tmp_path / "index.csv")
        read_saved_index(tmp_path / "index.csv", four)
        assert state() == before
    finally:
        for path in [four, *four.rglob("*")]:
            path.chmod(0o755)


# --- what cannot be used ---


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"^no such folder or CSV file: .*nowhere$"):
        read_index(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nor a .csv or .parquet file \(archives must be unpacked"):
        read_index(write_picture(tmp_path / "x.png"))


@pytest.mark.parametrize("names", [[], ["x.png"], ["cat/notes.txt", "dog/notes.txt"], ["train/cat/", "val/cat/"]])
def test_a_folder_without_pictures_in_classes_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"^no pictures in .*: expected root/class/\*.jpg"):
        read_index(tmp_path)


def test_empty_class_folders_are_refused_by_name(four):
    (four / "bird").mkdir()
    (four / "fish").mkdir()
    with pytest.raises(DataError) as caught:
        read_index(four)
    assert str(caught.value).splitlines()[1:] == [f"  {four / 'bird'}", f"  {four / 'fish'}"]


def test_many_empty_class_folders_are_counted(four):
    for i in range(25):
        (four / f"empty{i}").mkdir()
    with pytest.raises(DataError) as caught:
        read_index(four)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[10].endswith("empty9")
    assert lines[11] == "  … and 15 more"


@pytest.mark.parametrize("folder", ["cat", "cat/deep/er"])
def test_a_folder_that_cannot_be_read_is_refused_with_the_reason(four, monkeypatch, folder):
    write_picture(four / "cat" / "deep" / "er" / "x.png")
    scandir = os.scandir

    def deny(path):  # permissions do not hold for root
        if Path(path) == four / folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=rf"^cannot read the folder .*/{folder}: Permission denied$"):
        read_index(four)


# --- what can be read and measured, but cannot train ---


def test_data_with_two_classes_to_train_and_to_check_can_train(four):
    index = read_index(four)
    index.check_trainable()
    assert counts(index) == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}}


def test_one_class_can_be_read_but_cannot_train(tmp_path):
    index = read_index(write_dataset(tmp_path, {"": {"cat": 5}}))
    assert index.classes == ("cat",)
    assert problems_in_training(index) == ["  there is one class only, 'cat'; a classifier needs two or more"]


def test_a_class_that_train_lacks_can_be_read_but_cannot_train(tmp_path):
    sizes = {"train": {"a": 2}, "val": {"a": 1, "b": 2}, "test": {"b": 1, "c": 3}}
    index = read_index(write_dataset(tmp_path, sizes))
    assert counts(index) == sizes
    assert problems_in_training(index) == [
        "  class 'b' is in 'val' and 'test' but not in 'train'",
        "  class 'c' is in 'test' but not in 'train'",
    ]


@pytest.mark.parametrize(
    ("sizes", "problems"),
    [
        (
            {"test": {"a": 2, "b": 2}},
            [
                "there are no 'train' pictures",
                "there are no 'val' pictures",
                "class 'a' is in 'test' but not in 'train'",
                "class 'b' is in 'test' but not in 'train'",
            ],
        ),
        (
            {"val": {"a": 2, "b": 1}},
            [
                "there are no 'train' pictures",
                "class 'a' is in 'val' but not in 'train'",
                "class 'b' has a single picture; it needs one to train and one to check",
            ],
        ),
        (
            {"test": {"a": 1}},
            [
                "there are no 'train' pictures",
                "there are no 'val' pictures",
                "there is one class only, 'a'; a classifier needs two or more",
                "class 'a' has a single picture; it needs one to train and one to check",
            ],
        ),
        (
            {"": {"a": 1, "b": 1}},
            [
                "there are no 'val' pictures",
                "class 'a' has a single picture; it needs one to train and one to check",
                "class 'b' has a single picture; it needs one to train and one to check",
            ],
        ),
    ],
)
def test_all_that_keeps_data_from_training_is_told_at_once(tmp_path, sizes, problems):
    index = read_index(write_dataset(tmp_path, sizes))
    assert problems_in_training(index) == [f"  {problem}" for problem in problems]


def test_many_problems_in_training_are_counted(tmp_path):
    index = read_index(write_dataset(tmp_path, {"": {"cow": 4, **{f"c{i}": 1 for i in range(25)}}}, size=2))
    problems = problems_in_training(index)
    assert len(problems) == 11
    assert problems[9].startswith("  class 'c9' has a single picture")
    assert problems[10] == "  … and 15 more"


@pytest.mark.parametrize(
    ("sizes", "split"),
    [
        ({"": {"cat": 5}}, "all"),
        ({"": {"cat": 1, "dog": 1}}, "train"),
        ({"train": {"cat": 2}, "test": {"dog": 3}}, "test"),
    ],
)
def test_data_that_cannot_train_can_be_evaluated(tmp_path, sizes, split):
    root = write_dataset(tmp_path, sizes)
    header = Header(
        architecture=architecture("resnet18v2", num_classes=3),
        preprocessing=Preprocessing(image_size=8, resize=8),
        classes=("cow", "dog", "cat"),
    )
    always_dog = Classifier(header, lambda pictures: np.tile(np.float32([0, 1, 0]), (len(pictures), 1)))
    index = read_index(root)
    assert problems_in_training(index)
    labels = [label for _, label, where in rows(index) if split in ("all", where)]
    report = evaluate(always_dog, root, split=split)
    assert report["n"] == len(labels)
    assert report["top1"] == labels.count("dog") / len(labels)


def test_classes_with_a_single_picture_can_be_read_but_cannot_train(tmp_path):
    index = read_index(write_dataset(tmp_path, {"": {"cat": 1, "dog": 1, "cow": 4}}))
    assert len(index.paths) == 6
    problem = "has a single picture; it needs one to train and one to check"
    assert problems_in_training(index) == [f"  class 'cat' {problem}", f"  class 'dog' {problem}"]


# --- CSV ---


def test_a_csv_names_pictures_relative_to_itself(four):
    path = write_csv(
        four / "list.csv",
        "image_path,label,split",
        "cat/0.png,cat,train",
        "cat/1.png,cat,val",
        "dog/0.png,dog,training",
        f"{four / 'dog/1.png'},dog,Valid",
    )
    index = read_index(path)
    assert index.root == four
    assert rows(index) == [
        ("cat/0.png", "cat", "train"),
        ("cat/1.png", "cat", "val"),
        ("dog/0.png", "dog", "train"),
        (str(four / "dog/1.png"), "dog", "val"),
    ]
    assert all(p.is_file() for s in ("train", "val") for p in index.split(s).paths)


def test_a_csv_without_splits_is_split_as_the_folder_is(tmp_path):
    root = write_dataset(tmp_path, {"": {"cat": 30, "dog": 20}}, size=2)
    folder = read_index(root)
    path = write_csv(root / "list.csv", "label,image_path", *(f"{label},{p}" for p, label, _ in reversed(rows(folder))))
    assert sorted(rows(read_index(path))) == sorted(rows(folder))


def test_a_csv_may_have_a_byte_order_mark_quotes_spaces_blank_lines_and_other_columns(four):
    write_picture(four / "cat" / "a, b.png")
    path = write_csv(
        four / "LIST.CSV",
        "image_path,label,split,comment",
        '"cat/a, b.png",cat,train,"x, y"',
        "",
        "cat/0.png , cat , train ,",
        "cat/1.png,cat,val",
        'dog/0.png,"dog ""the"" dog",train,x,more,than,columns',
        'dog/1.png,"dog ""the"" dog",VAL,x',
        encoding="utf-8-sig",
    )
    index = read_index(path)
    assert index.classes == ("cat", 'dog "the" dog')
    assert [p for p, _, _ in rows(index)] == ["cat/a, b.png", "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert index.counts() == {"train": 3, "val": 2, "test": 0}


@pytest.mark.parametrize("header", ["path,label", "image_path,class", "cat/0.png,cat", "", "image_path;label"])
def test_a_csv_without_the_columns_is_refused(four, header):
    with pytest.raises(DataError, match=r"needs the columns image_path,label\[,split\] in its first line; got"):
        read_index(write_csv(four / "list.csv", header, "cat/0.png,cat"))


def test_an_empty_csv_is_refused(four):
    (four / "list.csv").touch()
    with pytest.raises(DataError, match="needs the columns"):
        read_index(four / "list.csv")
    with pytest.raises(DataError, match=r"list\.csv lists no pictures"):
        read_index(write_csv(four / "list.csv", "image_path,label"))


def test_all_problems_of_a_csv_are_told_with_their_lines(four):
    path = write_csv(
        four / "list.csv",
        "image_path,label,split",
        "cat/0.png,cat,train",
        "cat/9.png,cat,train",
        ",cat,train",
        "cat/1.png,,train",
        "dog/0.png,dog,trian",
        "cat,cat,train",
        f"{'x' * 5000},cat,train",
        "nul\0,cat,train",
        "cat/0.png",
    )
    with pytest.raises(DataError) as caught:
        read_index(path)
    lines = str(caught.value).splitlines()
    assert lines[1:6] == [
        f"  line 3: no file {four / 'cat/9.png'}",
        "  line 4: image_path is empty",
        "  line 5: the label is empty",
        "  line 6: unknown split 'trian': did you mean 'train'?",
        f"  line 7: no file {four / 'cat'}",
    ]
    assert lines[6].startswith("  line 8: no file ")
    assert lines[7].startswith("  line 9: no file ")
    assert lines[8:] == ["  line 10: the label is empty"]


@pytest.mark.parametrize("again", ["cat/0.png", "./cat/0.png", "cat//0.png", "dog/../cat/0.png", " cat/0.png "])
def test_a_picture_listed_twice_is_refused_with_both_lines(four, again):
    path = write_csv(
        four / "list.csv",
        "image_path,label,split",
        "cat/1.png,cat,val",
        "cat/0.png,cat,train",
        "dog/0.png,dog,train",
        f"{again},dog,val",
        "dog/1.png,dog,val",
        "cat/0.png,cat,train",
    )
    with pytest.raises(DataError) as caught:
        read_index(path)
    assert str(caught.value).splitlines()[1:] == [
        f"  line 5: {again.strip()} was listed before, in line 3",
        "  line 7: cat/0.png was listed before, in line 3",
    ]


def test_many_problems_of_a_csv_are_counted(four):
    path = write_csv(four / "list.csv", "image_path,label", *(f"{i}.png,cat" for i in range(25)))
    with pytest.raises(DataError, match="line 11: no file") as caught:
        read_index(path)
    assert str(caught.value).endswith("… and 15 more")


@pytest.mark.parametrize(
    "content", [b"image_path,label\n" + b"x" * 200_000 + b",cat\n", b"\xff\xfe\0x", b"\x89PNG\r\n\0"]
)
def test_what_is_no_csv_is_refused(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"no readable CSV|needs the columns"):
        read_index(tmp_path / "list.csv")


# --- the saved index ---


def test_the_saved_index_keeps_the_splits_when_pictures_are_added(four, tmp_path):
    index = read_index(four)
    index.write_csv(tmp_path / "index.csv")
    for i in range(30):
        write_picture(four / "cat" / f"new{i}.png")
    assert rows(read_saved_index(tmp_path / "index.csv", four)) == rows(index)


def test_the_saved_index_of_a_csv_is_relative_to_that_csv(four, tmp_path):
    lines = [f"{animal}/{i}.png,{animal}" for animal in ("cat", "dog") for i in range(2)]
    index = read_index(write_csv(four / "list.csv", "image_path,label", *lines))
    index.write_csv(tmp_path / "index.csv")
    assert rows(read_saved_index(tmp_path / "index.csv", four / "list.csv")) == rows(index)


def test_the_saved_index_names_pictures_that_are_gone(four, tmp_path):
    read_index(four).write_csv(tmp_path / "index.csv")
    (four / "cat" / "1.png").unlink()
    with pytest.raises(DataError, match=r"line 3: no file .*cat/1.png$"):
        read_saved_index(tmp_path / "index.csv", four)


def test_a_saved_index_that_is_gone_is_refused(four, tmp_path):
    with pytest.raises(DataError, match=r"index.csv is no readable CSV: .*No such file"):
        read_saved_index(tmp_path / "index.csv", four)


# --- digest ---


def digest_of(paths=("a", "b"), labels=(0, 1), splits=("train", "val"), classes=("cat", "dog"), root="x"):
    return Index(Path(root), tuple(paths), np.array(labels), np.array(splits), tuple(classes)).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ("a", "c")},
        {"paths": ("b", "a")},
        {"labels": (1, 0)},
        {"labels": (0, 0)},
        {"splits": ("train", "test")},
        {"classes": ("cat", "cow")},
    ],
)
def test_the_digest_changes_when_anything_changes(change):
    assert digest_of(**change) != digest_of()


def test_the_digest_does_not_depend_on_the_place(four, tmp_path):
    shutil.copytree(four, tmp_path / "copy")
    assert read_index(four).digest() == read_index(tmp_path / "copy").digest()
    assert len(digest_of()) == 64


# --- natural order ---


def test_a_million_pictures_cost_less_than_two_hundred_megabytes():
    names = [f"train/class-{i % 100:03d}/ILSVRC2012_val_{i:08d}.JPEG" for i in range(100_000)]  # a tenth of a million
    table = [Row(name, f"class-{name[12:15]}", "train" if i % 20 else "val") for i, name in enumerate(names)]
    tracemalloc.start()
    index = build(Path("x"), table, "classification")
    samples = index.split("all")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 20e6  # measured 9.7 MB; as a tuple of texts and one of paths it was above 40
    assert samples.paths[99_999] == Path("x", names[-1])


@pytest.mark.parametrize("out", ["list.csv", "a.png", "folder/page.html", "elsewhere.html"])
def test_what_is_read_is_not_written_over(out, tmp_path):
    write_dataset(tmp_path / "folder", {"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 1}}, 8)
    write_picture(tmp_path / "a.png", noise(8, 8))
    (tmp_path / "list.csv").write_text(f"image_path,label,data_root\nx,y,{tmp_path / 'folder'}\n")
    if out == "elsewhere.html":
        refuse_inside(tmp_path / out, tmp_path / "list.csv")
        return
    with pytest.raises(ConfigError, match="choose another place"):
        refuse_inside(tmp_path / out, tmp_path / "list.csv")
