"""CRC-32C (Castagnoli) in NumPy: 100 MB in about a second.

A checksum is linear over bits, so parts are computed side by side: the register that follows eight zero bits is a table
of its bytes, and the tables for 2, 4, 8 … zero bytes come from applying one to itself.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78  # of RFC 3720, bits reversed
_PIECE = 1 << 20


def crc32c(data: bytes | memoryview) -> int:
    """Return the checksum of ``data``, 0 to 2**32 - 1."""
    register = np.full(1, 0xFFFFFFFF, np.uint32)
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        for power in range(len(piece).bit_length()):
            if len(piece) >> power & 1:
                register = _advance(register, power)
        register = register ^ _fold(piece)
    return int(register[0]) ^ 0xFFFFFFFF


def mask(checksum: int) -> int:
    """Return a checksum as TensorFlow stores it: rotated, plus a constant."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _fold(piece: memoryview) -> np.ndarray:
    """Return the register after ``piece`` if it was 0 before; zero bytes in front leave it so."""
    words = 1 << max(0, (len(piece) - 1).bit_length() - 2)
    padded = np.zeros(4 * words, np.uint8)
    padded[4 * words - len(piece) :] = np.frombuffer(piece, np.uint8)
    parts, power = _advance(padded.view("<u4"), 2), 2
    while len(parts) > 1:
        parts, power = _advance(parts[::2], power) ^ parts[1::2], power + 1
    return parts


def _advance(registers: np.ndarray, power: int) -> np.ndarray:
    """Return registers after 2**power zero bytes."""
    return _look_up(_table(power), registers)


def _look_up(table: np.ndarray, registers: np.ndarray) -> np.ndarray:
    first, second, third, fourth = (table[k][registers >> 8 * k & 255] for k in range(4))
    return np.asarray(first ^ second ^ third ^ fourth)


@cache
def _table(power: int) -> np.ndarray:
    """Return uint32 (4, 256): what each byte of a register becomes after 2**power zero bytes."""
    if power:
        return _look_up(_table(power - 1), _table(power - 1))
    registers: np.ndarray = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    for _ in range(8):
        registers = registers >> 1 ^ (registers & 1) * np.uint32(_POLYNOMIAL)
    return registers
