"""Packing: bytes untouched, the same training from it, and nothing left that is half."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import noise, write_dataset, write_picture
from runs import SETTINGS, TINY, command, write_colours

import resnetv2
from resnetv2.data import packing
from resnetv2.data.augment import Augment
from resnetv2.data.check import check_pictures
from resnetv2.data.index import read_index
from resnetv2.data.load import Loader
from resnetv2.data.manifest import read_saved_manifest
from resnetv2.data.packing import PackResult, pack
from resnetv2.data.shards import SHARD_LIST
from resnetv2.errors import ConfigError, DataError, Error
from resnetv2.preprocess import Preprocessing

KILLED = """
import os, signal, sys
from resnetv2.data import packing
packing._MEGABYTE = 8192
name, after = sys.argv[3], int(sys.argv[4])
real, calls = getattr(packing, name), []
def killed(*args):
    calls.append(args)
    if len(calls) > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
setattr(packing, name, killed)
packing.pack(sys.argv[1], sys.argv[2], max_size=1)
"""


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def small(monkeypatch):
    """Let a megabyte have 8 KiB, so that a few small pictures fill several shards."""
    monkeypatch.setattr(packing, "_MEGABYTE", 8192)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_files_lie_in_the_tars_untouched_under_their_names(colours, tmp_path, small):
    counted = []
    result = pack(colours, tmp_path / "out", max_size=2, progress=lambda done, total: counted.append((done, total)))
    shards = sorted((tmp_path / "out").glob("*.tar"))
    found = {}
    for shard in shards:
        assert shard.stat().st_size <= 2 * 8192 + tarfile.RECORDSIZE, "the end of a tar is filled up to its record"
        with tarfile.open(shard) as tar:
            assert all(member.isfile() and member.mode == 0o644 for member in tar)
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    expected = {path.relative_to(colours).as_posix(): path.read_bytes() for path in colours.rglob("*.png")}
    assert found == expected
    assert result == PackResult(tmp_path / "out", len(shards), 54, sum(map(len, expected.values())))
    assert counted == [(i, 54) for i in range(1, 55)]


def test_the_same_pictures_give_the_same_bytes(colours, tmp_path):
    pack(colours, tmp_path / "one")
    pack(colours, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    pack(tmp_path / "one", tmp_path / "again")  # what is packed can be packed anew
    assert contents(tmp_path / "one") == contents(tmp_path / "again")


def test_batches_and_trained_weights_are_those_of_the_folder(colours, tmp_path, small):
    packed = pack(colours, tmp_path / "packed").out
    augment = Augment(scale=(0.3, 1), ratio=(0.75, 4 / 3), hflip=0.5)
    size = Preprocessing(image_size=16, resize=16)
    loaders = [Loader(read_index(data).split("train"), 8, size, augment, workers=2) for data in (colours, packed)]
    for one, other in zip(*(loader.batches() for loader in loaders), strict=True):
        np.testing.assert_array_equal(one.pictures, other.pictures)
        np.testing.assert_array_equal(one.labels, other.labels)
    settings = {**SETTINGS, "epochs": 2}
    runs = [resnetv2.train(data, out=tmp_path / f"run-{data.name}", set=TINY, **settings) for data in (colours, packed)]
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "config.json"):
        assert (runs[0].out / name).read_bytes() == (runs[1].out / name).read_bytes(), name
    lists = [read_saved_manifest(run.out / "index.csv", colours, lambda _: True)[0] for run in runs]
    assert lists[0] == lists[1], "apart from where the data is"
    assert resnetv2.train(packed, out=runs[1].out, resume=True) == runs[1]
    reports = [resnetv2.evaluate(runs[0].best, data, device="cpu") for data in (colours, packed)]
    assert {**reports[0], "data": ""} == {**reports[1], "data": ""}


@pytest.mark.parametrize("without_splits", [{"": {"a": 20, "b": 20}}, {"train": {"a": 20, "b": 20}, "test": {"a": 3}}])
def test_splits_that_were_chosen_here_stay(tmp_path, without_splits):
    root = write_dataset(tmp_path / "data", without_splits)
    packed = pack(root, tmp_path / "packed").out
    assert read_index(packed).digest() == read_index(root).digest()


def test_splits_that_the_data_does_not_say_are_left_to_training_which_keeps_copies_together(tmp_path):
    root = write_dataset(tmp_path / "data", {"": {"a": 12, "b": 12}}, size=40)
    for i in range(12):
        shutil.copy(root / "a" / f"{i}.png", root / "a" / f"{i}-copy.png")
    packed = pack(root, tmp_path / "packed").out
    there, here = (check_pictures(read_index(data), data)[0] for data in (root, packed))
    assert here.digest() == there.digest() != read_index(root).digest()


def write_patients(tmp_path):
    """Return a CSV of 24 pictures of twelve patients, two each."""
    root = write_dataset(tmp_path / "data", {"": {"a": 12, "b": 12}})
    lines = [f"{name}/{i}.png,{name},patient {name}{i // 2}" for name in "ab" for i in range(12)]
    (root / "list.csv").write_text("\n".join(["image_path,label,patient", *lines]))
    return root / "list.csv"


def test_groups_that_a_column_names_stay_whole_in_packed_data(tmp_path):
    patients = write_patients(tmp_path)
    packed = pack(patients, tmp_path / "packed", group_by="patient").out
    there, here = read_index(patients, "patient"), read_index(packed)
    assert list(here.groups) == list(there.groups)
    assert set(here.groups) == {f"patient {name}{i}" for name in "ab" for i in range(6)}
    assert here.digest() == there.digest() != read_index(patients).digest()
    assert pack(packed, tmp_path / "again").out.joinpath(SHARD_LIST).read_bytes() == (packed / SHARD_LIST).read_bytes()


def test_other_groups_can_be_asked_of_packed_data(tmp_path):
    packed = pack(write_patients(tmp_path), tmp_path / "packed", group_by="patient").out
    assert set(read_index(packed, "[ab]/[0-9]").groups) == {f"{name}/{i}" for name in "ab" for i in range(10)}
    assert list(read_index(packed, "group").groups) == list(read_index(packed).groups)


# --- interrupted ---


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("where", "after"),
    [("_read", 0), ("_read", 1), ("_read", 30), ("_read", 53), ("replace_file", 2), ("read_shards", 0)],
)
def test_a_killed_packing_leaves_nothing_that_reads_as_packed_and_the_next_starts_afresh(
    colours, tmp_path, small, where, after
):
    out = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, str(colours), str(out), where, str(after)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.resnetv2.tmp").is_dir(), "killed in the middle, so it cleared nothing away"
    pack(colours, out, max_size=1)
    pack(colours, tmp_path / "clean", max_size=1)
    assert contents(out) == contents(tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "out"]


def test_a_failure_clears_what_was_written(colours, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(Error, match=r"cannot write .*: No space left on device"):
        pack(colours, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_vanishes_is_named(tmp_path, monkeypatch):
    root = write_dataset(tmp_path / "data", {"": {"a": 3, "b": 3}})
    index = read_index(root)
    monkeypatch.setattr(packing, "read_index", lambda *_, **__: index)
    (root / index.paths[4]).unlink()
    with pytest.raises(DataError, match=rf"cannot read .*{index.paths[4]}: No such file"):
        pack(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what is refused ---


def test_a_folder_that_holds_something_is_left_alone(colours, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(Error, match="not an empty folder"):
        pack(colours, tmp_path)
    with pytest.raises(Error, match="not an empty folder"):
        pack(colours, tmp_path / "letter.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_places_without_a_name_of_their_own_are_left_alone_too(colours, tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "letter.txt").write_text("dear")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(Error, match="not an empty folder"):
        pack(colours, name)


def test_an_empty_folder_is_filled(colours, tmp_path):
    (tmp_path / "out").mkdir()
    assert pack(colours, tmp_path / "out").pictures == 54
    assert (tmp_path / "out" / SHARD_LIST).is_file()


def test_a_packed_folder_inside_the_data_is_refused(colours):
    with pytest.raises(ConfigError, match="which is only read"):
        pack(colours, colours / "packed")
    assert not (colours / "packed").exists()


@pytest.mark.parametrize("size", [0, -1, 0.5, "1GB"])
def test_a_size_that_is_none_is_refused(colours, tmp_path, size):
    with pytest.raises(ConfigError, match="max_size must be a whole number"):
        pack(colours, tmp_path / "out", max_size=size)


# --- names ---


def test_names_that_are_no_ascii_and_no_utf8_survive(tmp_path):
    names = ["käse 🧀.png", "new\nline.png", 'comma, quote".png', "x" * 200 + ".png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"\xff\xfe.png"))
    for name in names:
        write_picture(tmp_path / "data" / "train" / "a" / name, noise(4, 4), format="PNG")
        write_picture(tmp_path / "data" / "train" / "b" / f"{len(name)}.png", noise(4, 4))
    packed = pack(tmp_path / "data", tmp_path / "out").out
    assert read_index(packed).digest() == read_index(tmp_path / "data").digest()
    with tarfile.open(packed / "shard-00000.tar") as tar:
        assert set(tar.getnames()) == set(read_index(packed).paths)


def test_pictures_outside_the_folder_of_a_csv_are_unpacked_inside(tmp_path):
    inside, beside = write_picture(tmp_path / "d" / "in.png"), write_picture(tmp_path / "x" / "beside.png")
    far = write_picture(tmp_path / "far.png")
    (tmp_path / "d" / "l.csv").write_text(f"image_path,label\nin.png,a\n../x/beside.png,b\n{far},a\n")
    packed = pack(tmp_path / "d" / "l.csv", tmp_path / "out").out
    index = read_index(packed)
    assert list(index.paths) == ["in.png", "x/beside.png", far.as_posix().lstrip("/")]
    assert [place.read_bytes() for place in index.split("all").paths] == [p.read_bytes() for p in (inside, beside, far)]
    with tarfile.open(packed / "shard-00000.tar") as tar:
        assert all(not Path(name).is_absolute() and ".." not in name for name in tar.getnames())


def test_two_pictures_that_would_be_unpacked_over_each_other_are_refused(tmp_path):
    for path in (tmp_path / "d" / "1.png", tmp_path / "1.png"):
        write_picture(path)
    (tmp_path / "d" / "l.csv").write_text("image_path,label\n1.png,a\n../1.png,b\n")
    with pytest.raises(DataError, match=r"1\.png and \.\./1\.png would both be unpacked as 1\.png"):
        pack(tmp_path / "d" / "l.csv", tmp_path / "out")


def test_from_the_shell(colours, tmp_path):
    done = command("pack", colours, tmp_path / "out", "--max-size", "1")
    assert done.returncode == 0, done.stderr
    assert "54 pictures" in done.stdout
    done = command("pack", colours, tmp_path / "out")
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
