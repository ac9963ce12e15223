"""Pictures that are there more than once, the same to the pixel or nearly so.

Near-duplicates are found by their fingerprints. The limits were measured on 1,000 photographs of as many ImageNet
classes, 4,000 MNIST and 1,797 UCI digits, the digits enlarged to 224 pixels; ``docs/data.md`` has the figures:

- the nearest two of the 500,000 pairs of distinct photographs differ in 81 of 256 bits; JPEG of quality 30 or a quarter
  of the size changes at most 26, a crop of 1 % a side mostly 18. The limit is 32.
- Digits are less alike than they look, yet the nearest two of ten million pairs differ in 19 bits only. The limit for
  plain pictures is 16, which 97 % of saved or resized plain photographs and 90 % of saved digits keep; mirror images of
  plain pictures are other signs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from resnetv2.data.fingerprint import MIRROR, SIDE, count_bits

NEAR = 32  # of 256 bits
NEAR_PLAIN = 16
BLANK = 2.0  # standard deviation, of 255, below which a picture shows nothing
_NEAR_FIRST = 7  # of the 64 lowest frequencies, by which candidates are found
_BAND = 16  # bits by which they are looked up: of 4 bands, 7 bits leave one with at most a single bit turned
_CROWD = 256  # the most candidates of one look-up, so that a film's frames do not cost their number squared
_AT_ONCE = 1 << 14  # pictures looked up in one go


@dataclass(frozen=True)
class Group:
    """Places of pictures that show the same or nearly so; ``copies`` are those among them that do to the pixel."""

    members: tuple[int, ...]
    copies: tuple[tuple[int, ...], ...]

    @property
    def exact(self) -> bool:
        """Whether all of them are the same to the pixel."""
        return self.copies == (self.members,)


def find_groups(facts: np.ndarray, readable: np.ndarray) -> list[Group]:
    """Return the groups of two or more, each picture in one at most, by their first members.

    Blank pictures are the same where their files are, pictures of fewer than 32 pixels a side where their pixels are.

    Args:
        facts: FACTS (n,).
        readable: bool (n,); the others are left out.
    """
    there = np.flatnonzero(readable)
    blank = facts["spread"][there] < BLANK
    content = facts["pixels"][there].copy()
    content[blank] = facts["sha256"][there][blank, :2]
    _, first, same = np.unique(content, axis=0, return_index=True, return_inverse=True)
    originals = np.arange(len(facts))
    originals[there] = there[first[same.ravel()]]
    parents = originals.copy()
    telling = there[first]
    least = np.minimum(facts["width"][telling], facts["height"][telling])
    telling = telling[(least >= SIDE) & (facts["spread"][telling] >= BLANK)]
    for a, b in near_pairs(facts["hash"][telling], facts["plain"][telling]):
        join(parents, telling[a], telling[b])
    return _collect(parents, originals)


def near_pairs(hashes: np.ndarray, plain: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places a and b of near hashes, int64 (m,) each, some pairs more than once and either way round.

    Args:
        hashes: uint64 (n, WORDS).
        plain: bool (n,); two of which one is plain must be nearer, and mirror images do not count for them.
    """
    limits = np.where(plain, NEAR_PLAIN, NEAR)
    for turned, rows in ((np.zeros_like(MIRROR), np.arange(len(hashes))), (MIRROR, np.flatnonzero(~plain))):
        for a, b in _candidates(hashes[rows, 0], turned[0]):
            near = count_bits(hashes[rows[a], 0] ^ hashes[rows[b], 0] ^ turned[0]) <= _NEAR_FIRST
            a, b = rows[a[near]], rows[b[near]]  # noqa: PLW2901  fewer of the same
            distance = count_bits(hashes[a] ^ hashes[b] ^ turned).sum(axis=1)
            near = distance <= np.minimum(limits[a], limits[b])
            yield a[near], b[near]


def _candidates(words: np.ndarray, turned: np.uint64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places a and b whose words agree in a band save one bit, after ``turned`` is applied to a's."""
    edges = np.arange((1 << _BAND) + 1, dtype=np.uint64)
    flips = [np.uint64(0), *(np.uint64(1 << bit) for bit in range(_BAND))]
    for shift in range(0, 64, _BAND):
        rolled, wanted = _roll(words, shift), _roll(words ^ turned, shift)
        order = np.argsort(rolled, kind="stable")
        ordered = rolled[order]
        bounds = np.searchsorted(ordered >> np.uint64(64 - _BAND), edges)
        for start in range(0, len(words), _AT_ONCE):
            a = np.arange(start, min(start + _AT_ONCE, len(words)))
            for flip in flips:
                target = wanted[a] ^ (flip << np.uint64(64 - _BAND))
                low, count = _window(ordered, bounds, target)
                left = np.repeat(a, count)
                steps = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
                right = order[np.repeat(low, count) + steps]
                yield left[left != right], right[left != right]


def _roll(words: np.ndarray, shift: int) -> np.ndarray:
    """Return the words with another band on top."""
    if not shift:
        return words
    result: np.ndarray = (words << np.uint64(shift)) | (words >> np.uint64(64 - shift))
    return result


def _window(ordered: np.ndarray, bounds: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return begin and length of each target's band among the ordered words, of a crowded band the nearest part."""
    band = (target >> np.uint64(64 - _BAND)).astype(np.int64)
    low, high = bounds[band], bounds[band + 1]
    crowded = np.flatnonzero(high - low > _CROWD)
    if len(crowded):
        place = np.searchsorted(ordered, target[crowded])
        low[crowded] = np.clip(place - _CROWD // 2, low[crowded], high[crowded] - _CROWD)
    return low, np.minimum(high - low, _CROWD)


def join(parents: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Unite the sets of each a and b, (m,) both; the smallest place leads."""
    while len(a):
        a, b = leaders_of(parents, a), leaders_of(parents, b)
        apart = a != b
        a, b = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        np.minimum.at(parents, b, a)


def leaders_of(parents: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the smallest place of the set that each place (m,) is in."""
    while (parents[places] != places).any():
        parents[places] = parents[parents[places]]  # the way is shorter the next time
        places = parents[places]
    return places


def _collect(parents: np.ndarray, originals: np.ndarray) -> list[Group]:
    members, copies = _sets(leaders_of(parents, np.arange(len(parents)))), _sets(originals)
    return [Group(group, tuple(copies[i] for i in group if i in copies)) for group in members.values()]


def _sets(leaders: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Return the places that have the same leader, by that leader, where there are two or more."""
    found: dict[int, list[int]] = {}
    for place in np.flatnonzero(np.bincount(leaders, minlength=len(leaders))[leaders] > 1).tolist():
        found.setdefault(int(leaders[place]), []).append(place)
    return {leader: tuple(places) for leader, places in found.items()}
