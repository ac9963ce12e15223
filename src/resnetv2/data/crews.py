"""Who decodes: threads of this process, or processes of their own. The pictures are the same to the bit.

Threads share what is kept decoded and cost nothing to start. Processes do not wait for each other's Python, which
counts where pictures are so small that Python is most of the work.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from resnetv2.console import talk
from resnetv2.data.decoding import Decoder, Task

_AT_ONCE = 8  # pictures a thread takes in one go at most: handing over tiny ones singly costs as much as decoding them
_AT_ONCE_FAR = 32  # a process: handing over costs more
_OBJECT_BYTES = 256  # what Python adds to a kept array
_SHARED = Path("/dev/shm")  # noqa: S108  where Linux keeps shared memory; small in containers

Finish = Callable[[], np.ndarray]  # waits for a batch and returns it, uint8 (N, H, W, 3)
Begin = Callable[[Decoder, Sequence[Task]], Finish]


class Budget:
    """Bytes of memory that loaders may fill with decoded pictures, shared among them.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Spend ``size`` bytes, if they are left."""
        with self._lock:
            fits = size <= self.left
            self.left -= size if fits else 0
            return fits


class Threads:
    """Threads that decode, and the pictures they keep decoded.

    Args:
        workers: their number.
        budget: of memory for what is kept.
    """

    def __init__(self, workers: int, budget: Budget) -> None:
        self.workers, self.budget = workers, budget
        self.seconds = 0.0  # of work, all threads together
        self.kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def at_work(self, _batches: int, _bytes: int) -> Iterator[Begin]:
        """Yield what begins a batch; when the block ends, no thread is left."""
        pool = ThreadPoolExecutor(self.workers)
        try:
            yield partial(self._begin, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, decoder: Decoder, tasks: Sequence[Task]) -> Finish:
        pictures = _empty(decoder, tasks)
        parts = _parts(len(tasks), self.workers, _AT_ONCE)
        futures = [pool.submit(self._fill, decoder, tasks[part], pictures[part]) for part in parts]

        def finish() -> np.ndarray:
            for future in futures:
                future.result()
            return pictures

        return finish

    def _fill(self, decoder: Decoder, tasks: Sequence[Task], out: np.ndarray) -> None:
        began = time.perf_counter()
        for place, task in enumerate(tasks):
            kept = self.kept.get(task.number)
            out[place], pixels = decoder(task, kept)
            if kept is None and pixels is not None:
                self._keep(task.number, pixels)
        with self._lock:
            self.seconds += time.perf_counter() - began

    def _keep(self, index: int, pixels: np.ndarray) -> None:
        with self._lock:  # a balanced epoch may have two threads decode one picture at once
            if index not in self.kept and self.budget.take(pixels.nbytes + _OBJECT_BYTES):
                self.kept[index] = pixels.copy()  # it may be a part of something larger


class Processes:
    """Processes that decode into shared memory; threads take over where they cannot start, or when one dies.

    They are started for the first batch and stay for later epochs; they end when this object goes, and when the process
    that started them does, however it dies. They leave Ctrl-C to it. They keep nothing decoded.

    Args:
        workers: their number.
        threads: what takes over.
    """

    def __init__(self, workers: int, threads: Threads) -> None:
        self.workers, self.threads = workers, threads
        self.pool: ProcessPoolExecutor | None = None
        self.lost = False
        self.worked = 0.0

    @property
    def seconds(self) -> float:
        """Of work, all processes and threads together."""
        return self.worked + self.threads.seconds

    @contextlib.contextmanager
    def at_work(self, batches: int, size: int) -> Iterator[Begin]:
        """Yield what begins a batch; when the block ends, the shared memory is gone.

        Args:
            batches: that are under way at once.
            size: of the largest batch, in bytes.
        """
        with contextlib.ExitStack() as stack:
            shift = _Shift(self, stack, batches, size)
            yield shift.begin

    def start(self) -> ProcessPoolExecutor | None:
        """Return the processes, or None where there are none to be had; then that is said."""
        if self.pool is None and not self.lost:
            try:
                with _deaf():
                    pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _prepare)
                    ready = [pool.submit(os.getpid) for _ in range(self.workers)]
                for future in ready:
                    future.result()
                self.pool = pool
            except (OSError, ImportError, AssertionError, BrokenExecutor) as error:  # the third: of a daemon's child
                self.lose(f"worker processes cannot be started here ({error})")
        return self.pool

    def lose(self, reason: str) -> None:
        """Go on in threads for good, and say why."""
        if not self.lost:
            talk().print(f"warning: {reason}: decoding in threads instead", soft_wrap=True)
        self.lost, self.pool = True, None


class _Shift:
    """An epoch's work: slots of shared memory, each for a batch."""

    def __init__(self, crew: Processes, stack: contextlib.ExitStack, batches: int, size: int) -> None:
        self.crew, self.stack, self.batches, self.size = crew, stack, batches, size
        self.futures: set[Future[float]] = set()
        self.instead: Begin | None = None
        self.memory: SharedMemory | None = None
        if crew.start() is not None:
            self.memory = self._share()
        self.free = [size * slot for slot in range(batches)]

    def begin(self, decoder: Decoder, tasks: Sequence[Task]) -> Finish:
        pool, memory = self.crew.pool, self.memory
        if pool is None or memory is None:
            return self._instead(decoder, tasks)
        start, each = self.free.pop(), _empty(decoder, tasks[:1]).nbytes
        parts = _parts(len(tasks), self.crew.workers, _AT_ONCE_FAR)
        try:
            with _deaf():  # the pool starts a process when it wants one more
                futures = [pool.submit(_decode, decoder, tasks[p], memory.name, start + each * p.start) for p in parts]
        except BrokenExecutor:
            self.crew.lose("a worker process died")
            return self._instead(decoder, tasks)
        self.futures.update(futures)
        return partial(self._finish, memory, decoder, tasks, start, futures)

    def _finish(
        self,
        memory: SharedMemory,
        decoder: Decoder,
        tasks: Sequence[Task],
        start: int,
        futures: Sequence[Future[float]],
    ) -> np.ndarray:
        try:
            self.crew.worked += sum(future.result() for future in futures)
        except BrokenExecutor:
            self.crew.lose("a worker process died")
            return self._instead(decoder, tasks)()
        self.futures.difference_update(futures)
        shape = _empty(decoder, tasks).shape
        pictures = np.ndarray(shape, np.uint8, memory.buf, start).copy()  # the slot is for another batch now
        self.free.append(start)
        return pictures

    def _instead(self, decoder: Decoder, tasks: Sequence[Task]) -> Finish:
        if self.instead is None:
            self.instead = self.stack.enter_context(self.crew.threads.at_work(self.batches, self.size))
        return self.instead(decoder, tasks)

    def _share(self) -> SharedMemory | None:
        size = self.batches * self.size
        if _SHARED.is_dir() and shutil.disk_usage(_SHARED).free < size:  # beyond it, a process is killed at a touch
            self.crew.lose(f"{_SHARED} has less than the {size:,} bytes of shared memory that batches need")
            return None
        try:
            memory = SharedMemory(create=True, size=size)
        except OSError as error:
            self.crew.lose(f"no {size:,} bytes of shared memory can be had ({error.strerror or error})")
            return None
        self.stack.callback(memory.unlink)
        self.stack.callback(memory.close)
        self.stack.callback(self._drain)  # first of the three
        return memory

    def _drain(self) -> None:
        for future in self.futures:
            future.cancel()
        wait(self.futures)


def _empty(decoder: Decoder, tasks: Sequence[Task]) -> np.ndarray:
    return np.empty((len(tasks), decoder.size, decoder.size, 3), np.uint8)


def _parts(count: int, workers: int, most: int) -> list[slice]:
    step = max(1, min(most, count // workers))
    return [slice(low, min(low + step, count)) for low in range(0, count, step)]


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let no Ctrl-C reach processes that are started in the block before they know what to do with it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # who starts it in the block finds Ctrl-C let in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """Begin a worker process: Ctrl-C is its parent's affair, and when that dies, so does this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _decode(decoder: Decoder, tasks: Sequence[Task], name: str, start: int) -> float:
    """Decode into shared memory, in a worker process; return the seconds it took."""
    began = time.perf_counter()
    memory = SharedMemory(name)
    try:
        shape = _empty(decoder, tasks).shape
        for place, task in enumerate(tasks):
            np.ndarray(shape, np.uint8, memory.buf, start)[place] = decoder(task)[0]
    finally:
        memory.close()
    return time.perf_counter() - began
