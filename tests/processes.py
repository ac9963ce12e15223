"""Several processes that meet as those of ``torchrun`` do, started in a blink: torch is imported once, then forked."""

import multiprocessing
import os
import queue
import socket
import traceback

from resnetv2.errors import Interrupted

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["resnetv2.training.run", "resnetv2.training.plots", "matplotlib.figure", "hypothesis"])


def environment(rank, size, port):
    """Return what ``torchrun`` tells a process."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {**{k: str(v) for k, v in names.items()}, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def together(size, function, *arguments, timeout=600, silent=()):
    """Call ``function(*arguments)`` in processes of their own and return what each returned, or the error it raised,
    or the exit code that a signal gave it.

    Processes in ``silent`` are not waited for, and answer None.
    """
    answers, port = CONTEXT.Queue(), free_port()
    started = [
        CONTEXT.Process(target=_answer, args=(environment(rank, size, port), answers, function, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in started:
        process.start()
    found = {}
    try:
        while len(found) < size - len(silent):
            rank, value = answers.get(timeout=timeout)
            found[rank] = value
    except queue.Empty:
        missing = sorted(set(range(size)) - set(found) - set(silent))
        raise AssertionError(f"processes {missing} gave no answer; the others: {found}") from None
    finally:
        for process in started:
            process.kill()
            process.join()
    return [found.get(rank) for rank in range(size)]


def _answer(variables, answers, function, arguments):
    os.environ.update(variables)
    import torch

    torch.set_num_threads(1)
    try:
        value = function(*arguments)
    except Interrupted as stop:
        value = stop.exit_code
    except Exception as error:  # noqa: BLE001  the test that waits looks at it
        traceback.print_exc()
        value = error
    answers.put((int(variables["RANK"]), value))
