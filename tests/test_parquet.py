"""Lists in Parquet files: what the same table says as a CSV."""

import csv
import sys

import pytest
from pictures import write_dataset
from runs import command

import resnetv2
from resnetv2.data import parquet
from resnetv2.data.index import read_index
from resnetv2.data.parquet import read_parquet
from resnetv2.errors import DataError, MissingExtra

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "data", {"": {"cat": 6, "dog": 6}})


def names():
    return [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(6)]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def write_both(folder, **columns):
    """Write one table in both formats."""
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return write(folder / "list.parquet", **columns), folder / "list.csv"


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        ("label", ["cat"] * 6 + ["dog"] * 6),
        ("label", list(range(9, 15)) + list(range(7, 13))),
        ("labels", ["cat|furry", ""] * 6),
        ("target", [i / 8 for i in range(12)]),
    ],
)
def test_a_table_says_the_same_in_both_formats(folder, column, labels):
    columns = {"image_path": names(), column: labels, "split": ["train", "val"] * 6, "patient": ["x", "y", ""] * 4}
    one, other = (read_index(path, "patient") for path in write_both(folder, **columns))
    assert one.task == other.task
    assert one.classes == other.classes
    assert one.digest() == other.digest()
    assert list(one.groups) == list(other.groups)


def test_several_labels_may_be_a_list_and_a_class_a_category(folder):
    lists = [["cat", "furry"], [], None] * 4
    index = read_index(write(folder / "lists.parquet", image_path=names(), labels=lists))
    assert index.task == "multilabel"
    assert [index.label(i) for i in range(3)] == ["cat|furry", "", ""]
    categories = pa.array(["cat"] * 6 + ["dog"] * 6).dictionary_encode()
    index = read_index(write(folder / "classes.pq", image_path=names(), label=categories))
    assert index.classes == ("cat", "dog")
    assert index.table().sum() == 12


def test_columns_of_bytes_and_structures_are_not_read(tmp_path):
    path = write(
        tmp_path / "t.parquet",
        image=pa.array([b"\xff\xd8", None]),
        n=[1, None],
        parts=[{"bytes": b"x"}, None],
        many=[[b"x"], None],
        label=["a", "b"],
    )
    assert list(read_parquet(path)) == [
        ("columns", ["image", "n", "parts", "many", "label"]),
        ("row 1", ["", "1", "", "", "a"]),
        ("row 2", ["", "", "", "", "b"]),
    ]


def test_rows_beyond_the_first_batch_are_numbered_on(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_ROWS", 3)
    rows = list(read_parquet(write(tmp_path / "t.parquet", n=list(range(8)))))
    assert rows[1:] == [(f"row {i + 1}", [str(i)]) for i in range(8)]


def test_all_problems_are_told_with_their_rows(folder):
    columns = {"image_path": ["cat/0.png", "cat/9.png", "cat/0.png", None], "label": ["cat", "cat", None, "dog"]}
    with pytest.raises(DataError) as caught:
        read_index(write(folder / "list.parquet", **columns))
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        f"  row 2: no file {folder / 'cat/9.png'}",
        "  row 3: the label is empty",
        "  row 4: image_path is empty",
    ]


def test_a_table_without_the_columns_is_refused_with_those_it_has(folder):
    with pytest.raises(DataError, match=r"needs the columns image_path,label\[,split\]; got file,label;"):
        read_index(write(folder / "list.parquet", file=["x"], label=["y"]))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"image_path,label\n", b"PAR1" + bytes(50) + b"PAR1"])
def test_what_is_no_parquet_file_is_refused(tmp_path, content):
    path = tmp_path / "list.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"list.parquet is no readable Parquet file: "):
        read_index(path)


def test_a_truncated_or_changed_table_is_refused_or_read(folder):
    whole = write(folder / "list.parquet", image_path=names(), label=["cat", "dog"] * 6).read_bytes()
    refused = 0
    for i in range(0, len(whole), 23):
        for bad in (whole[:i], whole[:i] + b"\xff" + whole[i + 1 :]):
            (folder / "list.parquet").write_bytes(bad)
            try:
                read_index(folder / "list.parquet")
            except DataError:
                refused += 1
    assert refused > len(whole) // 23


def test_without_pyarrow_the_way_to_get_it_is_told(folder, monkeypatch):
    path = write(folder / "list.parquet", image_path=names(), label=["cat"] * 12)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'^reading list.parquet needs .*: pip install "resnetv2\[parquet\]"$'):
        read_index(path)


def test_packing_and_checking_take_it(folder, tmp_path):
    path = write(folder / "list.parquet", image_path=names(), label=["cat"] * 6 + ["dog"] * 6)
    assert resnetv2.pack(path, tmp_path / "packed").pictures == 12
    done = command("check", path)
    assert "12 pictures in 2 classes, 12 readable" in done.stdout


def test_times_that_are_none_and_columns_of_one_name_are_refused(folder, tmp_path):
    times = pa.array([2**62], pa.int64()).cast(pa.timestamp("us"))
    table = pa.table([pa.array(["x.png"]), pa.array(["a"]), times], names=["image_path", "label", "seen"])
    pq.write_table(table, tmp_path / "late.parquet")
    with pytest.raises(DataError, match="is no readable Parquet file"):
        read_index(tmp_path / "late.parquet")
    pq.write_table(table.rename_columns(["image_path", "label", "label"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"columns of the same name: label|no readable Parquet file"):
        read_index(tmp_path / "twice.parquet")
