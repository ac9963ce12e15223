"""Lua Torch's binary .t7: numbers, strings, tables, tensors and modules of nn. Functions are stepped over, never run.

The layout is that of torch7's File.lua, generic/Tensor.c and generic/Storage.c, on a 64-bit little-endian machine.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnetv2.conversion.formats.budget import Budget
from resnetv2.conversion.formats.cursor import Cursor
from resnetv2.errors import ConvertError

_NIL, _NUMBER, _STRING, _TABLE, _OBJECT, _BOOLEAN, _FUNCTION = range(7)
_FUNCTIONS = (7, 8)  # with upvalues, and a number by which they can be referred to
_MAX_OBJECTS = 1_000_000  # a hundred times those of 200 layers
_MAX_DEPTH = 100  # of objects in objects; a unit's convolution is the 16th
_ARRAY = re.compile(r"torch\.(Byte|Char|Short|Int|Long|Float|Double|Half|Cuda(?:[A-Z][a-z]+)?)(Tensor|Storage)")
_DTYPES = {
    "Byte": "u1",
    "Char": "i1",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
    "Half": "<f2",
    "Float": "<f4",
    "Double": "<f8",
}
_MODULES = ("nn.", "cudnn.", "cunn.", "fbnn.")


class Module(NamedTuple):
    """An object of nn: its class and its fields."""

    kind: str
    fields: dict[Any, Any]


def read_torch7(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a module and of the modules in it by their places: "5.1.weight" is get(5):get(1).weight.

    Empty tensors are left out.

    Raises:
        ConvertError: a damaged file, one that holds no module, foreign classes, or sizes that are not what they claim.
    """
    reader = _Reader(path.read_bytes())
    root = reader.object(0)
    if not isinstance(root, Module):
        raise ConvertError("the file holds no module of nn; a model is expected, not a training state")
    budget = Budget()
    tensors = {}
    for name, value in _tensors(root, "", set()):
        budget.take(name, value.shape, value.dtype)
        tensors[name] = value
    return tensors


def detect_torch7(start: bytes) -> bool:
    """Tell from a file's first 16 bytes whether it is an object of Torch: its kind, a number, "V 1" with its length."""
    return start[:4] == _OBJECT.to_bytes(4, "little") and start[12:14] == b"V "


def _tensors(module: Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    if id(module.fields) in seen:
        raise ConvertError(f"module {prefix[:80]} is there twice, or holds itself")
    seen.add(id(module.fields))
    for name, value in module.fields.items():
        if isinstance(value, np.ndarray) and value.size:
            yield f"{prefix}{name}", value
    children = module.fields.get("modules", {})
    for number, child in children.items() if isinstance(children, dict) else ():
        if isinstance(child, Module):
            yield from _tensors(child, f"{prefix}{number}.", seen)


class _Reader:
    """Reads objects; each is numbered in the file, and may be referred to by that number later."""

    def __init__(self, data: bytes) -> None:
        self.cursor = Cursor(data)
        self.seen: dict[int, Any] = {}
        self.count = 0

    def object(self, depth: int) -> Any:
        self.count += 1
        if depth > _MAX_DEPTH or self.count > _MAX_OBJECTS:
            raise ConvertError(f"objects deeper than {_MAX_DEPTH} or more than {_MAX_OBJECTS:,}")
        kind = self.cursor.number("<i")
        if kind == _NIL:
            return None
        if kind == _NUMBER:
            value = struct.unpack("<d", self.cursor.take(8))[0]
            return int(value) if value.is_integer() else value
        if kind == _BOOLEAN:
            return self.cursor.number("<i") == 1
        if kind == _STRING:
            return self.string()
        if kind == _FUNCTION:
            return self.function(depth)
        if kind not in (_TABLE, _OBJECT, *_FUNCTIONS):
            raise ConvertError(f"a damaged file: an object of the unknown kind {kind}")
        return self.numbered(kind, depth)

    def numbered(self, kind: int, depth: int) -> Any:
        number = self.cursor.number("<i")
        if number in self.seen:
            return self.seen[number]
        if kind == _TABLE:
            self.seen[number] = {}
            self.table(self.seen[number], depth)
        elif kind == _OBJECT:
            self.instance(number, depth)
        else:
            self.seen[number] = None
            self.function(depth)
        return self.seen[number]

    def string(self) -> str:
        return bytes(self.cursor.take(self.cursor.number("<i"))).decode("latin-1")

    def function(self, depth: int) -> None:
        """Step over Lua's bytecode and what belongs to it."""
        self.cursor.take(self.cursor.number("<i"))
        self.object(depth + 1)

    def table(self, into: dict[Any, Any], depth: int) -> None:
        for _ in range(self.cursor.number("<i")):
            key, value = self.object(depth + 1), self.object(depth + 1)
            if isinstance(key, str | int | float):  # others name nothing that is a weight
                into[key] = value

    def instance(self, number: int, depth: int) -> None:
        name = self.string()
        if name.startswith("V "):  # files from before versions begin with the class
            name = self.string()
        array = _ARRAY.fullmatch(name)
        if array:
            dtype = np.dtype(_DTYPES.get(array[1].removeprefix("Cuda") or "Float", "<f4"))
            self.seen[number] = None  # what a tensor holds cannot hold the tensor
            self.seen[number] = self.tensor(dtype, depth) if array[2] == "Tensor" else self.storage(dtype)
        elif name.startswith(_MODULES):
            self.seen[number] = module = Module(name, {})
            fields = self.object(depth + 1)
            if not isinstance(fields, dict):
                raise ConvertError(f"the fields of {name[:80]} are no table")
            module.fields.update(fields)
        else:
            raise ConvertError(f"objects of the class {name[:80]!r} are not read")

    def storage(self, dtype: np.dtype[Any]) -> np.ndarray:
        return np.frombuffer(self.cursor.take(self.cursor.number("<q") * dtype.itemsize), dtype)

    def tensor(self, dtype: np.dtype[Any], depth: int) -> np.ndarray:
        dimensions = self.cursor.number("<i")
        if not 0 <= dimensions <= 8:
            raise ConvertError(f"a tensor claims {dimensions} dimensions")
        sizes, strides = ([self.cursor.number("<q") for _ in range(dimensions)] for _ in range(2))
        offset = self.cursor.number("<q") - 1
        storage = self.object(depth + 1)
        if storage is None or not dimensions:
            return np.empty(0, dtype)
        if not isinstance(storage, np.ndarray) or storage.ndim != 1 or storage.dtype != dtype:
            raise ConvertError("a tensor lies in something that is no storage of its kind")
        if min(*sizes, *strides, offset) < 0:
            raise ConvertError(f"a tensor claims sizes {sizes}, strides {strides} and offset {offset}")
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if math.prod(sizes) > len(storage) or last >= len(storage):  # the first catches strides of 0
            raise ConvertError(f"a tensor of sizes {sizes} does not lie within its storage of {len(storage):,} numbers")
        return np.lib.stride_tricks.as_strided(
            storage[offset:], sizes, [stride * dtype.itemsize for stride in strides], writeable=False
        )
