"""The processes that train one network together: which of them this is, and how they agree. One alone pays nothing.

``torchrun`` starts the processes and says in the environment who they are; what they exchange goes over gloo between
CPUs and over NCCL between GPUs. Every process holds the same weights, optimizer and average after every step, so one
of them can speak and write for all.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Thread
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import distributed_c10d as c10d

from resnetv2.data.load import Share
from resnetv2.errors import ConfigError, Error
from resnetv2.runtime.pytorch import choose_device

_Result = TypeVar("_Result")
_POLL = 0.05  # seconds between two looks whether the first process is done
_FOREVER = timedelta(days=30)  # torchrun ends who waits for a process that died
_BUCKET = 25 * 2**20  # bytes of gradients that are sent at once, as in DistributedDataParallel
_START = 600.0  # seconds at least, in which all processes must have read data and weights
_GRACE = 3.0  # seconds in which those who lost another say so; all of them do within milliseconds


@dataclass
class World:
    """The processes of a run, seen from one of them. Made by ``from_environment``; without arguments, one alone.

    Attributes:
        rank: this process, counted from 0. The first one speaks and writes.
        size: how many there are.
        local_rank, local_size: the same on this host.
        restarts: how often ``torchrun`` has started them again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    _store: c10d.Store | None = field(default=None, repr=False)  # where they leave word for each other

    @classmethod
    def from_environment(cls) -> World:
        """Return the world that ``torchrun``, or whoever sets its variables, describes; else this process alone."""
        rank, size, local_rank, local_size, restarts = (
            int(os.environ.get(name, default))
            for name, default in (
                ("RANK", 0),
                ("WORLD_SIZE", 1),
                ("LOCAL_RANK", 0),
                ("LOCAL_WORLD_SIZE", 1),
                ("TORCHELASTIC_RESTART_COUNT", 0),
            )
        )
        is_launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)
        return cls(rank, size, local_rank, local_size, restarts) if is_launched else cls()

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return this process's device: with several on a host, each has a GPU of its own.

        Raises:
            ConfigError: no such device here, or one that several processes cannot share.
        """
        device = choose_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or ":" in name:
            raise ConfigError(
                f"{self.size} processes cannot train on {name!r}: choose --device cuda, each has its own, or cpu"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{self.local_size} processes need as many GPUs, and this host has {torch.cuda.device_count()}: "
                "lower --nproc-per-node, or choose --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def share(self, parts: int = 1) -> Share:
        """Return which pictures of a batch, computed in ``parts``, are this process's."""
        return Share(self.rank, self.size, parts)

    # --- before the processes are connected ---

    def lead(self, action: Callable[[], _Result]) -> _Result | None:
        """Let the first process act while the others wait; they get None.

        Raises:
            Error: in the others, where the first one failed; it says why itself.
        """
        if self.size == 1:
            return action()
        store = self._meet()
        if self.is_first:
            outcome = "failed"
            try:
                result = action()
                outcome = "done"
                return result
            finally:
                store.set("led", outcome)
        try:
            while not store.check(["led"]):
                time.sleep(_POLL)
            led = store.get("led")
        except RuntimeError:  # it left, and the store with it, before this process had asked
            led = b"failed"
        if led != b"done":
            raise Error(f"process {self.rank} stops because the first one did, which says why")
        return None

    def _meet(self) -> c10d.Store:
        """Return the store that the processes share, under a name for this run of theirs."""
        if self._store is None:
            from torch.distributed.rendezvous import rendezvous

            store, _, _ = next(rendezvous("env://", timeout=_FOREVER))
            run = store.add(f"runs/{self.rank}", 1)  # one process may train several times; all do so equally often
            self._store = c10d.PrefixStore(f"resnetv2/{run}", store)
        return self._store

    # --- connected ---

    @contextmanager
    def connected(self, seconds: float) -> Iterator[None]:
        """Let the processes exchange tensors within the block.

        Args:
            seconds: to wait for a process that does not answer.

        Raises:
            Error: one of them did not answer, or is gone; those are named.
        """
        if self.size == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store = self._meet()
        store.set(f"host/{self.rank}", socket.gethostname())
        try:
            store.wait([f"host/{rank}" for rank in range(self.size)], timedelta(seconds=max(seconds, _START)))
            distributed.init_process_group(
                backend,
                store=c10d.PrefixStore("group", store),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=seconds),
            )
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            raise Error(self._explain(error, seconds)) from error
        finally:
            self._part()

    def _explain(self, error: RuntimeError, seconds: float) -> str:
        """Say which processes are gone or stuck."""
        self._part()  # who waits for this process learns at once that it is in vain
        found: list[list[str]] = []
        asking = Thread(target=lambda: found.append(self._silent()), daemon=True)
        asking.start()
        asking.join(2 * _GRACE)  # the store is on the first host, and no call of it ends when that does not answer
        named, why = found[0] if found else ["the host of process 0"], str(error).partition("\n")[0]
        if not named:
            return f"the processes lost each other, though all of them still run: the network between them? ({why})"
        return (
            f"{', '.join(named)} ended, or did not answer for {seconds:g} s (peer_timeout_s): see what it said last, "
            f"and go on with --resume ({why})"
        )

    def _silent(self) -> list[str]:
        """Return the processes that are gone or stuck: those that do not say that they lost another."""
        try:
            store = self._meet()
            store.set(f"lost/{self.rank}", "")
            until = time.monotonic() + _GRACE
            silent = set(range(self.size))
            while silent and time.monotonic() < until:
                silent = {rank for rank in silent if not store.check([f"lost/{rank}"])}
                time.sleep(_POLL)
            return [f"process {rank} on {store.get(f'host/{rank}').decode()}" for rank in sorted(silent)]
        except RuntimeError:
            return ["the host of process 0"]

    def _part(self) -> None:
        if distributed.is_initialized():
            with suppress(RuntimeError):  # what is broken already need not be closed in order
                distributed.destroy_process_group()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in double precision, the same bits in each."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        """Return the largest value of all processes."""
        return self._reduce([value], distributed.ReduceOp.MAX)[0]

    def _reduce(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, operation)
        return tensor.tolist()

    @torch.no_grad()
    def total(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type and device by their sums over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, values in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (n, …) of all processes, in the order of these; their numbers may differ."""
        if self.size == 1:
            return rows
        counts = [int(n) for n in self.sum([len(rows) if rank == self.rank else 0 for rank in range(self.size)])]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(found, padded)
        return torch.cat([part[:n] for part, n in zip(found, counts, strict=True)])

    def take(self, rows: Tensor, places: Tensor, parts: int) -> Tensor:
        """Return this process's part of ``batch[places]`` of a batch that is shared out.

        Args:
            rows: this process's pictures of the batch, or what belongs to each, (n, …).
            places: int64 (N,), of the whole batch.
            parts: that the batch is computed in.
        """
        if self.size == 1:
            return rows[places]
        n = len(places)
        order = torch.cat([torch.from_numpy(Share(rank, self.size, parts).places(n)) for rank in range(self.size)])
        wanted = places.cpu()[torch.from_numpy(self.share(parts).places(n))]
        return self.gather(rows.contiguous())[torch.argsort(order)[wanted].to(rows.device)]


class Gradients:
    """Sums gradients over the processes while backward is still at work: in buckets, each sent once it is whole.

    ``DistributedDataParallel`` does the same, and lays out its buckets anew after its first step. Three processes or
    more then add in another order, and a resumed run had other bits than one that never stopped. Here the layout is
    fixed.

    Args:
        model: whose trained parameters get gradients, the same ones in every process.
    """

    def __init__(self, model: nn.Module) -> None:
        self.buckets: list[list[Tensor]] = []
        self.missing: list[int] = []  # gradients that a bucket still waits for
        self.sent: list[tuple[Tensor, distributed.Work]] = []
        self.is_last = False
        size = _BUCKET
        for parameter in reversed([p for p in model.parameters() if p.requires_grad]):  # as backward comes to them
            if size >= _BUCKET or parameter.dtype != self.buckets[-1][0].dtype:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            size += parameter.numel() * parameter.element_size()
            place = len(self.buckets) - 1
            parameter.register_post_accumulate_grad_hook(lambda _, place=place: self._came(place))  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Send what the next backward adds up; before it, gradients stay in each process."""
        self.missing, self.sent, self.is_last = [len(bucket) for bucket in self.buckets], [], True

    def finish(self) -> None:
        """Wait until every gradient is the sum over all processes."""
        self.is_last = False
        while len(self.sent) < len(self.buckets):  # with parameters that had no part in the loss
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            for parameter, values in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(values.view_as(parameter))

    def _came(self, place: int) -> None:
        if self.is_last:
            self.missing[place] -= 1
            while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:  # in one order everywhere
                self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        self.sent.append((flat, distributed.all_reduce(flat, async_op=True)))
