"""A perceptual hash: a few numbers that a picture keeps when it is saved again, resized or cropped a little.

The signs of the 256 lowest frequencies of the picture's discrete cosine transform, as in Zauner 2010 but with zero in
place of the median as the threshold, for two reasons. A mirror image only turns the signs of the odd horizontal
frequencies, so its hash is this hash with known bits turned. And a hash does not depend on how contrasts are spread.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 32  # pixels of the square that is transformed; a picture with a shorter side has too little to tell apart
WORDS = 4  # of 64 bits, the lowest frequencies first
PLAIN = 0.25  # of the square in one shade of 32: a drawing, glyph or packshot rather than a photograph


def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the lowest frequencies, without the mean."""
    rows, columns = np.indices((SIDE, SIDE)).reshape(2, -1)
    lowest = np.argsort(rows + columns, kind="stable")[1 : 64 * WORDS + 1]
    return rows[lowest], columns[lowest]


_ROWS, _COLUMNS = _frequencies()
_COSINES = np.cos(np.pi / SIDE * np.arange(SIDE)[:, None] * (np.arange(SIDE)[None] + 0.5)).astype(np.float32)
MIRROR = np.packbits(_COLUMNS % 2 == 1).view(np.uint64)  # bits that differ between a picture and its mirror image


def fingerprint(grey: Image.Image) -> tuple[np.ndarray, bool]:
    """Return the hash, uint64 (WORDS,), of a picture of mode "L", and whether it is plain."""
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    spectrum = _COSINES @ pixels.astype(np.float32) @ _COSINES.T
    commonest = np.bincount(pixels.ravel() >> 3, minlength=32).max()
    bits = np.packbits(spectrum[_ROWS, _COLUMNS] > 0).view(np.uint64)
    return bits, bool(commonest >= PLAIN * pixels.size)


def count_bits(words: np.ndarray) -> np.ndarray:
    """Return the number of ones in each uint64; NumPy has it from version 2 on."""
    ones, twos, fours = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    words = words - ((words >> np.uint64(1)) & ones)
    words = (words & twos) + ((words >> np.uint64(2)) & twos)
    words = (words + (words >> np.uint64(4))) & fours
    result: np.ndarray = (words * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return result
