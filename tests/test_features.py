import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import noise, write_dataset, write_picture

from resnetv2.config import architecture
from resnetv2.creation import create_model
from resnetv2.data.augment import Augment
from resnetv2.data.index import Samples, read_index
from resnetv2.data.packing import pack
from resnetv2.errors import ConfigError, DataError, Error, ModelFileError
from resnetv2.preprocess import Preprocessing, open_picture
from resnetv2.runtime.pytorch import weights_of
from resnetv2.training import features
from resnetv2.training.features import FixedView, cached_features, fixed_views, frozen_identity, hash_pictures
from resnetv2.training.maps import TrunkSession

SIZE = Preprocessing(image_size=8, resize=9)
SIZE32 = Preprocessing(image_size=32, resize=32)
AUGMENT = Augment(scale=(0.3, 1.0), ratio=(0.75, 4 / 3), hflip=0.5, dct_scaling=True)
ROW = 8 * 8 * 3


class Pixels:
    """A session whose features are the pixels, and which counts the pictures it saw but the black ones that fill up."""

    def __init__(self):
        self.seen, self.sizes = 0, set()

    def features(self, pictures):
        assert pictures.dtype == np.uint8
        self.count(pictures)
        return pictures.reshape(len(pictures), -1).astype(np.float32)

    def maps(self, pictures):
        self.count(pictures)
        return pictures.astype(np.float16)

    def count(self, pictures):
        self.sizes.add(len(pictures))
        self.seen += int(pictures.any(axis=(1, 2, 3)).sum())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give each test an empty cache."""
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def samples(tmp_path):
    """Return 21 pictures of two classes."""
    root = write_dataset(tmp_path / "data", {"train": {"a": 10, "b": 11}, "val": {"a": 1, "b": 1}}, 12)
    return read_index(root).split("train")


def of(samples, session=None, identity="weights", **options):
    session = session or Pixels()
    return cached_features(session, identity, samples, SIZE, **options), session


# --- what is computed ---


@pytest.mark.parametrize(("layer", "dtype", "shape"), [("pooled", np.float32, (ROW,)), ("maps", np.float16, (8, 8, 3))])
def test_features_are_those_of_the_pictures_as_evaluation_decodes_them(samples, layer, dtype, shape):
    found, _ = of(samples, layer=layer, batch_size=4)
    assert found.shape == (1, 21, *shape)
    assert len(found) == 21
    array = found.array()
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[0].reshape(21, 8, 8, 3), SIZE.decode(samples.paths))
    np.testing.assert_array_equal(found.take(np.array([7, 3, 7])), array[0, [7, 3, 7]])


def test_views_are_evaluations_its_mirror_image_and_crops_that_depend_on_the_content_alone(samples, tmp_path):
    views = fixed_views(AUGMENT, 4, seed=5)
    found, session = of(samples, views=views, batch_size=5)
    array = found.array().reshape(4, 21, 8, 8, 3)
    assert session.seen == 4 * 21
    np.testing.assert_array_equal(array[1], array[0][:, :, ::-1])
    digests = hash_pictures(samples)
    for view in (2, 3):
        for i in (0, 20):
            picture = open_picture(samples.paths[i])
            np.testing.assert_array_equal(array[view, i], views[view].cut(picture, SIZE, digests[i]))
    assert len({array[view].tobytes() for view in range(4)}) == 4
    np.testing.assert_array_equal(found.take(np.array([4, 9]), np.array([3, 0])), found.array()[[3, 0], [4, 9]])
    other = fixed_views(AUGMENT, 4, seed=6)
    assert not np.array_equal(other[2].cut(picture, SIZE, digests[20]), array[2, 20])


def test_a_network_that_takes_no_mirror_images_is_shown_none():
    views = fixed_views(replace(AUGMENT, hflip=0.0), 3)
    assert [view.mirror for view in views] == [False] * 3
    assert [view.augment is None for view in views] == [True, False, False]
    assert fixed_views(AUGMENT, 1) == (FixedView(),)
    assert not any(view.augment.dct_scaling for view in views[1:])
    with pytest.raises(ConfigError, match="at least 1 view"):
        fixed_views(AUGMENT, 0)


def test_every_batch_has_one_size_so_that_a_picture_gives_the_same_bits_whatever_is_beside_it(samples):
    found, session = of(samples, batch_size=8)
    assert session.sizes == {8}
    assert len(found) == 21
    whole = create_model("resnet18v2", num_classes=2, width_factor=0.25)
    torch_session = TrunkSession(whole, SIZE32, torch.device("cpu"))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    expected = torch_session.features(pictures)
    for place in range(8):
        alone = np.zeros_like(pictures)
        alone[0] = pictures[place]
        np.testing.assert_array_equal(torch_session.features(alone)[0], expected[place])


def test_the_result_does_not_depend_on_threads_and_batches(samples):
    arrays = []
    for workers, batch in ((1, 1), (2, 4), (7, 64)):
        found, _ = of(samples, identity=f"{workers}", views=fixed_views(AUGMENT, 3), workers=workers, batch_size=batch)
        arrays.append(found.array())
    np.testing.assert_array_equal(arrays[0], arrays[1])
    np.testing.assert_array_equal(arrays[0], arrays[2])


# --- what is kept ---


def test_a_second_run_computes_nothing_and_gives_the_same_bits(samples):
    first, _ = of(samples)
    second, session = of(samples)
    assert session.seen == 0
    assert (first.computed, second.computed) == (21, 0)
    np.testing.assert_array_equal(first.array(), second.array())


def test_renamed_folders_other_splits_other_labels_and_packed_pictures_find_what_is_there(samples, tmp_path):
    of(samples)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "train" / "a").rename(tmp_path / "elsewhere" / "train" / "zebra")
    index = read_index(tmp_path / "elsewhere")
    found, session = of(index.split("all"))
    assert session.seen == 2, "the two that were not in the first split"
    np.testing.assert_array_equal(found.array().reshape(23, 8, 8, 3), SIZE.decode(index.split("all").paths))
    pack(tmp_path / "elsewhere", tmp_path / "packed")
    packed = read_index(tmp_path / "packed").split("all")
    found, session = of(packed)
    assert session.seen == 0
    np.testing.assert_array_equal(found.array().reshape(23, 8, 8, 3), SIZE.decode(packed.paths))


def test_who_waited_for_another_process_with_the_same_pictures_computes_nothing(samples, monkeypatch):
    expected, locked = [], features.locked

    @contextmanager
    def beaten(path):  # another process was first, and has just released the lock
        monkeypatch.setattr(features, "locked", locked)
        expected.append(of(samples)[0].array())
        with locked(path):
            yield

    monkeypatch.setattr(features, "locked", beaten)
    found, session = of(samples)
    assert session.seen == found.computed == 0
    np.testing.assert_array_equal(found.array(), expected[0])


def flip(path, place):
    """Flip a bit of the byte at ``place``."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        {"000000.keys.npy": 128},  # a row's key: the first half, by which it is looked for
        {"000000.keys.npy": 137},  # the second half
        {"000000.keys.npy": 144, "000001.rows.npy": -1},  # a checksum, and a row
        {"000000.rows.npy": 128, "000001.rows.npy": 5000, "000002.rows.npy": 70},  # rows and a header
    ],
)
def test_damaged_features_are_computed_again_at_once_and_take_no_more_room(samples, capsys, monkeypatch, damage):
    monkeypatch.setattr(features, "_SEGMENT_ROWS", 8)
    expected = of(samples, batch_size=4)[0].array()
    (shelf,) = (features.cache_path("features")).glob("[!.]*/")
    sizes = sorted(path.stat().st_size for path in shelf.iterdir())
    for name, place in damage.items():
        flip(shelf / name, place)
    found, session = of(samples, batch_size=4)
    assert session.seen == sum({"000000": 8, "000001": 8, "000002": 5}[name[:6]] for name in damage)
    np.testing.assert_array_equal(found.array(), expected)
    assert f"warning: {len(damage)} damaged files of kept features" in capsys.readouterr().err
    assert sorted(path.stat().st_size for path in shelf.iterdir()) == sizes
    assert of(samples)[1].seen == 0
    assert capsys.readouterr().err == ""


def test_another_view_is_computed_alone(samples):
    of(samples, views=fixed_views(AUGMENT, 2))
    _, session = of(samples, views=fixed_views(AUGMENT, 3))
    assert session.seen == 21


@pytest.mark.parametrize(
    "change", [{"identity": "others"}, {"runtime": "openvino-int8"}, {"layer": "maps"}, {"preprocessing": True}]
)
def test_nothing_is_shared_between_weights_runtimes_layers_and_preprocessings(samples, change):
    of(samples)
    other = replace(SIZE, resize=10) if change.pop("preprocessing", False) else SIZE
    session = Pixels()
    cached_features(session, change.pop("identity", "weights"), samples, other, **change)
    assert session.seen == 21


def test_a_picture_that_is_there_twice_is_computed_once(samples):
    twice = Samples([*samples.paths, *samples.paths], np.concatenate([samples.labels, samples.labels]))
    found, session = of(twice)
    assert session.seen == 21
    np.testing.assert_array_equal(found.array()[0, :21], found.array()[0, 21:])


def test_a_changed_picture_is_computed_again_and_one_that_changes_meanwhile_is_refused(samples):
    of(samples)
    write_picture(samples.paths[3], noise(12, 12, 99))
    found, session = of(samples)
    assert session.seen == 1
    np.testing.assert_array_equal(found.array().reshape(21, 8, 8, 3), SIZE.decode(samples.paths))
    digests = hash_pictures(samples)
    write_picture(samples.paths[4], noise(12, 12, 100))
    with pytest.raises(DataError, match="it has changed since it was looked at"):
        of(samples, identity="others", sha256=digests)


def test_the_identity_is_of_what_the_layer_depends_on():
    small = {"depths": (1, 1, 1, 1), "width_factor": 0.25}
    model = create_model("resnet50v2", num_classes=5, **small)
    weights = {name: value.numpy().copy() for name, value in weights_of(model).items()}

    def identity(layer, config=model.config, **changes):
        changed = {**weights, **{name.replace("/", "."): value for name, value in changes.items()}}
        return frozen_identity(config, changed, layer)

    def other(name):
        return {name.replace(".", "/"): weights[name] + 1}

    for layer in features.LAYERS:
        same = identity(layer)
        assert identity(layer, **other("head.fc.weight")) == same
        assert identity(layer, **other("stages.2.blocks.0.conv1.weight")) != same
        assert identity(layer, **other("stem.conv.weight")) != same
        assert identity(layer, architecture("resnet50v2", "gluon", num_classes=5, **small)) != same
    assert identity("maps", **other("norm.weight")) == identity("maps") != identity("pooled")
    assert identity("pooled", **other("norm.weight")) != identity("pooled")
    assert identity("maps", **other("stages.3.blocks.0.conv1.weight")) == identity("maps")


# --- what goes wrong ---


def test_a_picture_that_cannot_be_read_is_named(samples):
    samples.paths[5].write_bytes(b"nothing")
    with pytest.raises(DataError, match=rf"cannot read {samples.paths[5]}: not a picture"):
        of(samples)
    samples.paths[5].unlink()
    with pytest.raises(DataError, match=rf"cannot read {samples.paths[5]}: No such file"):
        of(samples)


def test_what_does_not_fit_the_budget_is_refused_before_the_second_batch(samples):
    session = Pixels()
    with pytest.raises(Error, match=r"take 1\.61e-05 GB, 768 bytes for each view .* raise it, or take fewer views"):
        of(samples, session, budget=21 * ROW * 4 - 1, batch_size=4)
    assert session.seen <= 4
    of(samples, budget=21 * ROW * 4 + 10_000)


def test_older_features_make_room_for_new_ones(samples):
    budget = 30 * ROW * 4
    for identity in ("one", "two"):
        of(samples, identity=identity, budget=budget)
    assert of(samples, identity="two")[1].seen == 0
    assert of(samples, identity="one")[1].seen == 21


def test_a_disk_that_is_too_small_is_said_before_it_is_full(samples, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(Error, match="make room, or set RESNETV2_CACHE"):
        of(samples)


def test_numbers_that_are_not_finite_are_never_kept(samples):
    class Wild(Pixels):
        def features(self, pictures):
            return super().features(pictures) * np.float32(np.nan)

        def maps(self, pictures):
            with np.errstate(over="ignore"):
                return (pictures.astype(np.float32) * 1e6).astype(np.float16)

    with pytest.raises(ModelFileError, match="its weights are damaged"):
        of(samples, Wild())
    with pytest.raises(Error, match=r"exceed 65,504, beyond what half precision holds"):
        of(samples, Wild(), layer="maps")
    assert of(samples)[1].seen == 21


def test_progress_counts_views_from_those_that_were_there(samples):
    of(Samples(samples.paths[:11], samples.labels[:11]), views=fixed_views(AUGMENT, 2))
    counted = []
    of(samples, views=fixed_views(AUGMENT, 2), batch_size=8, progress=lambda *counts: counted.append(counts))
    assert counted == [(30, 42), (38, 42), (42, 42)]


CHILD = """
import sys, time
import numpy as np
from pathlib import Path
from resnetv2.data.index import read_index
from resnetv2.preprocess import Preprocessing
from resnetv2.training import features
features._SEGMENT_ROWS = 3
class Slow:
    def features(self, pictures):
        time.sleep(0.01)
        return pictures.reshape(len(pictures), -1).astype(np.float32)
samples = read_index(Path(sys.argv[1])).split("all")
size = Preprocessing(image_size=8, resize=9)
told = lambda done, total: print(done, flush=True)
features.cached_features(Slow(), "weights", samples, size, batch_size=1, progress=told)
"""


def test_killed_at_any_moment_a_run_leaves_only_whole_rows_and_the_next_goes_on(tmp_path):
    data = write_dataset(tmp_path / "data", {"": {"a": 60, "b": 60}}, 12)
    samples = read_index(data).split("all")
    rng, left = np.random.default_rng(0), [120]
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, data], stdout=subprocess.PIPE, env=dict(os.environ))
        for _ in range(rng.integers(4, 30)):
            child.stdout.readline()
        time.sleep(rng.uniform(0, 0.02))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        shelf = next((tmp_path / "cache" / "features").glob("[!.]*/"), None)
        found = (
            features.Shelf(shelf, np.dtype(np.float32)).find(features._keys(hash_pictures(samples), (FixedView(),)))
            if shelf
            else None
        )
        if found is not None and found.known.any():
            there = np.flatnonzero(found.known)
            expected = SIZE.decode([samples.paths[i] for i in there]).reshape(len(there), -1)
            np.testing.assert_array_equal(found.take(there), expected)
            left.append(int((~found.known).sum()))
    assert left == sorted(left, reverse=True), "what one run finished, the next keeps"
    found, session = of(samples)
    assert session.seen == left[-1] < 120
    np.testing.assert_array_equal(found.array().reshape(120, 8, 8, 3), SIZE.decode(samples.paths))
    assert not list((tmp_path / "cache" / "features").glob("*/.*.tmp"))


def test_hashes_are_of_the_files(samples):
    expected = [hashlib.sha256(path.read_bytes()).digest() for path in samples.paths]
    assert [row.tobytes() for row in hash_pictures(samples, 2)] == expected
