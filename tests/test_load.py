import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, noise, write_dataset, write_picture

from resnetv2.data import crews, decoding, load
from resnetv2.data.augment import Augment
from resnetv2.data.crews import Budget
from resnetv2.data.index import Samples, read_index
from resnetv2.data.load import Loader, batch_bounds
from resnetv2.errors import DataError
from resnetv2.preprocess import Preprocessing, open_picture, open_pixels

visible = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="where shared memory and processes can be seen")
SIZE = Preprocessing(image_size=8, resize=9)
AUGMENT = Augment(scale=(0.3, 1.0), ratio=(0.75, 4 / 3), hflip=0.5)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Return 21 pictures of two classes."""
    root = write_dataset(tmp_path_factory.mktemp("data"), {"train": {"a": 10, "b": 11}, "val": {"a": 1, "b": 1}}, 12)
    return read_index(root).split("train")


def listed(batches):
    return [(batch.indices.tolist(), batch.labels.tolist(), batch.pictures.tobytes()) for batch in batches]


# --- the same batches, whatever decodes them ---


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_the_batches_are_the_same_for_any_number_of_workers(samples, augment):
    one, two, seven = (listed(Loader(samples, 4, SIZE, augment, 3, workers).batches(5)) for workers in (1, 2, 7))
    assert one == two == seven


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_from_any_position_the_rest_of_the_epoch_comes(samples, augment):
    loader = Loader(samples, 4, SIZE, augment, seed=3, workers=2)
    whole = listed(loader.batches(2))
    assert len(whole) == len(loader) == 6
    for start in range(len(loader) + 1):
        assert listed(loader.batches(2, start)) == whole[start:]


def test_balanced_batches_are_the_same_for_any_number_of_workers_and_from_any_position(tmp_path):
    data = write_dataset(tmp_path, {"train": {"a": 17, "b": 3}, "val": {"a": 1, "b": 1}}, 12)
    some = read_index(data).split("train")
    loaders = [Loader(some, 4, SIZE, AUGMENT, 3, workers, sampling="balanced") for workers in (1, 2, 7)]
    whole = listed(loaders[0].batches(2))
    assert sum(labels.count(1) for _, labels, _ in whole) == 10
    assert all(listed(loader.batches(2)) == whole for loader in loaders)
    assert all(listed(loaders[1].batches(2, start)) == whole[start:] for start in range(len(whole)))
    assert listed(loaders[0].batches(3)) != whole


def test_a_picture_that_comes_again_in_an_epoch_comes_in_another_crop(tmp_path):
    data = write_dataset(tmp_path, {"train": {"a": 17, "b": 3}, "val": {"a": 1, "b": 1}}, 40)
    some = read_index(data).split("train")
    for budget in (None, Budget(10**9)):  # decoded each time, and kept
        loader = Loader(some, 4, SIZE, AUGMENT, 3, 2, budget, "balanced")
        views = {}
        for batch in loader.batches(1):
            for index, picture in zip(batch.indices.tolist(), batch.pictures, strict=True):
                views.setdefault(index, []).append(picture.tobytes())
        repeated = [found for found in views.values() if len(found) > 1]
        assert len(repeated) == 3, "the three of class b, each three or four times"
        assert all(len(set(found)) == len(found) for found in repeated)


def test_evaluation_takes_every_picture_once_whatever_the_sampling(samples):
    assert listed(Loader(samples, 4, SIZE, sampling="balanced").batches()) == listed(Loader(samples, 4, SIZE).batches())


def test_every_sample_comes_once_in_an_epoch_with_its_label_and_picture(samples):
    whole = Augment(scale=(1, 1), ratio=(1, 1), hflip=0)
    seen = []
    for batch in Loader(samples, 4, Preprocessing(image_size=12, resize=12), whole, workers=2).batches():
        assert batch.pictures.dtype == np.uint8
        assert batch.pictures.shape == (len(batch.indices), 12, 12, 3)
        assert batch.labels.dtype == np.int64
        for picture, label, index in zip(batch.pictures, batch.labels, batch.indices, strict=True):
            np.testing.assert_array_equal(picture, np.asarray(open_picture(samples.paths[index])))
            assert label == samples.labels[index]
        seen += batch.indices.tolist()
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(21))


def test_epochs_and_seeds_differ_in_order_and_in_crops(samples):
    epochs = [listed(Loader(samples, 4, SIZE, AUGMENT, seed, 2).batches(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    orders = {tuple(i for indices, _, _ in epoch for i in indices) for epoch in epochs}
    assert len(orders) == 4
    crops = set()
    for seed in (0, 1):
        for epoch in (0, 1):
            batches = list(Loader(samples, 21, SIZE, AUGMENT, seed, 2).batches(epoch))
            crops.add(batches[0].pictures[batches[0].indices.tolist().index(0)].tobytes())
    assert len(crops) == 4


def test_evaluation_takes_the_pictures_in_order_and_preprocesses_them(samples):
    batches = list(Loader(samples, 4, SIZE, workers=2).batches(epoch=7))
    assert [i for batch in batches for i in batch.indices] == list(range(21))
    found = np.concatenate([batch.pictures for batch in batches])
    np.testing.assert_array_equal(found, SIZE.decode(samples.paths))


def test_no_batch_is_much_smaller_than_the_others(samples):
    assert [len(batch.indices) for batch in Loader(samples, 4, SIZE, workers=1).batches()] == [3, 4, 3, 4, 3, 4]


def test_a_single_sample_too_many_joins_a_batch_where_batch_norm_learns(samples):
    three = Samples(samples.paths[:3], samples.labels[:3])
    augment = Augment(scale=(1, 1), ratio=(1, 1), hflip=0)
    assert [len(batch.indices) for batch in Loader(three, 2, SIZE, augment, workers=1).batches()] == [3]
    assert [len(batch.indices) for batch in Loader(three, 2, SIZE, workers=1).batches()] == [1, 2]


def test_no_samples_make_no_batches():
    assert list(Loader(Samples((), np.zeros(0, np.int64)), 4, SIZE).batches()) == []


@pytest.mark.parametrize("workers", [1, 2, 3, 30])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 21])
def test_tasks_of_several_pictures_fill_batches_of_any_size(samples, size, workers):
    found = np.concatenate([batch.pictures for batch in Loader(samples, size, SIZE, workers=workers).batches()])
    np.testing.assert_array_equal(found, SIZE.decode(samples.paths))


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 2))
def test_batches_cover_every_sample_once_in_even_parts(count, batch_size, least):
    bounds = batch_bounds(count, batch_size, least)
    assert [i for low, high in bounds for i in range(low, high)] == list(range(count))
    sizes = [high - low for low, high in bounds]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert max(sizes, default=0) <= max(batch_size, least) + (least - 1)
    assert min(sizes, default=least) >= min(least, count)


# --- pictures that cannot be read, and readers that leave ---


def test_a_picture_that_cannot_be_read_is_named_where_it_comes_and_no_thread_stays(samples, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(encode(noise(50, 50))[:1000])
    paths = (*samples.paths[:9], bad, *samples.paths[10:])
    batches = Loader(Samples(paths, samples.labels), 4, SIZE, workers=3).batches()
    before = set(threading.enumerate())
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(DataError, match=f"^cannot read {bad}: damaged picture"):
        next(batches)
    assert set(threading.enumerate()) == before


def test_a_picture_that_vanished_is_named(samples, tmp_path):
    batches = Loader(Samples((*samples.paths[:3], tmp_path / "gone.png"), samples.labels[:4]), 2, SIZE).batches()
    with pytest.raises(DataError, match=r"^cannot read .*gone.png: No such file"):
        list(batches)


def test_an_iteration_that_is_left_leaves_no_thread_behind(samples):
    before = set(threading.enumerate())
    for _ in Loader(samples, 2, SIZE, AUGMENT, workers=3).batches():
        assert set(threading.enumerate()) - before
        break
    gc.collect()
    assert set(threading.enumerate()) == before


def test_an_iteration_that_is_left_by_an_error_leaves_no_thread_behind(samples):
    before = set(threading.enumerate())
    batches = Loader(samples, 2, SIZE, workers=3).batches()
    next(batches)
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt)
    assert set(threading.enumerate()) == before


def test_only_a_few_batches_are_decoded_ahead(samples, monkeypatch):
    asked = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *args):
            asked.append(args)
            return super().submit(*args)

    monkeypatch.setattr(crews, "ThreadPoolExecutor", Pool)
    loader = Loader(samples, 2, SIZE, workers=2)
    batches = loader.batches()
    for taken in range(1, 5):
        next(batches)
        assert len(asked) == loader.bounds[taken + 2][1]  # those taken, and three more


def test_fewer_batches_are_decoded_ahead_where_they_are_large(samples, monkeypatch):
    monkeypatch.setattr(load, "_AHEAD_BYTES", 2 * (2 * 3 * 8 * 8))  # two batches
    asked = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *args):
            asked.append(args)
            return super().submit(*args)

    monkeypatch.setattr(crews, "ThreadPoolExecutor", Pool)
    batches = Loader(Samples(samples.paths[:20], samples.labels[:20]), 2, SIZE, workers=2).batches()
    for taken in range(1, 5):
        next(batches)
        assert len(asked) == 2 * (taken + 2)  # each batch is two tasks for two threads
    monkeypatch.setattr(load, "_AHEAD_BYTES", 1)
    assert len(list(Loader(samples, 2, SIZE).batches())) == 11, "one batch is always decoded ahead"


# --- pictures that are kept decoded ---


@pytest.fixture
def opened(monkeypatch):
    """Count the pictures that are decoded."""
    seen = []
    for name in ("open_picture", "open_pixels"):
        real = getattr(decoding, name)
        monkeypatch.setattr(decoding, name, lambda *args, real=real: seen.append(args[0]) or real(*args))
    return seen


@pytest.mark.parametrize("augment", [None, AUGMENT])
@pytest.mark.parametrize("kept", [0, 1, 5, 21])
def test_kept_pictures_are_decoded_once_and_change_no_bit(samples, opened, augment, kept):
    each = 3 * (8 if augment is None else 12) ** 2 + 256  # of evaluation the 8 pixels seen, of training all 12
    loader = Loader(samples, 4, SIZE, augment, 3, 2, Budget(kept * each))
    plain = Loader(samples, 4, SIZE, augment, 3, 2)
    for epoch in range(3):
        opened.clear()
        found = listed(loader.batches(epoch))
        assert len(opened) == (21 - kept if epoch else 21)
        assert found == listed(plain.batches(epoch))


def test_pictures_of_twice_the_side_are_not_kept_for_training(samples, opened):
    loader = Loader(samples, 4, Preprocessing(image_size=6, resize=6), AUGMENT, 3, 2, Budget(10**6))
    for _ in range(2):
        opened.clear()
        list(loader.batches())
        assert len(opened) == 21


def test_loaders_spend_one_budget_together_and_never_more(samples):
    budget = Budget(10 * (3 * 8 * 8 + 256) + 100)
    loaders = [Loader(samples, 4, SIZE, workers=4, budget=budget) for _ in range(3)]
    for loader in loaders:
        list(loader.batches())
    kept = [array for loader in loaders for array in loader.crew.kept.values()]
    assert len(kept) == 10
    assert budget.left == 100


def test_jpegs_decoded_smaller_are_the_same_with_and_without_kept_pictures(tmp_path):
    for i, side in enumerate([6, 11, 15, 16, 17, 30, 64, 90]):
        write_picture(tmp_path / "train" / "ab"[i % 2] / f"{i}.jpg", noise(side, side + i % 2, i))
    some = read_index(tmp_path).split("all")
    augment = replace(AUGMENT, dct_scaling=True, scale=(0.3, 2.0))
    kept, plain = (Loader(some, 3, SIZE, augment, 1, 2, Budget(size)) for size in (10**6, 0))
    for epoch in range(4):
        assert listed(kept.batches(epoch)) == listed(plain.batches(epoch))
    assert len(kept.crew.kept) == 3


def test_the_loader_tells_how_long_its_threads_worked(samples):
    loader = Loader(samples, 4, SIZE, workers=2)
    assert loader.seconds == 0
    list(loader.batches())
    once = loader.seconds
    assert once > 0
    list(loader.batches())
    assert loader.seconds > once


def test_a_picture_that_two_threads_decode_at_once_is_paid_for_once(samples, monkeypatch):
    meeting = threading.Barrier(4)

    def together(*args):
        meeting.wait(timeout=10)
        return open_pixels(*args)

    monkeypatch.setattr(decoding, "open_pixels", together)
    some = Samples(samples.paths[:4], np.array([0, 1, 1, 1]))  # the first comes twice in a balanced epoch
    budget = Budget(10**6)
    loader = Loader(some, 4, SIZE, AUGMENT, 3, 4, budget, sampling="balanced")
    list(loader.batches())
    spent = sum(kept.nbytes + 256 for kept in loader.crew.kept.values())
    assert loader.crew.kept
    assert budget.left == 10**6 - spent


# --- in another size ---


@pytest.mark.parametrize("size", [4, 8, 13])
def test_batches_of_another_size_are_the_same_pictures_in_that_size(samples, size):
    loader = Loader(samples, 4, SIZE, AUGMENT, seed=3)
    as_is, other = list(loader.batches(5)), list(loader.batches(5, size=size))
    assert [b.labels.tolist() for b in other] == [b.labels.tolist() for b in as_is]
    assert {b.pictures.shape[1:] for b in other} == {(size, size, 3)}
    fixed = Loader(samples, 4, replace(SIZE, image_size=size, resize=13), AUGMENT, seed=3)
    assert listed(other) == listed(fixed.batches(5))
    assert listed(loader.batches(5, start=2, size=size)) == listed(other)[2:]


# --- processes ---


@pytest.fixture(scope="module")
def two_processes(samples):
    return Loader(samples, 4, SIZE, AUGMENT, 3, 2, worker_type="processes")


def test_processes_give_the_bits_of_threads_from_any_position(samples, two_processes):
    threads = Loader(samples, 4, SIZE, AUGMENT, 3, 5)
    for epoch in (2, 3):
        assert listed(two_processes.batches(epoch)) == listed(threads.batches(epoch))
    assert listed(two_processes.batches(2, 4)) == listed(threads.batches(2, 4))
    assert two_processes.crew.pool is not None, "they are there and did the work"
    assert two_processes.seconds > 0
    assert threads.crew.kept == {}


def shared_memory(process):
    return set(re.findall("/dev/shm/psm_[0-9a-f]+", Path(f"/proc/{process}/maps").read_text()))


@visible
def test_shared_memory_lasts_as_long_as_the_iteration(two_processes):
    batches = two_processes.batches()
    next(batches)
    (memory,) = shared_memory(os.getpid())
    assert Path(memory).exists()
    batches.close()
    assert shared_memory(os.getpid()) == set()
    assert not Path(memory).exists()


def test_a_bad_picture_is_named_by_processes_too_and_the_next_epoch_can_begin(samples, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(encode(noise(50, 50))[:1000])
    loader = Loader(Samples([*samples.paths[:3], bad], samples.labels[:4]), 2, SIZE, workers=1, worker_type="processes")
    for _ in range(2):
        with pytest.raises(DataError, match=f"^cannot read {re.escape(str(bad))}: damaged picture"):
            list(loader.batches())


def test_a_process_that_dies_is_told_and_threads_give_the_same_bits(samples, capsys):
    loader = Loader(samples, 2, SIZE, AUGMENT, 3, 2, worker_type="processes")
    batches = loader.batches(1)
    found = [next(batches)]
    for worker in list(loader.crew.pool._processes.values()):
        worker.kill()
    found += batches
    assert listed(found) == listed(Loader(samples, 2, SIZE, AUGMENT, 3, 2).batches(1))
    assert capsys.readouterr().err == "warning: a worker process died: decoding in threads instead\n"


def test_where_no_process_can_be_started_threads_do_the_work_and_that_is_said_once(samples, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("no semaphores")

    monkeypatch.setattr(crews, "ProcessPoolExecutor", refuse)
    loader = Loader(samples, 4, SIZE, AUGMENT, 3, 2, worker_type="processes")
    expected = listed(Loader(samples, 4, SIZE, AUGMENT, 3, 2).batches(1))
    assert listed(loader.batches(1)) == listed(loader.batches(1)) == expected
    said = "warning: worker processes cannot be started here (no semaphores): decoding in threads instead\n"
    assert capsys.readouterr().err == said


def test_where_shared_memory_is_too_small_threads_do_the_work(samples, monkeypatch, capsys):
    monkeypatch.setattr(crews, "_SHARED", Path(__file__).parent)
    monkeypatch.setattr(crews.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    loader = Loader(samples, 4, SIZE, AUGMENT, 3, 1, worker_type="processes")
    assert listed(loader.batches(1)) == listed(Loader(samples, 4, SIZE, AUGMENT, 3, 2).batches(1))
    assert "has less than the 3,072 bytes of shared memory" in capsys.readouterr().err


WORK = """
import os, signal, sys, time
from pathlib import Path
from resnetv2.data.augment import Augment
from resnetv2.data.index import read_index
from resnetv2.data.load import Loader
from resnetv2.preprocess import Preprocessing
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    samples = read_index(Path(sys.argv[1])).split("all")
    augment = Augment(scale=(0.3, 1.0), ratio=(0.75, 4 / 3), hflip=0.5)
    size = Preprocessing(image_size=8, resize=9)
    loader = Loader(samples, 2, size, augment, workers=2, worker_type="processes")
    try:
        for epoch in range(10_000):
            for batch in loader.batches(epoch):
                if epoch == 1:
                    print(*loader.crew.pool._processes, flush=True)
                    epoch = 2
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@visible
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_stopped_or_killed(tmp_path, number):
    data = write_dataset(tmp_path / "data", {"train": {"a": 10, "b": 10}, "val": {"a": 1, "b": 1}}, 12)
    script = tmp_path / "work.py"
    script.write_text(WORK)
    words = [sys.executable, str(script), str(data)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        workers = [int(word) for word in run.stdout.readline().split()]
        memory = [Path(name) for name in shared_memory(run.pid)]
        assert len(workers) == 2
        assert len(memory) == 1
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does: to all of them
        else:
            run.kill()
        said, complained = run.communicate(timeout=60)
    if number == signal.SIGINT:
        assert said.splitlines()[-1] == "stopped"
        assert complained == ""
        assert run.returncode == 0
    deadline = time.monotonic() + 20
    while (memory[0].exists() or any(map(is_alive, workers))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    assert not memory[0].exists()


def is_alive(process):
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_process_that_dies_while_it_has_nothing_to_do_is_told_and_threads_go_on(samples, capsys):
    loader = Loader(samples, 2, SIZE, AUGMENT, 3, 2, worker_type="processes")
    batches = loader.batches(1)
    found = [next(batches)]
    wait(loader_futures(batches))
    for worker in list(loader.crew.pool._processes.values()):
        worker.kill()
        worker.join()
    time.sleep(0.5)  # the pool's own thread has to notice
    found += batches
    assert listed(found) == listed(Loader(samples, 2, SIZE, AUGMENT, 3, 2).batches(1))
    assert capsys.readouterr().err == "warning: a worker process died: decoding in threads instead\n"


def loader_futures(batches):
    """Return what the processes were given of an epoch under way."""
    begin = batches.gi_frame.f_locals["begin"]
    return set(begin.__self__.futures)


@pytest.mark.parametrize("worker_type", ["threads", "processes"])
def test_an_epoch_of_which_nothing_is_left_has_no_batches(samples, worker_type):
    loader = Loader(samples, 2, SIZE, AUGMENT, 3, 2, worker_type=worker_type)
    assert list(loader.batches(start=len(loader))) == []
