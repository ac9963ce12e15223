"""TensorFlow's checkpoints, as TensorFlow wrote them (``tests/publishers/tiny_tensorflow.py``), whole and damaged."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from test_conversion_files import field, same, varint

from resnetv2.config import architecture
from resnetv2.conversion import read_checkpoint
from resnetv2.conversion.formats import budget, crc32c, sstable
from resnetv2.conversion.formats.tensorflow import read_tensorflow
from resnetv2.conversion.readers import read_tensors
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import write
from resnetv2.errors import ConvertError
from resnetv2.shapes import tensor_shapes

GOLDEN = Path(__file__).parent / "golden" / "tensorflow"
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))
INDEX = "model.ckpt.index"
DATA = "model.ckpt.data-00000-of-00001"


@pytest.fixture
def copy(tmp_path):
    """Return a copy of one of the kept checkpoints."""

    def make(name):
        shutil.copytree(GOLDEN / name, tmp_path / name)
        return tmp_path / name

    return make


def seal(block, compression=b"\0"):
    return block + compression + struct.pack("<I", crc32c.mask(crc32c.crc32c(block + compression)))


def block_of(entries):
    """Return a block whose keys are all whole."""
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    return body + struct.pack("<II", 0, 1)


def table_of(block, compression=b"\0"):
    """Return a sorted table with a single block of entries, every checksum right."""
    sealed = seal(block, compression)
    index = seal(block_of([(b"\xff", varint(0) + varint(len(block)))]))
    footer = varint(0) + varint(0) + varint(len(sealed)) + varint(len(index) - 5)
    return sealed + index + footer.ljust(40, b"\0") + sstable.MAGIC


def table(entries):
    return table_of(block_of(sorted(entries.items())))


def entries_of(path):
    return {key: bytes(value) for key, value in sstable.read_sstable(memoryview(path.read_bytes()))}


# --- whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2/model.ckpt.index", "v1/model.ckpt"])
def test_every_kind_of_number_is_read_as_it_was_written(version):
    kind, tensors = read_tensors(GOLDEN / version)
    assert kind == "tensorflow"
    same(dict(sorted(tensors.items())), dict(sorted(EXPECTED.items())))


@pytest.mark.parametrize("meant", ["", "model.ckpt", INDEX, DATA])
def test_a_checkpoint_is_meant_by_its_folder_its_prefix_its_index_or_its_data(meant):
    same(read_tensors(GOLDEN / "v2" / meant)[1], read_tensors(GOLDEN / "v2" / INDEX)[1])


def test_data_in_several_files_are_read_from_all_of_them(copy):
    folder = copy("sharded")
    _, tensors = read_tensors(folder)
    same(tensors, {name: EXPECTED[name] for name in ("scope/more", "scope/weights")})
    (folder / "model.ckpt.data-00001-of-00002").unlink()
    with pytest.raises(ConvertError, match=r"absent beside its index: model\.ckpt\.data-00001-of-00002"):
        read_tensors(folder)


@pytest.mark.parametrize(("place", "prefix"), [("objects", "model/"), ("saved_model", "")])
def test_variables_of_objects_have_their_full_names_unless_two_share_one(place, prefix):
    kind, tensors = read_tensors(GOLDEN / place)
    assert kind == "tensorflow"
    expected = {
        "scope/weights": EXPECTED["scope/weights"],
        "narrow": np.array([1.5, -3e38], np.float32),
        f"{prefix}first/.ATTRIBUTES/VARIABLE_VALUE": np.ones(1, np.float32),
        f"{prefix}second/.ATTRIBUTES/VARIABLE_VALUE": np.full(1, 2, np.float32),
    }
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(tensors[name], value, rtol=2**-8)  # bfloat16 has eight bits
        assert tensors[name].dtype == np.float32


@pytest.mark.parametrize("version", ["partitioned-v1", "partitioned-v2"])
def test_partitioned_variables_are_refused_by_name(version):
    with pytest.raises(ConvertError, match=r"partitioned variables are not read.*: scope/parts$"):
        read_tensors(GOLDEN / version)


def test_the_checksum_is_crc32c():
    assert crc32c.crc32c(b"") == 0
    assert crc32c.crc32c(b"123456789") == 0xE3069283  # the check value of the Castagnoli polynomial
    assert crc32c.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c.crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [1, 3, 4, 5, 1000, (1 << 20) - 1, 1 << 20, (2 << 20) + 7])
def test_a_checksum_of_parts_side_by_side_is_that_of_one_byte_after_another(length):
    data = np.random.default_rng(length).bytes(length)
    steps = list(range(256))
    for _ in range(8):
        steps = [n >> 1 ^ (n & 1) * 0x82F63B78 for n in steps]
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ steps[(register ^ byte) & 255]
    assert crc32c.crc32c(data) == register ^ 0xFFFFFFFF


def save_slim(folder, prefix):
    """Write a small TF-Slim network as a checkpoint of version 2 by hand, and return its config and weights."""
    config = architecture("resnet50v2", "slim", depths=(1, 1, 1, 1), width_factor=0.5, num_classes=5)
    generator = np.random.default_rng(0)
    weights = {n: generator.normal(size=s).astype(np.float16) for n, s in tensor_shapes(config).items()}
    theirs = write(weights, PUBLISHERS["slim"].rules(config), config)
    theirs = {f"{prefix}resnet_v2_50/{name}": value for name, value in theirs.items()}
    theirs["global_step"] = np.array(7)
    data, entries = b"", {b"": field(1, 1)}
    for name, value in theirs.items():
        shape = b"".join(field(2, field(1, side)) for side in value.shape)
        kind = {"float16": 19, "int64": 9}[value.dtype.name]
        checksum = struct.pack("<I", crc32c.mask(crc32c.crc32c(value.tobytes())))
        entry = field(1, kind) + field(2, shape) + field(4, len(data)) + field(5, value.nbytes) + b"\x35" + checksum
        entries[name.encode()] = entry
        data += value.tobytes()
    (folder / INDEX).write_bytes(table(entries))
    (folder / DATA).write_bytes(data)
    return config, weights


@pytest.mark.parametrize("prefix", ["", "module/", "module_1/"])
def test_a_checkpoint_is_one_whether_named_by_hub_or_by_slim_and_its_half_numbers_are_widened(prefix, tmp_path):
    config, weights = save_slim(tmp_path, prefix)
    checkpoint = read_checkpoint(tmp_path / "model.ckpt")
    assert checkpoint.config == config
    same(checkpoint.weights, {name: value.astype(np.float32) for name, value in weights.items()})
    told = checkpoint.provenance
    assert (told["source"], told["file"], told["format"]) == ("slim", INDEX, "tensorflow")
    assert told["left_out"] == ["global_step"]


def test_the_hash_of_a_checkpoint_is_of_its_index_and_its_data(tmp_path):
    save_slim(tmp_path, "")
    first = read_checkpoint(tmp_path).provenance["sha256"]
    with (tmp_path / DATA).open("ab") as file:
        file.write(b"\0")
    assert read_checkpoint(tmp_path).provenance["sha256"] != first


# --- damaged ----------------------------------------------------------------------------------------------------------

FILES = [("v1", "model.ckpt"), ("v2", INDEX), ("v2", DATA), ("objects", INDEX), ("objects", DATA)]


@pytest.mark.parametrize(("version", "name"), FILES)
def test_a_checkpoint_cut_anywhere_is_an_error(version, name, copy):
    path = copy(version) / name
    data = path.read_bytes()
    meant = path.with_name("model.ckpt")
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ConvertError, match=r"model\.ckpt"):
            read_tensors(meant)


@pytest.mark.parametrize(("version", "name"), FILES)
def test_a_flipped_bit_in_any_byte_is_an_error_or_changes_nothing(version, name, copy):
    path = copy(version) / name
    data = path.read_bytes()
    meant = path.with_name("model.ckpt")
    whole = read_tensors(meant)[1]
    generator = np.random.default_rng(0)
    errors = 0
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << generator.integers(8)
        path.write_bytes(broken)
        try:
            same(read_tensors(meant)[1], whole)
        except ConvertError:
            errors += 1
    assert errors >= len(data) - 60  # most of the footer, and the empty table of properties, say nothing


@pytest.mark.parametrize("version", ["v1/model.ckpt", f"v2/{INDEX}", f"objects/{INDEX}", f"partitioned-v2/{INDEX}"])
def test_other_bytes_below_right_checksums_give_an_error_or_other_numbers_and_nothing_else(version, copy):
    path = copy(version.partition("/")[0]) / version.partition("/")[2]
    block = block_of(sorted(entries_of(path).items()))
    generator = np.random.default_rng(0)
    for place in range(len(block)):
        broken = bytearray(block)
        broken[place] = generator.integers(256)
        path.write_bytes(table_of(bytes(broken)))
        try:
            _, tensors = read_tensors(path)
        except ConvertError:
            continue
        assert all(isinstance(value, np.ndarray) for value in tensors.values())


def shape(*sides):
    return b"".join(field(2, field(1, side)) for side in sides)


def entry(kind=1, sides=(2,), shard=0, start=0, size=8, extra=b""):
    return field(1, kind) + field(2, shape(*sides)) + field(3, shard) + field(4, start) + field(5, size) + extra


NUMBERS = struct.pack("<2f", 1, 2)


def slices(name=b"w", sides=(2,), data=NUMBERS, kind=1, number=5, extra=b""):
    """Return the entries of a checkpoint of version 1 with one variable."""
    whole = field(1, b"") * len(sides)
    meta = field(1, field(1, name) + field(2, shape(*sides)) + field(3, kind) + field(4, whole))
    return {
        b"": field(1, meta + extra),
        b"w": field(2, field(1, b"w") + field(2, whole) + field(3, field(number, data))),
    }


HEADER = {b"": field(1, 1)}
LIES = [
    ({b"w": entry()}, "no header"),
    ({b"": field(1, 0), b"w": entry()}, "an index is expected"),
    ({b"": field(1, 1 << 40), b"w": entry()}, "an index is expected"),
    ({b"": field(1, 2), b"w": entry()}, "absent beside its index"),
    ({b"": field(1, 1) + field(2, 1), b"w": entry()}, "little-endian"),
    (HEADER | {b"w": entry()}, "w does not have its checksum"),
    (HEADER | {b"w": entry(sides=(3,))}, "claims 12 bytes and has 8"),
    (HEADER | {b"w": entry(size=12)}, "claims 8 bytes and has 12"),
    (HEADER | {b"w": entry(start=1 << 40)}, "lies outside of the checkpoint's files"),
    (HEADER | {b"w": entry(shard=1)}, "lies outside of the checkpoint's files"),
    (HEADER | {b"w": entry(sides=(1 << 20, 1 << 20))}, "claims the shape"),
    (HEADER | {b"w": entry(sides=(0, 1 << 60))}, "claims the shape"),
    (HEADER | {b"w": entry(sides=(40_000,), size=160_000)}, "or shares them"),
    (HEADER | {b"w": entry(sides=(1,) * 9)}, "no array of numbers"),
    (HEADER | {b"w": entry(kind=8)}, "w has the unknown data type 8"),
    (HEADER | {b"\xff\xfe": entry(kind=8)}, "has the unknown data type 8"),
    (slices(sides=(3,)), "claims 12 bytes and has 8"),
    (slices(sides=(-1 & (1 << 64) - 1,)), "claims the shape"),
    (slices(name=b"x"), "x is announced and not there"),
    (slices(number=6), "claims 8 bytes and has 0"),
    (slices(kind=9, number=10, data=b"\xff"), "a number without end"),
    (slices(kind=9, number=10, data=b"\xff" * 11 + b"\1"), "a number without end"),
    (slices(kind=9, number=10, data=3), "is a number instead of bytes"),
    (
        slices(extra=field(1, field(1, b"w") + field(2, shape(2)) + field(3, 1) + field(4, field(1, b"")))),
        "there twice",
    ),
]


@pytest.mark.parametrize(("entries", "text"), LIES)
def test_what_a_checkpoint_claims_is_checked_before_memory_is_taken(entries, text, tmp_path):
    (tmp_path / INDEX).write_bytes(table(entries))
    (tmp_path / DATA).write_bytes(bytes(100_000))
    with pytest.raises(ConvertError, match=text):
        read_tensors(tmp_path / INDEX)


def test_a_checkpoint_of_version_1_made_by_hand_is_read(tmp_path):
    (tmp_path / "x").write_bytes(table(slices()))
    same(read_tensorflow(tmp_path / "x"), {"w": np.array([1, 2], np.float32)})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (table_of(block_of([(b"", field(1, 1))]), b"\1"), "compressed"),
        (table_of(block_of([(b"", field(1, 1)), (b"b", b""), (b"a", b"")])), "keys are not sorted"),
        (table_of(varint(5) + varint(0) + varint(0) + struct.pack("<II", 0, 1)), "longer than its block or its key"),
        (table_of(varint(0) + varint(1 << 40) + varint(0) + struct.pack("<II", 0, 1)), "longer than its block"),
        (table_of(block_of([(b"k" * 5000, b"")])), "longer than its block or its key"),
        (table_of(struct.pack("<I", 1 << 30)), "a block without end"),
        (table_of(b""), "a block without end"),
        (bytes(40) + sstable.MAGIC, "a block ends after the file"),
        (sstable.MAGIC, "its last bytes are others"),
    ],
)
def test_damaged_tables_are_refused(data, text, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConvertError, match=text):
        read_tensors(tmp_path / "x")


def test_a_block_that_is_pointed_to_twice_is_refused_before_it_is_read_again(tmp_path):
    block = block_of([(b"", field(1, 1))])
    handle = varint(0) + varint(len(block))
    index = seal(block_of([(b"\xfe", handle), (b"\xff", handle)]))
    footer = varint(0) + varint(0) + varint(len(block) + 5) + varint(len(index) - 5)
    (tmp_path / "x").write_bytes(seal(block) + index + footer.ljust(40, b"\0") + sstable.MAGIC)
    with pytest.raises(ConvertError, match="blocks overlap"):
        read_tensors(tmp_path / "x")


def test_data_larger_than_any_network_are_refused_unopened(copy, monkeypatch):
    monkeypatch.setattr(budget, "MAX_BYTES", 300)
    with pytest.raises(ConvertError, match="is larger than"):
        read_tensors(copy("objects"))
