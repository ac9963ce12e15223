"""Reading packed folders, whole ones and all the others."""

import csv
import shutil

import numpy as np
import pytest
from pictures import noise, write_dataset, write_picture

from resnetv2.data import packing
from resnetv2.data.check import readable_index
from resnetv2.data.examine import examine_pictures
from resnetv2.data.index import read_index, read_saved_index
from resnetv2.data.packing import pack
from resnetv2.data.shards import SHARD_LIST, Member
from resnetv2.errors import DataError
from resnetv2.preprocess import open_picture


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Return a folder of twelve pictures, packed into several shards."""
    monkeypatch.setattr(packing, "_MEGABYTE", 8192)
    root = write_dataset(
        tmp_path / "data", {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}
    )
    assert pack(root, tmp_path / "packed", max_size=1).shards > 2
    return tmp_path / "packed"


def edit(packed, column, value, line=2):
    """Change one cell of the list."""
    path = packed / SHARD_LIST
    rows = list(csv.reader(path.open(newline="")))
    rows[line - 1][rows[0].index(column)] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_packed_folder_reads_as_the_folder_it_was_made_of(packed):
    there, here = read_index(packed.parent / "data"), read_index(packed)
    assert tuple(here.paths) == tuple(there.paths)
    assert here.labels.tolist() == there.labels.tolist()
    assert here.splits.tolist() == there.splits.tolist()
    assert here.classes == there.classes
    assert here.digest() == there.digest()
    for one, other in zip(there.split("all").paths, here.split("all").paths, strict=True):
        assert isinstance(other, Member)
        assert other.read_bytes() == one.read_bytes()
        assert open_picture(other).tobytes() == open_picture(one).tobytes()
    assert np.array_equal(examine_pictures(here).facts, examine_pictures(there).facts)


def test_a_saved_index_reads_the_pictures_from_the_shards_in_its_own_order(packed, tmp_path):
    index = read_index(packed)
    index.write_csv(tmp_path / "index.csv")
    lines = (tmp_path / "index.csv").read_text().splitlines()
    (tmp_path / "index.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    again = read_saved_index(tmp_path / "index.csv", packed)
    assert list(again.paths) == list(reversed(index.paths))
    for one, other in zip(index.split("all").paths[::-1], again.split("all").paths, strict=True):
        assert one == other


def test_a_saved_index_names_pictures_that_the_shards_lack(packed, tmp_path):
    read_index(packed).write_csv(tmp_path / "index.csv")
    with (tmp_path / "index.csv").open("a") as file:
        file.write("train/a/new.png,a,train\n")
    with pytest.raises(DataError, match=r"line 14: no file .*new\.png"):
        read_saved_index(tmp_path / "index.csv", packed)


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_changed_byte_is_told_of_its_picture_alone(packed, place):
    members = list(read_index(packed).split("all").paths)
    member = members[place]
    data = bytearray(member.shard.read_bytes())
    data[member.offset + member.size - 1] ^= 1  # of PNG's end, which no decoder looks at
    member.shard.write_bytes(data)
    with pytest.raises(DataError, match="no longer holds the bytes that were packed"):
        open_picture(member)
    with pytest.raises(DataError) as caught:
        readable_index(read_index(packed), examine_pictures(read_index(packed)).reasons, "error")
    first, *lines = str(caught.value).splitlines()
    assert first == "1 of 12 pictures cannot be read:"
    assert lines[0].startswith(f"  {member.shard}:{member.name}: ")


def test_shards_that_are_gone_or_cut_short_are_all_named(packed):
    members = read_index(packed).split("all").paths
    first, last = members[0], members[-1]
    first.shard.unlink()
    last.shard.write_bytes(last.shard.read_bytes()[: last.offset + last.size - 1])
    with pytest.raises(DataError) as caught:
        read_index(packed)
    assert f"{first.shard.name}: No such file" in str(caught.value)
    assert f"{last.shard.name} has {last.offset + last.size - 1:,} bytes" in str(caught.value)


def test_a_shard_that_vanishes_later_is_one_clear_error(packed):
    member = read_index(packed).split("all").paths[0]
    member.shard.unlink()
    with pytest.raises(DataError, match="No such file"):
        open_picture(member)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_path", ""),
        ("label", ""),
        ("split", "holdout"),
        ("shard", "../data/shard-00000.tar"),
        ("shard", "/etc/passwd"),
        ("shard", "shard-1.tar"),
        ("offset", "-1"),
        ("offset", "1e3"),
        ("offset", "٣"),  # a digit to Python, not to us
        ("offset", "9" * 30),
        ("size", ""),
        ("size", "x"),
        ("sha256", "0" * 63),
        ("sha256", "G" * 64),
    ],
)
def test_a_damaged_line_of_the_list_is_refused(packed, column, value):
    edit(packed, column, value, line=4)
    with pytest.raises(DataError, match="line 4: damaged"):
        read_index(packed)


def test_a_size_beyond_the_shard_is_refused_before_anything_is_read(packed):
    edit(packed, "size", "9" * 15)
    with pytest.raises(DataError, match=r"shard-00000\.tar has .* bytes, but its pictures end at 1,000,000,"):
        read_index(packed)


def test_a_picture_listed_twice_is_refused(packed):
    edit(packed, "image_path", read_index(packed).paths[1])
    with pytest.raises(DataError, match="a picture is listed twice"):
        read_index(packed)


@pytest.mark.parametrize("text", ["", "image_path,label,split\n", "\0\n", "a" * 200_000])
def test_a_list_that_is_none_is_refused(packed, text):
    (packed / SHARD_LIST).write_text(text)
    with pytest.raises(DataError, match=r"shards\.csv"):
        read_index(packed)


def test_a_list_without_pictures_is_refused(packed):
    (packed / SHARD_LIST).write_text((packed / SHARD_LIST).read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="no pictures"):
        read_index(packed)


def test_many_damaged_lines_are_counted(packed):
    path = packed / SHARD_LIST
    path.write_text(path.read_text() + "x\n" * 30)
    with pytest.raises(DataError, match="… and 20 more"):
        read_index(packed)


def test_the_list_is_the_manifest_of_the_unpacked_shards(packed, tmp_path):
    there = tmp_path / "unpacked"
    for shard in sorted(packed.glob("*.tar")):
        shutil.unpack_archive(shard, there, filter="data")
    shutil.copy(packed / SHARD_LIST, there / "list.csv")
    assert read_index(there / "list.csv").digest() == read_index(packed).digest()


def test_a_folder_with_a_class_called_as_the_list_is_no_packed_folder(tmp_path):
    for name in (SHARD_LIST, "other"):
        write_picture(tmp_path / name / "1.png", noise(4, 4))
    assert read_index(tmp_path).classes == ("other", SHARD_LIST)
