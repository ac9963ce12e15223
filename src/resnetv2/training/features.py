"""What a frozen network makes of pictures, computed once and kept in the user's cache.

A row's key is made of contents alone: the SHA-256 of the picture file, the view, and, by the shelf that it is on, the
frozen weights, the preprocessing, the layer and the runtime. Renamed folders, other splits and other labels find what
is there. Rows are written as they come, so who was killed goes on near where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import PIL
from PIL import Image

from resnetv2.cache import VARIABLE, cache_path, locked
from resnetv2.config import ResNetV2Config
from resnetv2.console import Counter, talk
from resnetv2.data.augment import Augment, resize_box
from resnetv2.data.index import Samples
from resnetv2.data.shards import Member
from resnetv2.errors import ConfigError, DataError, Error, ModelFileError
from resnetv2.preprocess import Preprocessing, Readable, open_picture
from resnetv2.training.shelf import Rows, Shelf, make_room

VERSION = 2  # of what rows mean and how they lie
BUDGET = 10 * 2**30  # bytes
_SEGMENT_ROWS, _SEGMENT_BYTES = 512, 2**26  # of which the first is reached first; what a kill can cost at most
_AHEAD_BYTES = 2**28  # of decoded pictures waiting for the network
_HASHED_AT_ONCE = 256


class MapSession(Protocol):
    """Whatever turns uint8 pictures (N, H, W, 3) RGB into the maps that enter the last stage.

    They are float16 (N, h, w, C), infinite where they are beyond half precision.
    """

    def maps(self, pictures: np.ndarray) -> np.ndarray: ...


class Layer(NamedTuple):
    """What is kept of a picture: its type, how a session computes it, and the weights that it does not depend on."""

    dtype: np.dtype
    compute: Callable[[Any, np.ndarray], np.ndarray]
    free: Callable[[ResNetV2Config], tuple[str, ...]]  # prefixes of names


LAYERS = {
    "pooled": Layer(np.dtype(np.float32), lambda session, x: session.features(x), lambda _: ("head.",)),
    "maps": Layer(
        np.dtype(np.float16),
        lambda session, x: session.maps(x),
        lambda config: ("head.", "norm.", f"stages.{len(config.depths) - 1}."),
    ),
}


@dataclass(frozen=True, kw_only=True)
class FixedView:
    """One way to look at a picture, the same each time: as evaluation does, mirrored, or by a random choice.

    A random choice comes from the picture's content, the seed and the number, and from nothing else.
    """

    mirror: bool = False  # of evaluation's view
    augment: Augment | None = None  # None: evaluation's view
    seed: int = 0
    number: int = 0

    def cut(self, picture: Image.Image, preprocessing: Preprocessing, sha256: np.ndarray) -> np.ndarray:
        """Return uint8 (image_size, image_size, 3) of a whole RGB picture whose file has this hash, uint8 (32,)."""
        if self.augment is None:
            pixels = preprocessing(picture)
            return pixels[:, ::-1] if self.mirror else pixels
        rng = np.random.default_rng((self.seed, self.number, *sha256.view(np.uint32).tolist()))
        return self.augment(np.asarray(picture), preprocessing.image_size, rng)

    def digest(self) -> bytes:
        """Return the SHA-256 of what decides the pixels."""
        plain = asdict(self)
        if self.augment is not None:
            del plain["augment"]["resize"]  # ``fixed_views`` has one for all
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).digest()


def fixed_views(augment: Augment, count: int, seed: int = 0) -> tuple[FixedView, ...]:
    """Return ``count`` views: evaluation's, its mirror image if ``augment`` mirrors, then random choices.

    Raises:
        ConfigError: fewer than one.
    """
    if count < 1:
        raise ConfigError(f"there must be at least 1 view of a picture, got {count}")
    plain = (FixedView(), FixedView(mirror=True))[: 2 if augment.hflip else 1][:count]
    # a picture is decoded once for all of its views, and resized the same way on every machine
    whole = replace(augment, dct_scaling=False, resize=resize_box)
    random = (FixedView(augment=whole, seed=seed, number=number) for number in range(count - len(plain)))
    return (*plain, *random)


class Features:
    """Features of N pictures in V views, memory-mapped: (V, N, F), or maps (V, N, h, w, C).

    Args:
        rows: V · N of them, the views of one number beside each other.
        views: V.
        computed: how many of them were not there before.
    """

    def __init__(self, rows: Rows, views: int, computed: int) -> None:
        self._rows, self.views, self.computed = rows, views, computed

    def __len__(self) -> int:
        return len(self._rows.files) // self.views

    @property
    def shape(self) -> tuple[int, ...]:
        """Views, pictures, and the shape of a row."""
        return (self.views, len(self), *self._rows.segments[0].rows.shape[1:])

    def take(self, pictures: np.ndarray, views: np.ndarray | int = 0) -> np.ndarray:
        """Read a view of each of some pictures, both int (n,), as (n, …).

        Raises:
            Error: the cache was damaged meanwhile; the message names the file.
        """
        return self._rows.take(np.asarray(views) * len(self) + pictures)

    def array(self) -> np.ndarray:
        """Read everything into memory, (V, N, …); raises as ``take`` does."""
        return self._rows.take(np.arange(self.views * len(self))).reshape(self.shape)


def frozen_identity(config: ResNetV2Config, weights: Mapping[str, np.ndarray], layer: str) -> str:
    """Return the SHA-256 of the weights that a layer depends on: another head, for one, changes no features.

    Args:
        config: the network.
        weights: arrays by name, as a model file has them.
        layer: a key of LAYERS.
    """
    free = LAYERS[layer].free(config)
    digest = hashlib.sha256(json.dumps(replace(config, num_classes=0).to_dict(), sort_keys=True).encode())
    for name in sorted(weights):
        if not name.startswith(free):
            value = np.ascontiguousarray(weights[name])
            digest.update(f"\0{name}\0{value.dtype.str}\0{value.shape}\0".encode())
            digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def hash_pictures(samples: Samples, workers: int | None = None) -> np.ndarray:
    """Return the SHA-256 of every picture file, uint8 (N, 32); pictures in shards bring theirs along.

    Raises:
        DataError: a file cannot be read; the message names it.
    """
    out = np.empty((len(samples), 32), np.uint8)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for low in range(0, len(samples), _HASHED_AT_ONCE):
            part = samples.paths[low : low + _HASHED_AT_ONCE]
            out[low : low + len(part)] = [np.frombuffer(digest, np.uint8) for digest in pool.map(_hash, part)]
    return out


def cached_features(
    session: Any,
    identity: str,
    samples: Samples,
    preprocessing: Preprocessing,
    *,
    layer: str = "pooled",
    views: Sequence[FixedView] = (FixedView(),),
    sha256: np.ndarray | None = None,
    runtime: str = "torch",
    budget: int = BUDGET,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Counter | None = None,
) -> Features:
    """Return features of pictures; what is not in the cache is computed and kept there.

    Pictures are decoded as for evaluation, in threads, while the network works on those before them, and a picture that
    is there twice is computed once. A last batch is filled up with black, so that a picture gives the same bits
    whatever is computed beside it; they may differ by rounding from those of another ``batch_size``.

    Args:
        session: with ``features`` for "pooled" (``inference.Session``), ``maps`` for "maps" (``MapSession``).
        identity: of its weights; see ``frozen_identity``.
        samples: N pictures.
        preprocessing: the network's.
        layer: "pooled", float32 (F,), or "maps", what enters the last stage in half precision, (h, w, C).
        views: V of them.
        sha256: of the picture files, uint8 (N, 32), where it is known; see ``Index.contents``.
        runtime: the kind of session and its precision, such as "openvino-int8": rows of one kind are not for another.
        budget: bytes that all features in the cache may take; older ones go first. What does not fit is refused after
            the first batch: to compute it in every epoch would be slower than to train the whole network.
        batch_size: pictures at a time.
        workers: decoding threads; None: one for each processor, at most 8.
        progress: called with the views done and their number.

    Raises:
        DataError: a picture cannot be read, or changed meanwhile; the message names it.
        ModelFileError: features that are not finite.
        Error: the budget is too small, the disk is full, or the cache cannot be written.
    """
    digests = hash_pictures(samples, workers) if sha256 is None else np.ascontiguousarray(sha256)
    about = {
        "version": VERSION,
        "pillow": PIL.__version__,
        "weights": identity,
        "preprocessing": preprocessing.to_dict(),
        "layer": layer,
        "runtime": runtime,
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    shelf = Shelf(cache_path("features", name), LAYERS[layer].dtype)
    keys = _keys(digests, views)
    rows, computed = shelf.find(keys), 0
    if not rows.known.all() or rows.damaged():
        with locked(shelf.folder):
            rows = _find_whole(shelf, keys)  # another process may have been at it
            if not rows.known.all():
                jobs = _Jobs(samples, digests, preprocessing, views, workers or min(os.cpu_count() or 1, 8), batch_size)
                computed = _fill(shelf, keys, rows, jobs, session, LAYERS[layer], budget, progress)
                rows = shelf.find(keys)
    if not rows.known.all():
        raise Error(f"another process took the room of features in {shelf.folder.parent}: raise the budget of both")
    return Features(rows, len(views), computed)


def _find_whole(shelf: Shelf, keys: np.ndarray) -> Rows:
    """Return where the rows of keys are, after everything damaged was removed and said; for who holds the lock."""
    damaged = shelf.clear(shelf.find(keys).damaged())
    if damaged:
        talk().print(
            f"warning: {damaged} damaged files of kept features in {shelf.folder}: they are computed again",
            soft_wrap=True,
        )
    return shelf.find(keys)


def _keys(digests: np.ndarray, views: Sequence[FixedView]) -> np.ndarray:
    """Return uint64 (V · N, 2)."""
    seeds, rows = [view.digest() for view in views], [row.tobytes() for row in digests]
    keys = b"".join(hashlib.blake2b(seed + row, digest_size=16).digest() for seed in seeds for row in rows)
    return np.frombuffer(keys, np.uint64).reshape(-1, 2)


def _hash(place: Readable) -> bytes:
    try:
        return place.sha256 if isinstance(place, Member) else hashlib.sha256(place.read_bytes()).digest()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {place}: {getattr(error, 'strerror', None) or error}") from error


@dataclass(frozen=True, eq=False)
class _Jobs:
    """How pictures are decoded."""

    samples: Samples
    sha256: np.ndarray
    preprocessing: Preprocessing
    views: Sequence[FixedView]
    workers: int
    batch_size: int

    def batches(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches of wanted places among V · N, sorted by picture: the places, and uint8 (n, H, W, 3)."""
        places: list[int] = []
        pixels: list[np.ndarray] = []
        for some, cut in self._decoded(wanted):
            places += some
            pixels += cut
            while len(places) >= self.batch_size:
                yield np.array(places[: self.batch_size]), np.stack(pixels[: self.batch_size])
                del places[: self.batch_size], pixels[: self.batch_size]
        if places:
            yield np.array(places), np.stack(pixels)

    def _decoded(self, wanted: np.ndarray) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Yield the places of one picture after the other and their pixels, decoded ahead of the caller."""
        size = 3 * self.preprocessing.image_size**2 * len(self.views)
        ahead = max(self.workers, min(2 * self.batch_size, _AHEAD_BYTES // size))
        waiting: deque[tuple[list[int], Future[list[np.ndarray]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for some in np.split(wanted, np.flatnonzero(np.diff(wanted % len(self.samples))) + 1):
                    waiting.append((some.tolist(), pool.submit(self._look, some.tolist())))
                    if len(waiting) > ahead:
                        places, future = waiting.popleft()
                        yield places, future.result()
                for places, future in waiting:
                    yield places, future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _look(self, places: Sequence[int]) -> list[np.ndarray]:
        count = len(self.samples)
        i = places[0] % count
        place, sha256 = self.samples.paths[i], self.sha256[i]
        try:
            data = place.read_bytes()
            if hashlib.sha256(data).digest() != sha256.tobytes():  # else it was kept under another picture's name
                raise DataError("it has changed since it was looked at; run again")
            picture = open_picture(data)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {place}: {getattr(error, 'strerror', None) or error}") from error
        return [self.views[p // count].cut(picture, self.preprocessing, sha256) for p in places]


def _fill(
    shelf: Shelf,
    keys: np.ndarray,
    known: Rows,
    jobs: _Jobs,
    session: Any,
    layer: Layer,
    budget: int,
    progress: Counter | None,
) -> int:
    """Compute and write the rows that are not known; return how many."""
    missing = np.flatnonzero(~known.known)
    _, first = np.unique(keys[missing], axis=0, return_index=True)
    wanted = missing[first]
    wanted = wanted[np.lexsort((wanted, wanted % len(jobs.samples)))]
    done, pending = len(keys) - len(wanted), list[tuple[np.ndarray, np.ndarray]]()
    for places, pictures in jobs.batches(wanted):
        rows = np.ascontiguousarray(layer.compute(session, _pad(pictures, jobs.batch_size))[: len(places)], layer.dtype)
        if not np.isfinite(rows).all():
            raise _infinite(layer)
        if done == len(keys) - len(wanted):
            _check_room(shelf, rows[0].nbytes, len(wanted), budget, known)
        pending.append((keys[places], rows))
        done += len(places)
        held = sum(len(k) for k, _ in pending)
        if held >= _SEGMENT_ROWS or held * rows[0].nbytes >= _SEGMENT_BYTES or done == len(keys):
            shelf.add(np.concatenate([k for k, _ in pending]), np.concatenate([r for _, r in pending]))
            pending.clear()
        if progress is not None:
            progress(done, len(keys))
    return len(wanted)


def _pad(pictures: np.ndarray, count: int) -> np.ndarray:
    """Return (count, …): the pictures, and black ones."""
    return np.pad(pictures, [(0, count - len(pictures)), *[(0, 0)] * (pictures.ndim - 1)])


def _infinite(layer: Layer) -> Error:
    if layer.dtype == np.float16:
        most = float(np.finfo(np.float16).max)
        return Error(
            f"the network's maps exceed {most:,.0f}, beyond what half precision holds: train without keeping them"
        )
    return ModelFileError("the network answers with NaN or infinity: its weights are damaged")


def _check_room(shelf: Shelf, row: int, count: int, budget: int, known: Rows) -> None:
    need, rows = row * count, row * len(known.files)
    if rows > budget:
        raise Error(
            f"features of these pictures take {_giga(rows)}, {row:,} bytes for each view of a picture, and the budget "
            f"is {_giga(budget)}: raise it, or take fewer views or smaller pictures"
        )
    make_room(shelf.folder.parent, need, budget, known)
    there: Path = shelf.folder.parent
    free = shutil.disk_usage(there).free
    if need > free:
        raise Error(
            f"features of these pictures need {_giga(need)} more and {there} has {_giga(free)} free: "
            f"make room, or set {VARIABLE} to a folder on a larger disk"
        )


def _giga(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
