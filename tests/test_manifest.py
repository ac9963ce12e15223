"""The saved list: everything that is known of a picture, and where the pictures are."""

import csv
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import noise, write_dataset, write_picture

from resnetv2.data.check import check_pictures
from resnetv2.data.index import read_index, read_saved_index
from resnetv2.data.manifest import COLUMNS, Row, read_saved_manifest, write_manifest
from resnetv2.data.packing import pack
from resnetv2.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "data", {"": {"cat": 6, "dog": 6}})


@pytest.fixture
def saved(folder, tmp_path):
    """Return the list of the folder as a run saves it."""
    index, _, _ = check_pictures(read_index(folder, r"(\d)\.png"), folder)
    index.write_csv(tmp_path / "run" / "index.csv")
    return tmp_path / "run" / "index.csv"


def cells(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_list_says_size_hash_group_and_in_its_first_line_where_the_data_is(folder, saved):
    lines = cells(saved)
    assert tuple(lines[0]) == COLUMNS
    for line in lines:
        content = (folder / line["image_path"]).read_bytes()
        assert int(line["size"]) == len(content)
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
        assert line["group"] == line["image_path"][-5]
    assert [line["data_root"] for line in lines] == [str(folder), *[""] * 11]


def test_a_saved_list_can_be_given_as_data_from_anywhere(folder, saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path / "run")
    index = read_index(saved)
    again = read_saved_index(saved, folder)
    assert (index.root, index.digest()) == (folder, again.digest())
    assert all(path.is_file() for path in index.split("all").paths)
    assert not index.assigned
    assert list(read_saved_index(saved, saved).rows()) == list(again.rows()), "as a run on the list is resumed"


def test_a_saved_list_of_packed_pictures_reads_them_from_the_shards(folder, tmp_path):
    packed = pack(folder, tmp_path / "packed").out
    index, _, _ = check_pictures(read_index(packed), packed)
    index.write_csv(tmp_path / "index.csv")
    again = read_index(tmp_path / "index.csv")
    assert again.digest() == index.digest() == read_index(folder).digest()
    assert [place.read_bytes() for place in again.split("all").paths] == [
        place.read_bytes() for place in read_index(folder).split("all").paths
    ]


def test_a_saved_list_whose_data_moved_says_where_it_was(folder, saved):
    shutil.move(folder, folder.parent / "moved")
    with pytest.raises(DataError, match=r"lists pictures of .*data, which is not there: give the folder"):
        read_index(saved)
    assert len(read_saved_index(saved, folder.parent / "moved").paths) == 12


def test_a_list_of_an_earlier_version_is_read_without_hashes(folder, tmp_path):
    old = tmp_path / "index.csv"
    old.write_text("image_path,label,split\ncat/0.png,cat,train\ndog/0.png,dog,val\n")
    index = read_saved_index(old, folder)
    assert (index.contents, index.groups) == (None, None)
    assert index.splits.tolist() == ["train", "val"]


@pytest.mark.parametrize(("column", "value"), [("size", "x"), ("size", "-1"), ("sha256", "0" * 63), ("sha256", "")])
def test_a_damaged_size_or_hash_is_told_with_its_line(folder, saved, column, value):
    lines = cells(saved)
    lines[3][column] = value
    with saved.open("w", newline="") as file:
        out = csv.DictWriter(file, COLUMNS)
        out.writeheader()
        out.writerows(lines)
    with pytest.raises(DataError, match="line 5: size or sha256 is damaged"):
        read_saved_index(saved, folder)


def test_what_was_written_is_read(tmp_path):
    rows = [Row("a\nb.png", " cat ", "train", 'say "q"', 3, bytes(range(32))), Row("c,.png", "dog", "val")]
    write_manifest(tmp_path / "x.csv", rows, tmp_path)
    assert read_saved_manifest(tmp_path / "x.csv", tmp_path, lambda _: True) == (rows, "classification")


# --- groups that a list names ---


def test_a_column_names_groups_and_an_empty_cell_none(folder):
    path = folder / "list.csv"
    lines = [
        f"{kind}/{i}.png,{kind},{'' if i > 3 else f'patient {i % 2}'}" for kind in ("cat", "dog") for i in range(6)
    ]
    path.write_text("\n".join(["image_path,label,patient", *lines]))
    index = read_index(path, "patient")
    assert list(index.groups) == 2 * [*("patient 0", "patient 1") * 2, "", ""]
    for name in ("patient 0", "patient 1"):
        assert len({s for s, group in zip(index.splits, index.groups, strict=True) if group == name}) == 1


def test_what_is_no_column_is_an_expression_on_the_path(folder):
    lines = [f"{kind}/{i}.png,{kind}" for kind in ("cat", "dog") for i in range(6)]
    (folder / "list.csv").write_text("\n".join(["image_path,label", *lines]))
    by_path = read_index(folder / "list.csv", r"/(\d)")
    assert list(by_path.groups) == 2 * list("012345")
    assert list(read_index(folder, r"/(\d)").groups) == list(by_path.groups)


def test_a_saved_list_keeps_its_groups_or_takes_others(saved):
    assert list(read_index(saved, "group").groups) == 2 * list("012345")
    assert list(read_index(saved, r"^(\w+)/").groups) == 6 * ["cat"] + 6 * ["dog"]


def test_copies_are_in_one_split_and_named_by_the_first_of_them(tmp_path):
    root = write_dataset(tmp_path / "data", {"": {"cat": 12, "dog": 12}})
    for i in range(20):
        picture = noise(64, 64, seed=1000 + i)
        write_picture(root / "cat" / f"pair-{i}.png", picture)
        write_picture(root / "cat" / f"pair-{i}-again.bmp", picture)
    before = read_index(root)
    index, _, report = check_pictures(before, root)
    split = dict(zip(index.paths, index.splits.tolist(), strict=True))
    was = dict(zip(before.paths, before.splits.tolist(), strict=True))
    names = [(f"cat/pair-{i}.png", f"cat/pair-{i}-again.bmp") for i in range(20)]
    assert any(was[one] != was[other] for one, other in names), "else this shows nothing"
    assert all(split[one] == split[other] for one, other in names)
    assert {finding.kind for finding in report.findings} & {"leak", "leak_near", "parted"} == set()
    groups = dict(zip(index.paths, index.groups, strict=True))
    assert all(groups[one] == groups[other] == min(one, other) for one, other in names)
    assert {path: split[path] for path in split if not groups[path]} == {
        path: was[path] for path in was if not groups[path]
    }


def test_splits_that_were_given_are_kept_and_parted_groups_are_found(tmp_path):
    root = write_dataset(tmp_path / "data", {"train": {"cat": 12, "dog": 12}, "val": {"cat": 2, "dog": 2}})
    before = read_index(root, r"([0-9]+)\.png")
    index, _, report = check_pictures(before, root)
    assert index.splits.tolist() == before.splits.tolist()
    (finding,) = [finding for finding in report.findings if finding.kind == "parted"]
    assert finding.groups == 2
    assert finding.severity == "warning"
    assert {(item.note, item.split) for item in finding.items} == {
        (name, split) for name in ("0", "1") for split in ("train", "val")
    }


def test_data_of_one_group_says_why_it_cannot_be_split(tmp_path):
    root = write_dataset(tmp_path / "data", {"": {"cat": 6, "dog": 6}})
    with pytest.raises(DataError, match="no 'val' pictures, for pictures that belong together are not parted"):
        read_index(root, r"\.(png)").check_trainable()


def test_an_index_without_some_pictures_keeps_what_is_known_of_the_others(folder, saved):
    index = read_index(saved)
    less = index.without({0, 5})
    assert list(less.rows()) == [row for i, row in enumerate(index.rows()) if i not in {0, 5}]
    assert replace(less, contents=None).digest() == less.digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image_path,label\na.png,"dog\nb.png,cat\n', "is no readable CSV: unexpected end of data"),
        ("image_path,label,label\na.png,dog,cat\n", "has columns of the same name: label"),
    ],
)
def test_a_list_that_could_be_read_in_two_ways_is_refused(text, message, tmp_path):
    for name in "ab":
        write_picture(tmp_path / f"{name}.png", noise(8, 8))
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_index(tmp_path / "list.csv")


def test_a_picture_listed_by_two_of_its_names_is_listed_twice(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", noise(8, 8))
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text(f"image_path,label\na.png,dog\n{tmp_path / 'a.png'},cat\n")
    with pytest.raises(DataError, match="was listed before, in line 2"):
        read_index(Path("list.csv"))
