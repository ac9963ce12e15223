"""Checkpoint files, honest and hostile: every format read, every writer read back, damage told as an error."""

import hashlib
import io
import json
import os
import struct
import zipfile
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from resnetv2.config import architecture
from resnetv2.conversion import read_checkpoint, write_checkpoint
from resnetv2.conversion.formats import budget, npz, onnx, params
from resnetv2.conversion.readers import detect, read_tensors
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import write
from resnetv2.errors import ConvertError, Error, MissingExtra
from resnetv2.shapes import tensor_shapes

TENSORS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(1.5, np.float64),
    "step": np.array([7], np.int64),
}


def network(dialect, **changes):
    """Return a small network's config and random weights."""
    fields = {"depths": (2, 1, 1, 1), "width_factor": 0.5, "num_classes": 5, **changes}
    config = architecture("resnet50v2", dialect, **fields)
    generator = np.random.default_rng(0)
    weights = {n: generator.normal(size=s).astype(np.float32) for n, s in tensor_shapes(config).items()}
    if config.input_norm:
        weights["input_norm.weight"][:] = 1
    return config, weights


def same(left, right):
    assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in left.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in right.items()
    }


# --- formats ----------------------------------------------------------------------------------------------------------


def encode_params(tensors, version="v2"):
    """Return MXNet's container as MXNet writes it; "old" is the one from before 2016's end."""
    kinds = {"float32": 0, "float64": 1, "float16": 2, "int64": 6}
    out = [struct.pack("<QQQ", 0x112, 0, len(tensors))]
    for value in tensors.values():
        if version == "old":
            out.append(struct.pack(f"<I{value.ndim}I", value.ndim, *value.shape))
        else:
            out.append(struct.pack("<I", 0xF993FAC9) + struct.pack("<i", 0) if version == "v2" else b"\xc8\xfa\x93\xf9")
            out.append(struct.pack(f"<I{value.ndim}q", value.ndim, *value.shape))
        out.append(struct.pack("<iii", 1, 0, kinds[value.dtype.name]) + value.tobytes())
    out.append(struct.pack("<Q", len(tensors)))
    out += [struct.pack("<Q", len(name)) + name.encode() for name in tensors]
    return b"".join(out)


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def encode_onnx(tensors, *, raw=True, packed=True, extra=b""):
    """Return an ONNX model that holds the tensors as initializers and nothing else."""
    kinds = {"float32": 1, "float64": 11, "float16": 10, "int64": 7}
    graph = b""
    for name, value in tensors.items():
        dims = b"".join(map(varint, value.shape)) if packed else None
        message = field(1, dims) if packed else b"".join(field(1, d) for d in value.shape)
        message += field(2, kinds[value.dtype.name]) + field(8, name.encode())
        message += field(9 if raw else 4, value.tobytes()) + extra
        graph += field(5, message)
    return field(1, 3) + field(2, b"test") + field(7, graph)


def save_as(kind, path):
    if kind == "safetensors":
        save_file(TENSORS, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **TENSORS)
    elif kind == "pytorch":
        torch.save({name: torch.from_numpy(np.atleast_1d(value)) for name, value in TENSORS.items()}, path)
    elif kind == "onnx":
        path.write_bytes(encode_onnx(TENSORS))
    else:
        path.write_bytes(encode_params({n: np.atleast_1d(v) for n, v in TENSORS.items()}))


SUFFIXES = {"safetensors": "safetensors", "npz": "weights", "pytorch": "bin", "onnx": "onnx", "params": "params"}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_each_format_is_told_by_its_content_and_gives_back_the_same_bytes(kind, tmp_path):
    path = tmp_path / f"x.{SUFFIXES[kind]}"
    save_as(kind, path)
    found, tensors = read_tensors(path)
    assert found == kind
    expected = TENSORS if kind in ("safetensors", "npz", "onnx") else {n: np.atleast_1d(v) for n, v in TENSORS.items()}
    same(tensors, expected)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_cut_anywhere_is_an_error_and_never_half_read(kind, tmp_path):
    path = tmp_path / f"x.{SUFFIXES[kind]}"
    save_as(kind, path)
    data = path.read_bytes()
    cuts = [len(data) // 2] if kind == "pytorch" else range(0, len(data), 7)  # each .pth opens in its own process
    for length in [*cuts, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ConvertError, match=path.name):
            read_tensors(path)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "onnx", "params"])
def test_flipped_bits_give_an_error_or_other_numbers_and_nothing_else(kind, tmp_path):
    path = tmp_path / f"x.{SUFFIXES[kind]}"
    save_as(kind, path)
    data = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(broken)
        try:
            _, tensors = read_tensors(path)
        except Error:
            continue
        assert all(isinstance(value, np.ndarray) for value in tensors.values())


def test_a_missing_file_a_folder_and_a_foreign_file_are_errors(tmp_path):
    (tmp_path / "x.txt").write_text("hello, this is text")
    for path, text in ((tmp_path / "no", "no such file"), (tmp_path, "is a folder"), (tmp_path / "x.txt", "none of")):
        with pytest.raises(ConvertError, match=text):
            read_tensors(path)


@pytest.mark.parametrize("version", ["v1", "v2", "old"])
def test_each_age_of_mxnets_container_is_read(version, tmp_path):
    path = tmp_path / "x.params"
    tensors = {"arg:w": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "aux:m": np.arange(2, dtype=np.float64)}
    path.write_bytes(encode_params(tensors, version))
    same(params.read_params(path), tensors)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (struct.pack("<QQQ", 0x112, 0, 1 << 60), "claims 1,152,921,504,606,846,976 tensors"),
        (struct.pack("<QQQI", 0x112, 0, 1, 1000), "claims 1000 dimensions"),
        (struct.pack("<QQQII2qiii", 0x112, 0, 1, 0xF993FAC8, 2, 1 << 40, 1 << 40, 1, 0, 0), "more than 16 GiB"),
        (struct.pack("<QQQII2qiii", 0x112, 0, 1, 0xF993FAC8, 2, 1 << 10, 1 << 10, 1, 0, 0), "ends before 4,194,304"),
        (struct.pack("<QQQII1qiii", 0x112, 0, 1, 0xF993FAC8, 1, -1, 1, 0, 0), "no array of numbers"),
        (struct.pack("<QQQIi", 0x112, 0, 1, 0xF993FAC9, 1), "sparse"),
        (encode_params(TENSORS | {"b": np.ones(1)}) + b"x", "after the last name"),
    ],
)
def test_what_a_params_file_claims_is_checked_before_memory_is_taken(data, text, tmp_path):
    (tmp_path / "x.params").write_bytes(data)
    with pytest.raises(ConvertError, match=text):
        read_tensors(tmp_path / "x.params")


@pytest.mark.parametrize(("raw", "packed"), [(True, True), (True, False), (False, True), (False, False)])
def test_onnx_numbers_are_read_from_either_field_and_dimensions_packed_or_not(raw, packed, tmp_path):
    path = tmp_path / "x.onnx"
    tensors = {"w": np.arange(300, dtype=np.float32).reshape(1, 300)}
    path.write_bytes(encode_onnx(tensors, raw=raw, packed=packed))
    same(onnx.read_onnx(path), tensors)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (encode_onnx({"w": np.ones(2, np.float32)}, extra=field(14, 1)), "kept in another file"),
        (encode_onnx({"w": np.ones(2, np.float32)}, extra=field(13, b"../../secret")), "kept in another file"),
        (encode_onnx({"w": np.ones(2, np.float32)}, extra=field(1, 1 << 39)), "claims the shape"),
        (encode_onnx({"w": np.ones(2, np.float32)}, extra=field(1, 3)), "claims 24 bytes and has 8"),
        (encode_onnx({"w": np.ones(2, np.float32)}, extra=field(2, 8)), "unknown data type 8"),
        (encode_onnx({}), "without initializers"),
        (field(7, field(5, b"\xff" * 11)), "a number without end"),
        (field(7, field(5, b"\x0b")), "wire type 3"),
    ],
)
def test_onnx_files_that_point_elsewhere_or_claim_what_they_have_not_are_refused(model, text, tmp_path):
    (tmp_path / "x.onnx").write_bytes(model)
    with pytest.raises(ConvertError, match=text):
        read_tensors(tmp_path / "x.onnx")


def npy(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def claim(shape, descr="<f4", data=b""):
    """Return a .npy array whose header claims ``shape``."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([("a.npy", npy(np.array([{}], object)))], "no array of numbers: object"),
        ([("a.npy", npy(np.array(["text"])))], "no array of numbers"),
        ([("a.npy", claim((1 << 40,)))], "more than 16 GiB"),
        ([("a.npy", claim((1 << 20,)))], "claims 4,194,304 bytes and has 0"),
        ([("a.npy", claim((1,), data=b"12345678"))], "claims 4 bytes and has 8"),
        ([("a.npy", claim((-1,)))], "no array of numbers"),
        ([("a.npy", npy(np.ones(1))), ("a.npy", npy(np.ones(2)))], "there twice"),
        ([("a.npy", npy(np.ones(1))), ("../../etc/passwd", b"")], r"is no \.npy array"),
        ([("a.npy", b"\x93NUMPY\7\0")], "unknown .npy version"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_npz_members_are_refused(members, text, tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    with pytest.raises(ConvertError, match=text):
        read_tensors(path)
    assert os.listdir(tmp_path) == ["x.npz"]  # noqa: PTH208


def test_a_zip_bomb_is_refused_by_what_it_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MAX_BYTES", 1 << 20)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(1 << 20, np.float32))
    assert path.stat().st_size < 10_000
    with pytest.raises(ConvertError, match="the file claims more than"):
        npz.read_npz(path)


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "evil": Evil()}, "x.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(ConvertError, match="torch does not open it as weights"):
        read_tensors(tmp_path / "x.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_a_pytorch_file_may_wrap_its_tensors_in_a_state_dict_and_holds_bfloat16(tmp_path):
    state = OrderedDict(w=torch.arange(3).to(torch.bfloat16), b=torch.nn.Parameter(torch.ones(2)))
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pth")
    _, tensors = read_tensors(tmp_path / "x.pth")
    same(tensors, {"w": np.arange(3, dtype=np.float32), "b": np.ones(2, np.float32)})
    torch.save({"w": torch.ones(2), "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(ConvertError, match="not a dict of tensors by name: 'epoch'"):
        read_tensors(tmp_path / "x.pth")


def test_a_safetensors_file_in_bfloat16_gives_the_same_numbers_in_float32(tmp_path):
    from safetensors.torch import save_file as save_torch

    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).reshape(256, 256)
    save_torch({"a": torch.ones(3), "w": every, "z": every[:0]}, tmp_path / "x.safetensors")
    _, tensors = read_tensors(tmp_path / "x.safetensors")
    same(tensors, {"a": np.ones(3, np.float32), "w": every.float().numpy(), "z": np.zeros((0, 256), np.float32)})


def test_a_bfloat16_tensor_that_is_cut_is_an_error(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"123")
    with pytest.raises(ConvertError, match=r"x\.safetensors"):
        read_tensors(tmp_path / "x.safetensors")


# --- HDF5 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="the convert extra is not installed")


def hostile_hdf5(h5py, path, trick):  # noqa: C901  a branch for each trick
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["secret"] = np.ones(3, np.float32)
    path.with_name("raw").write_bytes(b"12345678")
    with h5py.File(path, "w") as file:
        file["good"] = np.ones(2, np.float32)
        if trick == "external link":
            file["x"] = h5py.ExternalLink("other.h5", "/secret")
        elif trick == "soft link":
            file["x"] = h5py.SoftLink("/good")
        elif trick == "second name":
            file["x"] = file["good"]
        elif trick == "circle":
            file.create_group("x")["x"] = file["/"]
        elif trick == "external storage":
            file.create_dataset("x", (2,), np.float32, external=[(str(path.with_name("raw")), 0, 8)])
        elif trick == "virtual":
            layout = h5py.VirtualLayout((3,), np.float32)
            layout[:] = h5py.VirtualSource("other.h5", "secret", (3,))
            file.create_virtual_dataset("x", layout)
        elif trick == "text":
            file["x"] = "text"
        elif trick == "huge":
            file.create_dataset("x", (1 << 40,), np.float32, chunks=(1 << 16,))
        elif trick == "empty":
            file["x"] = h5py.Empty("f4")
        elif trick == "deep":
            file.create_dataset("/".join("x" * 20), data=np.ones(1, np.float32))


TRICKS = ("external link", "soft link", "second name", "circle", "external storage", "virtual", "text", "huge", "empty")


@pytest.mark.parametrize("trick", [*TRICKS, "deep"])
def test_hdf5_files_that_point_elsewhere_or_hold_no_numbers_are_refused(h5py, trick, tmp_path):
    hostile_hdf5(h5py, tmp_path / "x.h5", trick)
    with pytest.raises(ConvertError, match="x"):
        read_tensors(tmp_path / "x.h5")


def test_a_cut_hdf5_file_is_an_error(h5py, tmp_path):
    hostile_hdf5(h5py, tmp_path / "x.h5", "none")
    same(read_tensors(tmp_path / "x.h5")[1], {"good": np.ones(2, np.float32)})
    data = (tmp_path / "x.h5").read_bytes()
    for length in range(8, len(data), 97):
        (tmp_path / "x.h5").write_bytes(data[:length])
        with pytest.raises(ConvertError, match=r"x\.h5"):
            read_tensors(tmp_path / "x.h5")


def test_the_weights_inside_a_keras_archive_are_read(h5py, tmp_path):
    hostile_hdf5(h5py, tmp_path / "x.h5", "none")
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.write(tmp_path / "x.h5", "model.weights.h5")
        archive.writestr("config.json", "{}")
    kind, tensors = read_tensors(tmp_path / "x.keras")
    assert kind == "keras"
    same(tensors, {"good": np.ones(2, np.float32)})


@pytest.fixture
def preset(h5py, tmp_path):
    """Return the folder of a KerasHub preset, with the network in it."""
    config, weights = network("torch")
    theirs = write(weights, PUBLISHERS["kerashub3"].rules(config), config)
    folder = tmp_path / "preset"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with (
        h5py.File(folder / "model.weights.h5", "w") as backbone,
        h5py.File(folder / "task.weights.h5", "w") as head,
    ):
        for name, value in theirs.items():
            (head if name.startswith("layers/dense/") else backbone)[name] = value
        head["optimizer/vars/0"] = np.int64(7)
    return folder, config, weights


def test_a_preset_of_keras_hub_is_read_from_both_its_files(preset):
    folder, config, weights = preset
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config == config
    same(checkpoint.weights, weights)
    expected = {"source": "kerashub3", "format": "preset", "file": "preset", "left_out": ["optimizer/vars/0"]}
    assert {key: checkpoint.provenance[key] for key in expected} == expected
    both = [(folder / name).read_bytes() for name in ("model.weights.h5", "task.weights.h5")]
    assert checkpoint.provenance["sha256"] == hashlib.sha256(b"".join(both)).hexdigest()


def test_a_preset_without_a_head_is_a_backbone(preset):
    folder, config, weights = preset
    (folder / "task.weights.h5").unlink()
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config == replace(config, num_classes=0)
    same(checkpoint.weights, {name: value for name, value in weights.items() if not name.startswith("head.")})


def test_the_head_of_a_preset_alone_is_an_error_that_asks_for_the_folder(preset):
    with pytest.raises(ConvertError, match=r"give the preset's folder, with its model\.weights\.h5"):
        read_checkpoint(preset[0] / "task.weights.h5")


def test_a_tensor_in_both_files_of_a_preset_is_an_error(preset, h5py):
    with h5py.File(preset[0] / "task.weights.h5", "a") as head:
        head["layers/conv2d/vars/0"] = np.ones(2)
    with pytest.raises(ConvertError, match=r"both files of the preset hold: layers/conv2d/vars/0"):
        read_checkpoint(preset[0])


def test_a_numbered_backbone_with_biases_needs_its_source_said(h5py, tmp_path):
    config, weights = network("kerascv", num_classes=0)
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for name, value in write(weights, PUBLISHERS["kerascv3"].rules(config), config).items():
            file[name] = value
    with pytest.raises(ConvertError, match=r"say which as source: 'keras3' .*'kerascv3'"):
        read_checkpoint(tmp_path / "x.weights.h5")
    checkpoint = read_checkpoint(tmp_path / "x.weights.h5", "kerascv3")
    assert checkpoint.config == config
    same(checkpoint.weights, weights)


def test_without_h5py_one_line_says_what_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(MissingExtra, match=r"resnetv2\[convert\]"):
        read_tensors(tmp_path / "x.h5")


# --- whole checkpoints ------------------------------------------------------------------------------------------------

WRITTEN = [
    ("timm", "torch", {}),
    ("timm", "torch", {"block": "basic"}),
    ("timm", "torch", {"stem": "deep", "projection_pool": True}),
    ("timm", "torch", {"stem": "deep", "projection_pool": True, "norm": "group", "width_factor": 1.0}),
    ("timm", "torch", {"stem": "deep", "projection_pool": True, "norm": "evonorm", "width_factor": 1.0}),
    ("timm", "bit", {"weight_std_eps": 1e-8}),
    ("huggingface", "bit", {"weight_std_eps": 1e-8}),
    ("bit", "bit", {}),
    ("keras", "keras", {}),
    ("keras", "keras", {"num_classes": 0}),
    ("keras3", "keras", {}),
    ("keras3", "keras", {"num_classes": 0}),
]


@pytest.mark.parametrize(("target", "dialect", "changes"), WRITTEN)
def test_a_written_checkpoint_is_read_back_with_the_same_network_and_bytes(target, dialect, changes, tmp_path):
    if target.startswith("keras"):
        pytest.importorskip("h5py", reason="the convert extra is not installed")
    config, weights = network(dialect, **changes)
    path = tmp_path / "checkpoint"
    write_checkpoint(path, config, weights, target)
    again = read_checkpoint(path, target)
    assert again.config == config
    same(again.weights, weights)
    assert again.provenance["source"] == target
    assert again.provenance["file"] == "checkpoint"
    assert len(again.provenance["sha256"]) == 64
    assert json.loads(json.dumps(again.provenance)) == again.provenance
    assert again.preprocessing is not None
    first = path.read_bytes()
    write_checkpoint(path, again.config, again.weights, target)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("target", "dialect", "changes", "text"),
    [
        ("timm", "torch", {"stem_pool": "zero"}, "stem_pool is 'zero' instead of 'ignore'"),
        ("timm", "pytorchcv-b", {}, "stem.norm"),
        ("timm", "keras", {}, "stem_pool is 'zero' instead of 'ignore'"),
        ("keras", "slim", {}, "stem_pool is 'same' instead of 'zero'"),
        ("keras", "torch", {}, "norm_eps is 1e-05 instead of 1.001e-05"),
        ("keras3", "slim", {}, "stem_pool is 'same' instead of 'zero'"),
        ("keras3", "kerascv", {"num_classes": 0}, "stem_pool is 'same' instead of 'zero'"),
        ("keras3", "keras", {"block": "basic"}, "not basic units after a 7x7 stem"),
        ("keras3", "keras", {"stem": "3x3"}, "not bottleneck units after a 3x3 stem"),
        ("bit", "torch", {}, "norm is 'batch' instead of 'group'"),
    ],
)
def test_a_network_that_the_publisher_does_not_have_is_not_written(target, dialect, changes, text, tmp_path):
    config, weights = network(dialect, **changes)
    with pytest.raises(ConvertError, match=text):
        write_checkpoint(tmp_path / "x", config, weights, target)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_not_written_is_an_error_that_names_the_nearest(tmp_path):
    config, weights = network("torch")
    with pytest.raises(ConvertError, match="did you mean 'timm'"):
        write_checkpoint(tmp_path / "x", config, weights, "timn")


def test_extras_are_left_out_and_named_and_a_foreign_tensor_is_an_error(tmp_path):
    config, weights = network("slim")
    theirs = write(weights, PUBLISHERS["slim"].rules(config), config)
    theirs = {f"resnet_v2_50/{name}": value for name, value in theirs.items()}
    theirs["global_step"] = np.array(7)
    path = tmp_path / "x.npz"
    np.savez(path, **theirs)
    checkpoint = read_checkpoint(path)
    assert checkpoint.provenance["left_out"] == ["global_step"]
    same(checkpoint.weights, weights)
    np.savez(path, **theirs, more=np.ones(2))
    with pytest.raises(ConvertError, match=r"the nearest is TF-Slim .*\n  unused: more"):
        read_checkpoint(path)


def test_gluons_and_the_zoos_files_are_read_whole(tmp_path):
    config, weights = network("gluon")
    theirs = write(weights, PUBLISHERS["gluon"].rules(config), config)
    (tmp_path / "x.params").write_bytes(encode_params(theirs))
    zoo = write(weights, PUBLISHERS["onnx-zoo"].rules(config), config)
    zoo = {f"resnetv24_{name}": value for name, value in zoo.items()}
    zoo["reshape_attr_tensor421"] = np.array([0, -1], np.int64)
    (tmp_path / "x.onnx").write_bytes(encode_onnx(zoo))
    for name, source in (("x.params", "gluon"), ("x.onnx", "onnx-zoo")):
        checkpoint = read_checkpoint(tmp_path / name)
        assert (checkpoint.config, checkpoint.provenance["source"]) == (config, source)
        same(checkpoint.weights, weights)


def test_an_ambiguous_file_needs_its_source_said(tmp_path):
    config, weights = network("pytorchcv")
    theirs = write(weights, PUBLISHERS["pytorchcv"].rules(config), config)
    torch.save({n: torch.from_numpy(v) for n, v in theirs.items()}, tmp_path / "x.pth")
    with pytest.raises(ConvertError, match="say which as source"):
        read_checkpoint(tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth", source="pytorchcv:pytorchcv")
    assert checkpoint.config == config
    same(checkpoint.weights, weights)


def test_a_file_larger_than_any_network_is_refused_unopened(tmp_path):
    with (tmp_path / "x.params").open("wb") as file:
        file.truncate(budget.MAX_BYTES + 1)  # a hole: no disk is taken
    with pytest.raises(ConvertError, match="larger than 16 GiB"):
        read_tensors(tmp_path / "x.params")


def test_detecting_a_format_reads_a_few_bytes_alone(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"\x80\x02")
    assert detect(tmp_path / "x.pth") == "pytorch"
