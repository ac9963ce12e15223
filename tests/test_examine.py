"""What is told of one picture file, that it is remembered, and that no file is too strange to be answered."""

import hashlib
import os
import struct
import sys
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import fuzz_pictures
import numpy as np
import pytest
from fuzz_pictures import fuzz
from pictures import encode, noise, write_dataset, write_picture
from PIL import Image

from resnetv2.data import examine as module
from resnetv2.data.examine import examine, examine_pictures
from resnetv2.data.index import Index, read_index
from resnetv2.data.packing import pack

LONG_AGO = 1_500_000_000


def index_of(root, names=None):
    """Return an index of files as they are, without looking at them."""
    names = names or sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())
    return Index(root, tuple(names), np.zeros(len(names), np.int64), np.array(["train"] * len(names)), ("x",))


def age(root):
    """Make files old enough to be remembered."""
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """Count the pictures that are decoded, with an empty cache."""
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    counted = []

    def counting(data):
        counted.append(len(data))
        return examine(data)

    monkeypatch.setattr(module, "examine", counting)
    return counted


def test_the_facts_are_those_of_the_file():
    picture = noise(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = encode(picture.convert("CMYK"), "JPEG", exif=exif)
    facts = examine(data)
    assert (facts["width"], facts["height"], facts["bytes"]) == (40, 60, len(data))
    assert (facts["format"], facts["mode"], bool(facts["turned"])) == (b"JPEG", b"CMYK", True)
    assert facts["sha256"].tobytes() == hashlib.sha256(data).digest()
    grey = np.asarray(noise(60, 40).convert("L"), np.float64)
    facts = examine(encode(noise(60, 40)))
    assert facts["mean"] == pytest.approx(grey.mean(), rel=1e-6)  # float32 holds seven digits
    assert facts["spread"] == pytest.approx(grey.std(), rel=1e-6)
    assert not facts["turned"]


def test_the_orientation_of_a_png_counts_wherever_it_stands():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(noise(9, 8), exif=exif)
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    behind = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert examine(data)["turned"]
    assert examine(behind)["turned"]


def test_pixels_are_equal_in_lossless_copies_and_in_no_others():
    picture = noise(50, 40)
    copies = [encode(picture, "PNG"), encode(picture, "BMP"), encode(picture, "WEBP", lossless=True)]
    assert len({examine(data)["pixels"].tobytes() for data in copies}) == 1
    turned = encode(Image.frombytes("RGB", (40, 50), picture.tobytes()))  # the same bytes in another shape
    pixels = [examine(data)["pixels"].tobytes() for data in (copies[0], turned, encode(picture, "JPEG"))]
    assert len(set(pixels)) == 3


def test_a_second_look_decodes_nothing_and_says_the_same(decoded, tmp_path):
    data = tmp_path / "data"
    for i in range(20):
        write_picture(data / f"{i}.png")
    age(data)
    first = examine_pictures(index_of(data))
    assert len(decoded) == 20
    seen = []
    second = examine_pictures(index_of(data), lambda done, total: seen.append((done, total)))
    assert len(decoded) == 20
    assert np.array_equal(first.facts, second.facts)
    assert first.facts["width"].all()


def test_only_what_changed_is_decoded_again(decoded, tmp_path):
    data = tmp_path / "data"
    for i in range(5):
        write_picture(data / f"{i}.bmp", noise(8, 8, i))
    age(data)
    examine_pictures(index_of(data))
    size = (data / "3.bmp").stat().st_size
    write_picture(data / "3.bmp", noise(8, 8, 99))
    assert (data / "3.bmp").stat().st_size == size
    os.utime(data / "3.bmp", (LONG_AGO + 1, LONG_AGO + 1))
    (data / "4.bmp").rename(data / "5.bmp")
    facts = examine_pictures(index_of(data)).facts
    assert len(decoded) == 5 + 2
    assert facts["sha256"][3].tobytes() == hashlib.sha256((data / "3.bmp").read_bytes()).digest()


def test_pictures_in_shards_are_remembered_until_their_shard_changes(decoded, tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            write_picture(tmp_path / "data" / name / f"{i}.png", noise(8, 8, i))
    packed = pack(tmp_path / "data", tmp_path / "packed").out
    age(packed)
    first = examine_pictures(read_index(packed)).facts
    assert np.array_equal(examine_pictures(read_index(packed)).facts, first)
    assert len(decoded) == 6
    os.utime(packed / "shard-00000.tar", (LONG_AGO + 1, LONG_AGO + 1))
    assert np.array_equal(examine_pictures(read_index(packed)).facts, first)
    assert len(decoded) == 12


def test_a_part_of_the_pictures_does_not_drive_the_others_out(decoded, tmp_path):
    data = tmp_path / "data"
    for i in range(6):
        write_picture(data / f"{i}.png")
    age(data)
    examine_pictures(index_of(data, ["0.png", "1.png", "2.png"]))
    examine_pictures(index_of(data, ["3.png", "4.png", "5.png"]))
    examine_pictures(index_of(data))
    assert len(decoded) == 6


def test_a_file_that_has_just_changed_is_not_remembered(decoded, tmp_path):
    write_picture(tmp_path / "data" / "0.png")
    for _ in range(2):
        examine_pictures(index_of(tmp_path / "data"))
    assert len(decoded) == 2


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-7], lambda b: b[:50] + b"\xff" + b[51:], bytes.upper])
def test_a_damaged_memory_is_none(decoded, tmp_path, damage):
    write_picture(tmp_path / "data" / "0.png")
    age(tmp_path / "data")
    first = examine_pictures(index_of(tmp_path / "data")).facts
    (kept,) = (tmp_path / "cache" / "facts").iterdir()
    before = kept.read_bytes()
    kept.write_bytes(damage(before))
    assert kept.read_bytes() != before
    assert np.array_equal(examine_pictures(index_of(tmp_path / "data")).facts, first)
    assert len(decoded) == 2
    assert kept.read_bytes() == before  # and it is mended


def test_a_cache_that_cannot_be_written_is_said_and_harmless(decoded, tmp_path, monkeypatch, capsys):
    write_picture(tmp_path / "data" / "0.png")
    age(tmp_path / "data")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "file" / "below"))
    assert examine_pictures(index_of(tmp_path / "data")).facts["width"][0] == 8
    assert "warning: the next check will be as slow as this one: cannot write" in capsys.readouterr().err


def test_a_reason_is_not_remembered(decoded, tmp_path):
    path = tmp_path / "data" / "0.png"
    write_picture(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] + bytes(30))
    age(tmp_path / "data")
    assert 0 in examine_pictures(index_of(tmp_path / "data")).reasons
    path.write_bytes(whole)  # of the same size, and
    age(tmp_path / "data")  # of the same time
    assert not examine_pictures(index_of(tmp_path / "data")).reasons


def test_every_picture_with_a_reason_is_told_in_order_and_progress_ends_with_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    for i in range(8):
        write_picture(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(b"hello")
    seen = []
    names = [*(f"{i}.png" for i in range(8)), "gone.png"]
    found = examine_pictures(index_of(tmp_path, names), lambda done, total: seen.append((done, total)))
    assert list(found.reasons) == [2, 5, 8]
    starts = ["the file is empty", "not a picture in a known format", "No such file"]
    assert all(reason.startswith(s) for reason, s in zip(found.reasons.values(), starts, strict=True))
    assert seen == [(3, 9), (6, 9), (9, 9)]


def test_a_picture_costs_a_few_hundred_bytes_of_memory(decoded, tmp_path, monkeypatch):
    n = 20_000
    (tmp_path / "data").mkdir()
    facts = examine(encode(noise(4, 4)))
    monkeypatch.setattr(module, "_examine", lambda *_: facts)
    keys = np.random.default_rng(0).integers(1, 2**63, (n, 2)).astype(np.uint64)
    monkeypatch.setattr(module, "file_keys", lambda root, paths: keys.copy())
    index = index_of(tmp_path / "data", [f"{i}.png" for i in range(n)])
    for _ in range(2):  # with an empty cache, and from it
        tracemalloc.start()
        assert len(examine_pictures(index).facts) == n
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000 * n  # three or four copies of a row of 150 bytes, and what other threads happen to take


@pytest.mark.parametrize("large", ["file", "picture"])
def test_large_pictures_are_taken_one_at_a_time_and_the_others_beside_them(tmp_path, monkeypatch, large):
    for i in range(6):
        write_picture(
            tmp_path / f"large{i}.png", noise(90, 90, i) if large == "file" else Image.new("L", (300, 300), i)
        )
        write_picture(tmp_path / f"small{i}.png", noise(8, 8, i))
    monkeypatch.setattr(module, "_LARGE", 10_000)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    under_way, most, lock = [], {"large": 0, "all": 0}, threading.Lock()

    def slow(data):
        facts = examine(data)
        with lock:
            under_way.append(int(facts["width"]))
            most["large"] = max(most["large"], sum(width > 8 for width in under_way))
            most["all"] = max(most["all"], len(under_way))
        time.sleep(0.02)
        with lock:
            under_way.remove(int(facts["width"]))
        return facts

    monkeypatch.setattr(module, "examine", slow)
    found = examine_pictures(index_of(tmp_path))
    assert not found.reasons
    assert most["large"] == 1
    assert most["all"] > 1


def test_pixels_are_hashed_as_one_whatever_the_strips(monkeypatch):
    data = encode(noise(60, 41))
    whole = examine(data)["pixels"].tolist()
    monkeypatch.setattr(module, "_STRIP", 500)
    assert examine(data)["pixels"].tolist() == whole
    shape = hashlib.blake2b(b"60 41 " + noise(60, 41).tobytes(), digest_size=16)
    assert whole == np.frombuffer(shape.digest(), np.uint64).tolist()


def test_a_jpeg_cut_at_every_kilobyte_is_refused(tmp_path):
    data = encode(noise(240, 200), "JPEG")
    assert len(data) > 20_000
    for size in range(0, len(data) - 2, 1024):
        (tmp_path / f"{size}.jpg").write_bytes(data[:size])
    found = examine_pictures(index_of(tmp_path))
    assert len(found.reasons) == len(found.facts) == len(range(0, len(data) - 2, 1024))


def bomb():
    """Return a PNG of a few hundred bytes that claims 100,000 × 100,000 pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_what_is_no_honest_picture_file_has_a_reason(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    os.mkfifo(tmp_path / "pipe.png")  # a reader would wait for ever
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    names = ["bomb.png", "folder.png", "pipe.png", "self.png", "sparse.png", "nul\0.png", "long" * 999 + ".png"]
    reasons = examine_pictures(index_of(tmp_path, names)).reasons
    assert "pixels" in reasons[0]
    assert (reasons[1], reasons[2]) == ("a folder, and a picture file is expected here", "not a regular file")
    assert "symbolic links" in reasons[3]
    assert reasons[4].startswith("1,099,511,627,776 bytes, more than the")
    assert "null" in reasons[5]
    assert "too long" in reasons[6]


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 30_000), (2, 3)])
def test_pictures_of_extreme_shapes_have_facts(size):
    facts = examine(encode(noise(*size)))
    assert (facts["width"], facts["height"]) == size


def test_mutated_pictures_are_answered_or_refused_the_same_way_by_every_reader():
    tally = fuzz(0, 800)
    assert tally["answered"] + tally["refused"] == 800
    assert min(tally["answered"], tally["refused"]) > 150  # the mutations are neither harmless nor all deadly


@pytest.mark.slow
def test_ten_thousand_mutated_pictures_are_answered_or_refused():
    tallies = [fuzz(first, 1000) for first in range(0, 10_000, 1000)]
    assert sum(tally["answered"] + tally["refused"] for tally in tallies) == 10_000


def test_a_case_that_hangs_or_crashes_is_told_by_its_number(monkeypatch, tmp_path):
    script = tmp_path / "fuzz_pictures.py"
    source = Path(fuzz_pictures.__file__).read_text()
    for fault, words in (("os.abort()", "Abort"), ("time.sleep(60)", "Timeout"), ("raise KeyError(1)", "KeyError")):
        body = source.replace("def attempt(data):", f"def attempt(data):\n    import os; {fault}", 1)
        script.write_text(body.replace("PATIENCE = 10", "PATIENCE = 1"))
        monkeypatch.setattr(fuzz_pictures, "__file__", str(script))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        with pytest.raises(AssertionError, match=rf"case 7: exit code (.|\n)*{words}"):
            fuzz(7, 2)


def test_an_interrupted_check_keeps_what_it_has_seen(tmp_path, monkeypatch):
    index = read_index(write_dataset(tmp_path / "data", {"train": {"a": 300, "b": 300}}, 8))
    for path in index.paths:
        os.utime(index.root / path, (1_500_000_000, 1_500_000_000))  # what has just changed is not remembered
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))

    def stop(done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine_pictures(index, stop)
    told = []
    examine_pictures(index, lambda done, total: told.append(done))
    assert told[0] > 300


def test_files_of_one_size_and_time_that_change_places_are_seen_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    for name in "ab":
        write_picture(tmp_path / "data" / name / "picture.bmp", noise(8, 8, ord(name)))
    index = read_index(tmp_path / "data")
    files = [index.root / path for path in index.paths]
    assert len({file.stat().st_size for file in files}) == 1
    for file in files:
        os.utime(file, (1_500_000_000, 1_500_000_000))
    first = examine_pictures(index).facts["sha256"].tolist()
    files[0].rename(tmp_path / "x")
    files[1].rename(files[0])
    (tmp_path / "x").rename(files[1])
    assert examine_pictures(index).facts["sha256"].tolist() == first[::-1]
