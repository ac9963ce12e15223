import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_picture
from safetensors.numpy import save_file

from resnetv2.errors import Error, ModelFileError
from resnetv2.weights.sealed import read_seal, read_sealed, write_sealed

HEADER = {
    "kind": "thing",
    "names": ["Käse 🧀", "b"],
    "figures": {"loss": 0.1, "n": 3, "none": None, "inf": float("inf")},
}
TENSORS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "bytes": np.arange(30, dtype=np.uint8),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(2.5, np.float32),
    "truth": np.array([True, False]),
    "whole": np.arange(3, dtype=np.int64),
    "half": np.arange(3, dtype=np.float16),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def path(tmp_path):
    """Return a sealed file."""
    write_sealed(tmp_path / "x.safetensors", HEADER, TENSORS)
    return tmp_path / "x.safetensors"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


def assert_refused(path, words="", read=read_sealed):
    """Reading must end in one error that names the file."""
    with pytest.raises(ModelFileError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_header_and_tensors_come_back(path):
    header, tensors = read_sealed(path)
    assert header == HEADER
    assert read_seal(path) == HEADER
    assert_same(tensors, TENSORS)


@given(st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON))
def test_any_json_header_comes_back(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write_sealed(path, header, {})
    assert read_sealed(path) == (header, {})


def test_text_that_is_no_utf8_comes_back(path):
    header = {"path": os.fsdecode(b"caf\xe9 \xff")}
    write_sealed(path, header, {})
    assert read_sealed(path)[0] == header


def test_equal_content_gives_equal_bytes(path):
    before = path.read_bytes()
    write_sealed(path, dict(reversed(HEADER.items())), dict(reversed(TENSORS.items())))
    assert path.read_bytes() == before
    write_sealed(path, *read_sealed(path))
    assert path.read_bytes() == before


def test_tensors_in_any_layout_come_back(path):
    square = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {"turned": square.T, "stepped": square[:, ::2, ::-1], "wide": np.broadcast_to(square[0, 0], (5, 4))}
    write_sealed(path, {}, tensors)
    assert_same(read_sealed(path)[1], tensors)


def test_a_truncated_file_is_refused_at_every_length(path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert_refused(path)
        assert_refused(path, read=read_seal)


def test_a_longer_file_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    assert_refused(path)


def test_a_flipped_bit_anywhere_is_refused(path):
    data, accepted = path.read_bytes(), []
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            header, tensors = read_sealed(path)
        except ModelFileError:
            continue
        assert header == HEADER
        assert_same(tensors, TENSORS)
        accepted.append(chr(data[place]))
    assert set(accepted) <= set("abcdef")  # JSON may write the hexadecimal digits of an escape large or small


def test_several_damaged_bytes_are_refused(path):
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.choice(len(data), 5, replace=False):
            damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        assert_refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tensors: header.update(kind="other"),
        lambda header, tensors: header["names"].reverse(),
        lambda header, tensors: header.update(more=1),
        lambda header, tensors: header.pop("figures"),
        lambda header, tensors: tensors.pop("none"),
        lambda header, tensors: tensors.update(more=np.zeros(1)),
        lambda header, tensors: tensors.update(weight=tensors["weight"].reshape(4, 3)),
        lambda header, tensors: tensors.update(bytes=tensors["bytes"].astype(np.int8)),
        lambda header, tensors: tensors.update(one=tensors["whole"], whole=tensors["one"]),
    ],
)
def test_content_under_the_digest_of_other_content_is_refused(path, change):
    header, tensors = json.loads(json.dumps(HEADER)), dict(TENSORS)
    digest = json.loads(read_text(path))["sha256"]
    change(header, tensors)
    save_file(tensors, path, {"resnetv2": json.dumps({**header, "sha256": digest})})
    assert_refused(path, "was changed after it was written: its SHA-256 does not match")


def read_text(path):
    """Return the header text as it stands in the file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]["resnetv2"]


def test_the_header_alone_is_read_without_the_tensors_and_their_digest(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert read_seal(path) == HEADER
    assert_refused(path, "SHA-256")


@pytest.mark.parametrize("read", [read_seal, read_sealed])
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", '"text"', "[" * 100_000, '{"a":' * 800 + "1" + "}" * 800, '{"n":' + "9" * 5000 + "}"],
)
def test_a_header_that_is_no_json_object_is_refused(path, text, read):
    save_file({}, path, {"resnetv2": text})
    if text.startswith('{"a"') and read is read_seal:
        assert set(read(path)) == {"a"}  # deep, but JSON: what it should hold is for the caller to say
    else:
        assert_refused(path, read=read)


@pytest.mark.parametrize("read", [read_seal, read_sealed])
@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"sha256": "0" * 64}])
def test_a_foreign_safetensors_file_is_refused(path, metadata, read):
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata)
    assert_refused(path, "not one that resnetv2 wrote", read)


def test_a_number_type_that_numpy_lacks_is_refused(path):
    header = {"__metadata__": {"resnetv2": "{}"}, "w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert_refused(path)


@pytest.mark.parametrize("read", [read_seal, read_sealed])
def test_other_files_are_refused(tmp_path, read):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello world, this is no model file at all")
    (tmp_path / "zip").write_bytes(b"PK\x03\x04" + bytes(1000))
    (tmp_path / "ones").write_bytes(b"\xff" * 1000)
    for name in ("empty", "text", "zip", "ones"):
        assert_refused(tmp_path / name, "no readable model file", read)
    assert_refused(write_picture(tmp_path / "x.png"), "no readable model file", read)
    assert_refused(tmp_path / "nowhere", "no such file", read)
    assert_refused(tmp_path, "is a folder; a file such as", read)


@pytest.mark.parametrize("length", [2**63, 2**40, 2**31, 100_000_000, 99_999_999, 5_000])
def test_a_header_that_claims_to_be_long_is_refused_without_room_for_it(tmp_path, length):
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", length) + b"{" * 1000)
    assert_refused(path, "no readable model file")


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from resnetv2.errors import Error
from resnetv2.weights.sealed import write_sealed

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: an error instead of a signal
for size in (0, 100, 5_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write_sealed(Path(sys.argv[1]), {}, {"w": np.zeros(100_000, np.float32)})
    except Error as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_on_a_full_disk_the_error_names_the_file_and_the_old_one_stays(path):
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count(f"cannot write {path}: ") == 3
    assert done.stdout.count("File too large") == 3
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


def test_a_folder_in_the_way_is_an_error(tmp_path):
    with pytest.raises(Error, match="cannot write"):
        write_sealed(tmp_path, HEADER, TENSORS)
