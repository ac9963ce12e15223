"""Checkpoints in the archives and folders they are published in, and archives that mean harm."""

import contextlib
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_conversion_files import TENSORS, encode_params, same, save_as

from resnetv2.conversion.formats import archive, budget
from resnetv2.conversion.readers import detect, read_tensors
from resnetv2.errors import ConvertError

GOLDEN = Path(__file__).parent / "golden" / "tensorflow"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Let archives be unpacked where a test can look, and look whether everything is gone at its end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield
    assert list(place.iterdir()) == []


def pack_tar(path, *names, mode="w:gz"):
    with tarfile.open(path, mode) as packed:
        for name in names:
            packed.add(GOLDEN / name, f"resnet/{name}")


def pack_zip(path, *names):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            for file in [GOLDEN / name, *(GOLDEN / name).rglob("*")]:
                packed.write(file, f"resnet/{file.relative_to(GOLDEN)}")


@pytest.mark.parametrize("name", ["v1", "v2", "sharded", "objects", "saved_model"])
@pytest.mark.parametrize("ending", ["tar.gz", "tar", "zip"])
def test_an_archive_gives_what_the_checkpoint_in_it_gives(name, ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        pack_zip(path, name)
    else:
        pack_tar(path, name, mode="w:gz" if ending == "tar.gz" else "w")
    (kind, tensors), (expected_kind, expected) = read_tensors(path), read_tensors(GOLDEN / name)
    assert kind == expected_kind == "tensorflow"
    same(tensors, expected)


@pytest.mark.parametrize("kind", ["params", "pytorch"])
def test_publishers_zips_are_told_from_formats_that_are_zips_themselves(kind, tmp_path):
    save_as(kind, tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        packed.write(tmp_path / "model", "resnet50_v2.params")
        packed.writestr("README", "these are weights")
    assert (detect(tmp_path / "model"), detect(tmp_path / "model.zip")) == (kind, "zip")
    found, tensors = read_tensors(tmp_path / "model.zip")
    assert found == kind
    same(tensors, {n: np.atleast_1d(v) for n, v in TENSORS.items()})


@pytest.mark.parametrize(("pack", "ending"), [(pack_tar, "tar.gz"), (pack_zip, "zip")])
def test_an_archive_with_more_than_one_checkpoint_or_none_is_an_error_that_says_so(pack, ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    pack(path, "v1", "v2")
    expected = r"2 checkpoints, give one of them: resnet/v1/model\.ckpt, resnet/v2/model\.ckpt\.index"
    with pytest.raises(ConvertError, match=expected):
        read_tensors(path)
    pack(path, "saved_model/saved_model.pb")
    with pytest.raises(ConvertError, match="no checkpoint in a known format"):
        read_tensors(path)


def test_a_folder_is_read_where_it_holds_one_checkpoint_beside_other_files(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/notes.txt").write_text("these are weights")
    (tmp_path / "model/graph.pbtxt").write_text("node {\n  name: 'x'\n}\n")
    save_as("npz", tmp_path / "model/weights")
    kind, tensors = read_tensors(tmp_path / "model")
    assert kind == "npz"
    same(tensors, TENSORS)
    save_as("params", tmp_path / "model/x.params")
    with pytest.raises(ConvertError, match=r"2 checkpoints, give one of them: weights, x\.params"):
        read_tensors(tmp_path / "model")


def test_an_archive_in_an_archive_is_not_unpacked(tmp_path):
    pack_tar(tmp_path / "x.tar.gz", "v1")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.write(tmp_path / "x.tar.gz", "x.tar.gz")
    with pytest.raises(ConvertError, match="no checkpoint in a known format"):
        read_tensors(tmp_path / "x.zip")


@pytest.mark.parametrize("ending", ["tar.gz", "tar", "zip"])
def test_an_archive_cut_anywhere_is_an_error(ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        pack_zip(path, "v1")
    else:
        pack_tar(path, "v1", mode="w:gz" if ending == "tar.gz" else "w")
    data = path.read_bytes()
    end = data.rindex(b"\xdb") if ending == "tar" else len(data)  # a tar's last blocks are empty
    for length in range(0, end, 29):
        path.write_bytes(data[:length])
        with pytest.raises(ConvertError, match=r"x\."):
            read_tensors(path)


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_flipped_bits_in_an_archive_are_an_error_or_change_nothing(ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    (pack_zip if ending == "zip" else pack_tar)(path, "v1")
    data = path.read_bytes()
    whole = read_tensors(path)[1]
    generator = np.random.default_rng(0)
    for place in range(0, len(data), 5):
        broken = bytearray(data)
        broken[place] ^= 1 << generator.integers(8)
        path.write_bytes(broken)
        with contextlib.suppress(ConvertError):
            same(read_tensors(path)[1], whole)


# --- archives that mean harm ------------------------------------------------------------------------------------------


def member(name, kind=tarfile.REGTYPE, data=b"", link=""):
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, len(data), link
    return made, io.BytesIO(data)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([member("../evil", data=b"x")], "lies outside of the archive"),
        ([member("a/../../evil", data=b"x")], "lies outside of the archive"),
        ([member("/tmp/evil", data=b"x")], "lies outside of the archive"),
        ([member("C:evil", data=b"x")], "lies outside of the archive"),
        ([member("a\\..\\evil", data=b"x")], "lies outside of the archive"),
        ([member("link", tarfile.SYMTYPE, link="/etc"), member("link/evil", data=b"x")], "a link or a device"),
        ([member("link", tarfile.LNKTYPE, link="../evil")], "a link or a device"),
        ([member("device", tarfile.CHRTYPE)], "a link or a device"),
        ([member("pipe", tarfile.FIFOTYPE)], "a link or a device"),
        ([member("a", data=b"x"), member("a", data=b"y")], "is damaged: FileExistsError"),
        ([member("a", data=b"x"), member("a/b", data=b"y")], "is damaged"),
        ([member(f"{n}", data=b"x") for n in range(1001)], "more than 16 GiB or 1,000 files"),
        ([member("d", tarfile.DIRTYPE)] * 3000, "belong to no file"),
        ([member("x", tarfile.XHDTYPE, data=b"x" * (2 << 20))], "belong to no file"),
        ([member("x", tarfile.GNUTYPE_LONGNAME, data=b"x" * (2 << 20))], "belong to no file"),
    ],
)
def test_hostile_tars_are_refused_and_write_nothing_elsewhere(members, text, ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w", format=tarfile.USTAR_FORMAT) as packed:
        for made, data in members:
            data.seek(0)
            packed.addfile(made, data)
    with pytest.raises(ConvertError, match=text):
        read_tensors(path)
    assert {file.name for file in tmp_path.iterdir()} == {"temporary", path.name}


@pytest.mark.parametrize(
    ("name", "mode", "text"),
    [
        ("../evil", 0o100644, "lies outside of the archive"),
        ("/tmp/evil", 0o100644, "lies outside of the archive"),
        ("link", 0o120777, "a link or a device"),
        ("pipe", 0o010644, "a link or a device"),
    ],
)
def test_hostile_zips_are_refused_and_write_nothing_elsewhere(name, mode, text, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        made = zipfile.ZipInfo(name)
        made.external_attr = mode << 16
        packed.writestr(made, "/etc/passwd")
    with pytest.raises(ConvertError, match=text):
        read_tensors(tmp_path / "x.zip")
    assert {file.name for file in tmp_path.iterdir()} == {"temporary", "x.zip"}


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_bombs_are_refused_by_what_they_claim(ending, tmp_path, monkeypatch):
    path = tmp_path / f"x.{ending}"
    zeros = bytes(1 << 22)
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("zeros", zeros)
    else:
        with tarfile.open(path, "w:gz") as packed:
            made, data = member("zeros", data=zeros)
            packed.addfile(made, data)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(budget, "MAX_BYTES", 1 << 20)
    with pytest.raises(ConvertError, match="the archive claims more than"):
        read_tensors(path)


def test_a_bomb_without_a_tar_in_it_is_not_read_to_its_end(tmp_path):
    with gzip.open(tmp_path / "x.gz", "wb") as file:
        file.write(member("a")[0].tobuf() + bytes(32 << 20))
    with pytest.raises(ConvertError, match="belong to no file"):
        read_tensors(tmp_path / "x.gz")


def test_a_member_that_is_longer_than_its_header_says_is_an_error(tmp_path):
    target = archive._Folder(tmp_path)
    with pytest.raises(ConvertError, match="longer than the archive says"):
        target.write("a", 3, io.BytesIO(b"1234"))
    with pytest.raises(ConvertError, match="shorter than the archive says"):
        target.write("b", 3, io.BytesIO(b"12"))


def test_the_archive_of_a_published_network_says_its_own_name_and_hash(tmp_path):
    from resnetv2.config import architecture
    from resnetv2.conversion import read_checkpoint
    from resnetv2.conversion.recognition import PUBLISHERS
    from resnetv2.conversion.rules import write
    from resnetv2.shapes import tensor_shapes

    config = architecture("resnet50v2", "gluon", depths=(1, 1, 1, 1), width_factor=0.5, num_classes=5)
    weights = {n: torch.rand(s).numpy() for n, s in tensor_shapes(config).items()}
    weights["input_norm.weight"][:] = 1
    with zipfile.ZipFile(tmp_path / "resnet.zip", "w") as packed:
        packed.writestr("resnet.params", encode_params(write(weights, PUBLISHERS["gluon"].rules(config), config)))
    checkpoint = read_checkpoint(tmp_path / "resnet.zip")
    assert (checkpoint.provenance["file"], checkpoint.provenance["format"]) == ("resnet.zip", "params")
    same(checkpoint.weights, weights)
