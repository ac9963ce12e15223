"""Lua Torch's files and Facebook's resnet-200.t7.

The file itself was never seen. What stands for it is a tree of nn's modules as fb.resnet.torch built it when the file
was published (commit c530106), written as torch7's own code writes, and run here module by module.
"""

import struct
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnetv2.config import architecture
from resnetv2.conversion import read_checkpoint
from resnetv2.conversion.formats import torch7
from resnetv2.conversion.readers import detect, read_tensors
from resnetv2.errors import ConvertError, Error
from resnetv2.model import ResNetV2

FLOAT32 = 1e-5  # of the largest logit: float32 sums in another order make 1e-6 of it


# --- Torch, as far as it is needed ------------------------------------------------------------------------------------


class Object(NamedTuple):
    kind: str
    fields: dict


class Function(NamedTuple):
    code: bytes
    upvalues: dict


class Flat(NamedTuple):
    """A tensor that lies at a place of a storage that it shares with others."""

    storage: np.ndarray
    offset: int
    shape: tuple


class Writer:
    """torch.save: every table, object and function is numbered, and written once."""

    def __init__(self):
        self.out = []
        self.numbers = {}
        self.kept = []  # ids are of living objects

    def save(self, value):
        self.write(value)
        return b"".join(self.out)

    def pack(self, form, *values):
        self.out.append(struct.pack("<" + form, *values))

    def string(self, data):
        self.pack("i", len(data))
        self.out.append(data)

    def write(self, value):
        if value is None:
            self.pack("i", 0)
        elif isinstance(value, bool):
            self.pack("ii", 5, value)
        elif isinstance(value, int | float):
            self.pack("id", 1, value)
        elif isinstance(value, str):
            self.pack("i", 2)
            self.string(value.encode())
        else:
            self.pack("i", 8 if isinstance(value, Function) else 3 if type(value) is dict else 4)
            if self.number(value.storage if isinstance(value, Storage) else value):
                return
            if isinstance(value, Function):
                self.string(value.code)
                self.write(value.upvalues)
            elif type(value) is dict:
                self.pack("i", len(value))
                for pair in value.items():
                    for item in pair:
                        self.write(item)
            else:
                self.object(value)

    def number(self, value):
        """Write the number of an object; return whether it was written before."""
        self.kept.append(value)
        known = id(value) in self.numbers
        self.pack("i", self.numbers.setdefault(id(value), len(self.numbers) + 1))
        return known

    def object(self, value):
        kinds = {np.ndarray: "torch.FloatTensor", Flat: "torch.FloatTensor", Storage: "torch.FloatStorage"}
        self.string(b"V 1")
        self.string((value.kind if isinstance(value, Object) else kinds[type(value)]).encode())
        if isinstance(value, Object):
            self.write(dict(value.fields))
        elif isinstance(value, Storage):
            self.pack("q", value.storage.size)
            self.out.append(value.storage.tobytes())
        else:
            flat = value if isinstance(value, Flat) else Flat(value.ravel(), 0, value.shape)
            strides = [int(np.prod(flat.shape[n + 1 :])) for n in range(len(flat.shape))]
            self.pack(f"i{len(strides)}q{len(strides)}qq", len(strides), *flat.shape, *strides, flat.offset + 1)
            self.write(Storage(flat.storage))


class Storage(NamedTuple):
    storage: np.ndarray


def save(value):
    return Writer().save(value)


def sequence(kind, *modules):
    return Object(f"nn.{kind}", {"modules": dict(enumerate(modules, 1)), "train": False})


class Lua:
    """fb.resnet.torch's preresnet.lua, with random numbers."""

    def __init__(self, bias, bottleneck, flat=False):
        self.generator = np.random.default_rng(0)
        self.bias, self.bottleneck, self.channels = bias, bottleneck, 16
        self.storage = np.zeros(3_000_000 if flat else 0, np.float32)
        self.used = 0

    def tensor(self, values):
        values = np.asarray(values, np.float32)
        if not self.storage.size:
            return values
        start, self.used = self.used, self.used + values.size
        self.storage[start : self.used] = values.ravel()
        return Flat(self.storage, start, values.shape)

    def convolution(self, inputs, outputs, kernel, stride=1, pad=0):
        weight = self.generator.normal(size=(outputs, inputs, kernel, kernel)) * (2 / (inputs * kernel**2)) ** 0.5
        fields = {"weight": self.tensor(weight), "dW": stride, "padW": pad, "gradWeight": np.zeros(weight.shape, "f4")}
        if self.bias:
            fields["bias"] = self.tensor(self.generator.uniform(-0.2, 0.2, outputs))
        return Object("cudnn.SpatialConvolution", fields)

    def norm(self, channels):
        ranges = {"weight": (0.4, 0.8), "bias": (-0.2, 0.2), "running_mean": (-0.2, 0.2), "running_var": (0.5, 1.5)}
        fields = {name: self.tensor(self.generator.uniform(*r, channels)) for name, r in ranges.items()}
        return Object("nn.SpatialBatchNormalization", {**fields, "eps": 1e-5, "save_mean": np.zeros(0, "f4")})

    def unit(self, width, stride):
        inputs, self.channels = self.channels, width * (4 if self.bottleneck else 1)
        relu, out = Object("cudnn.ReLU", {"inplace": True}), self.channels
        sizes = [(inputs, width, 1), (width, width, 3), (width, out, 1)] if self.bottleneck else [(inputs, width, 3)]
        sizes += [] if self.bottleneck else [(width, width, 3)]
        branch, strided = [], 1 if self.bottleneck else 0
        for number, (cin, cout, kernel) in enumerate(sizes):
            step = stride if number == strided else 1
            relu = Object("cudnn.ReLU", {"inplace": True})
            branch += [self.norm(cin), relu, self.convolution(cin, cout, kernel, step, kernel // 2)]
        shortcut = Object("nn.Identity", {})
        if inputs != out:
            shortcut = sequence("Sequential", self.convolution(inputs, out, 1, stride), self.norm(out))
        both = sequence("ConcatTable", sequence("Sequential", *branch), shortcut)
        return sequence("Sequential", both, Object("nn.CAddTable", {"inplace": True}))

    def model(self, depths):
        stem = [
            self.convolution(3, 16, 7, 2, 3),
            self.norm(16),
            Object("cudnn.ReLU", {}),
            Object("nn.SpatialMaxPooling", {}),
        ]
        stages = []
        for number, depth in enumerate(depths):
            strides = [2 if number and n == 0 else 1 for n in range(depth)]
            stages.append(sequence("Sequential", *[self.unit(16 << number, stride) for stride in strides]))
        weight = self.tensor(self.generator.normal(size=(5, self.channels)))
        linear = Object("nn.Linear", {"weight": weight, "bias": self.tensor(self.generator.normal(size=5))})
        end = [Object("nn.Copy", {}), self.norm(self.channels), Object("cudnn.ReLU", {})]
        view = Object("nn.View", {"size": Storage(np.ones(1, np.float32)), "numInputDims": 3})
        return sequence("Sequential", *stem, *stages, *end, Object("cudnn.SpatialAveragePooling", {}), view, linear)


def values(tensor):
    if isinstance(tensor, Flat):
        tensor = tensor.storage[tensor.offset : tensor.offset + int(np.prod(tensor.shape))].reshape(tensor.shape)
    return None if tensor is None else torch.from_numpy(tensor)


def run(module, x):
    """Return what a module makes of x, by its class."""
    kind, fields = module.kind.partition(".")[2], module.fields
    get = {name: values(t) for name, t in fields.items() if isinstance(t, np.ndarray | Flat)}.get
    children = list(fields.get("modules", {}).values())
    if kind == "Sequential":
        for child in children:
            x = run(child, x)
        return x
    return {
        "ConcatTable": lambda: [run(child, x) for child in children],
        "CAddTable": lambda: sum(x),
        "SpatialConvolution": lambda: F.conv2d(x, get("weight"), get("bias"), fields["dW"], fields["padW"]),
        "SpatialBatchNormalization": lambda: F.batch_norm(
            x, get("running_mean"), get("running_var"), get("weight"), get("bias"), eps=fields["eps"]
        ),
        "ReLU": lambda: F.relu(x),
        "SpatialMaxPooling": lambda: F.max_pool2d(x, 3, 2, 1),
        "SpatialAveragePooling": lambda: F.avg_pool2d(x, 7, 1),
        "View": lambda: x.flatten(1),
        "Linear": lambda: F.linear(x, get("weight"), get("bias")),
    }.get(kind, lambda: x)()


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_facebooks_module_tree_answers_the_same(bottleneck, bias, flat, tmp_path):
    tree = Lua(bias, bottleneck, flat).model((2, 1, 2, 1))
    path = tmp_path / "resnet.t7"
    path.write_bytes(save(tree))
    checkpoint = read_checkpoint(path)
    assert checkpoint.provenance["source"] == "torch7"
    biases = {"stem_bias": bias, "out_bias": bias}
    shape = {"depths": (2, 1, 2, 1), "width_factor": 0.25, "num_classes": 5}
    name = "resnet50v2" if bottleneck else "resnet18v2"
    assert checkpoint.config == architecture(name, "torch7", **shape, **biases)
    assert checkpoint.preprocessing.mean == (123.675, 116.28, 103.53)
    assert "1.gradWeight" in checkpoint.provenance["left_out"]
    model = ResNetV2(checkpoint.config).eval()
    model.load_state_dict({n: torch.from_numpy(v) for n, v in checkpoint.weights.items()}, strict=False)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = run(tree, x)
        assert float((model(x) - expected).abs().max() / expected.abs().max()) <= FLOAT32


@pytest.mark.peers
def test_another_reader_of_torchs_files_finds_the_same_tensors(tmp_path):
    torchfile = pytest.importorskip("torchfile", reason="torchfile is not installed")
    path = tmp_path / "resnet.t7"
    path.write_bytes(save(Lua(bias=True, bottleneck=True).model((1, 1, 1, 1))))
    root = torchfile.load(str(path))
    _, tensors = read_tensors(path)
    assert len(tensors) > 100
    for name, value in tensors.items():
        *places, field = name.split(".")
        module = root
        for place in places:
            module = module.modules[int(place) - 1]
        np.testing.assert_array_equal(value, getattr(module, field), err_msg=name)


# --- the format -------------------------------------------------------------------------------------------------------

TENSOR = np.arange(6, dtype=np.float32).reshape(2, 3)


def module(**fields):
    return Object("nn.Linear", fields)


def read(data, tmp_path):
    (tmp_path / "x.t7").write_bytes(data)
    return read_tensors(tmp_path / "x.t7")[1]


def test_objects_of_every_kind_are_read_or_stepped_over_and_functions_are_not_run(tmp_path):
    again = {"a": 1}
    function = Function(b"\x1bLJ\x01 bytecode", {1: {"name": "f", "value": again}})
    fields = {"weight": TENSOR, "empty": np.zeros(0, "f4"), "flag": True, "none": None, "f": function, "g": function}
    data = save(module(**fields, t=again, u=again, half=0.5, twin=TENSOR))
    assert detect_of(data, tmp_path) == "torch7"
    tensors = read(data, tmp_path)
    assert list(tensors) == ["weight", "twin"]
    for value in tensors.values():
        np.testing.assert_array_equal(value, TENSOR)


def detect_of(data, tmp_path):
    (tmp_path / "x").write_bytes(data)
    return detect(tmp_path / "x")


def claim(sizes, strides, offset=1, numbers=6):
    """Return a module whose weight is a tensor of those claims over a storage of so many numbers."""
    head = save(module(weight=0.0))
    head = head[: head.rindex(struct.pack("<id", 1, 0.0))]
    n = len(sizes)
    tensor = struct.pack("<ii", 4, 90) + struct.pack("<i", 3) + b"V 1" + struct.pack("<i", 17) + b"torch.FloatTensor"
    tensor += struct.pack(f"<i{n}q{n}qq", n, *sizes, *strides, offset)
    storage = struct.pack("<iii", 4, 91, 3) + b"V 1" + struct.pack("<i", 18) + b"torch.FloatStorage"
    return head + tensor + storage + struct.pack("<q", numbers) + TENSOR.tobytes()


def test_a_tensor_may_lie_transposed_in_its_storage(tmp_path):
    np.testing.assert_array_equal(read(claim([3, 2], [1, 3]), tmp_path)["weight"], TENSOR.T)


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def circle():
    root = sequence("Sequential", module(weight=TENSOR))
    root.fields["modules"][2] = root
    return save(root)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (claim([1 << 40], [0]), "does not lie within its storage of 6 numbers"),
        (claim([2, 3], [3, 1], offset=2), "does not lie within its storage"),
        (claim([2], [-1], offset=2), r"strides \[-1\]"),
        (claim([2], [1], offset=0), "offset -1"),
        (claim([1] * 9, [1] * 9), "claims 9 dimensions"),
        (claim([6], [1], numbers=7), "ends before 28 more bytes"),
        (claim([6], [1], numbers=-1), "ends before -4 more bytes"),
        (save(module(t=nested(120))), "objects deeper than 100"),
        (circle(), "is there twice, or holds itself"),
        (save(Object("os.Evil", {})), "objects of the class 'os.Evil' are not read"),
        (save(TENSOR), "holds no module of nn"),
        (save(module(weight=TENSOR, modules={1: module(weight=TENSOR), "1": module(weight=TENSOR)})), "there twice"),
    ],
)
def test_what_a_t7_file_claims_is_checked_before_memory_is_taken(data, text, tmp_path):
    with pytest.raises(ConvertError, match=text):
        read(data, tmp_path)


def test_more_objects_than_any_network_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch7, "_MAX_OBJECTS", 10)
    with pytest.raises(ConvertError, match="more than 10"):
        read(save(module(t=dict.fromkeys("abcdefgh", 1))), tmp_path)


def test_a_t7_file_cut_anywhere_is_an_error(tmp_path):
    data = save(sequence("Sequential", module(weight=TENSOR, name="a"), module(bias=TENSOR)))
    for length in range(len(data)):
        with pytest.raises(ConvertError, match=r"x\.t7"):
            read(data[:length], tmp_path)


def test_flipped_bits_of_a_t7_file_give_an_error_or_other_numbers_and_nothing_else(tmp_path):
    data = save(sequence("Sequential", module(weight=TENSOR, name="a"), module(bias=TENSOR)))
    generator = np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(data)
        broken[generator.integers(len(data))] ^= 1 << generator.integers(8)
        try:
            tensors = read(bytes(broken), tmp_path)
        except Error:
            continue
        assert all(isinstance(value, np.ndarray) for value in tensors.values())
