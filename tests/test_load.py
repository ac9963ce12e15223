import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, noise, write_dataset
from PIL import Image

from resnetv2.data import load
from resnetv2.data.index import Samples, read_index
from resnetv2.data.load import Augment, Loader, batch_bounds, border_colour
from resnetv2.errors import DataError
from resnetv2.preprocess import Preprocessing, open_picture

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

    monkeypatch.setattr(load, "ThreadPoolExecutor", Pool)
    loader = Loader(samples, 2, SIZE, workers=2)
    batches = loader.batches()
    for taken in range(1, 5):
        next(batches)
        assert len(asked) == loader.bounds[taken + 2][1]  # those taken, and three more


# --- augmentation ---

SHARES = st.floats(1e-9, 1).flatmap(lambda low: st.floats(low, 1).map(lambda high: (low, high)))
RATIOS = st.floats(0.01, 100).flatmap(lambda low: st.floats(low, 100).map(lambda high: (low, high)))


@given(st.integers(1, 5000), st.integers(1, 5000), SHARES, RATIOS, st.integers(0, 2**32))
def test_the_crop_lies_within_the_picture(width, height, scale, ratio, seed):
    box = Augment(scale=scale, ratio=ratio, hflip=0.5)._box(width, height, np.random.default_rng(seed))
    left, top, right, bottom = np.float32(box)  # as Pillow takes them
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(st.integers(1, 60), st.integers(1, 60), SHARES, RATIOS, st.integers(1, 20), st.integers(0, 2**32))
def test_any_picture_becomes_a_square_of_the_size(width, height, scale, ratio, size, seed):
    found = Augment(scale=scale, ratio=ratio, hflip=0.5)(noise(width, height), size, np.random.default_rng(seed))
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8


def test_the_crop_keeps_the_share_and_the_shape_asked_for():
    for seed in range(200):
        box = Augment(scale=(0.25, 0.5), ratio=(0.8, 1.25), hflip=0)._box(1000, 1000, np.random.default_rng(seed))
        width, height = box[2] - box[0], box[3] - box[1]
        # w·h and w/h of the square roots, each a few roundings of 1e-16 from the bounds
        assert 0.25 - 1e-9 <= width * height / 1e6 <= 0.5 + 1e-9
        assert 0.8 - 1e-9 <= width / height <= 1.25 + 1e-9


def test_crops_reach_every_corner():
    boxes = [AUGMENT._box(100, 50, np.random.default_rng(seed)) for seed in range(500)]
    assert min(b[0] for b in boxes) < 5
    assert max(b[2] for b in boxes) > 95
    assert min(b[1] for b in boxes) < 2.5
    assert max(b[3] for b in boxes) > 47.5


def test_a_probability_of_one_mirrors_and_of_none_does_not():
    picture = noise(20, 30)
    for seed in range(20):
        plain, mirrored = (
            Augment(scale=(0.3, 1), ratio=(0.75, 4 / 3), hflip=p)(picture, 8, np.random.default_rng(seed))
            for p in (0, 1)
        )
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])
        assert (mirrored != plain).any()


def test_half_of_the_pictures_are_mirrored():
    picture, augment = noise(8, 8), Augment(scale=(1, 1), ratio=(1, 1), hflip=0.5)
    same = sum(
        np.array_equal(augment(picture, 8, np.random.default_rng(seed)), np.asarray(picture)) for seed in range(400)
    )
    assert 160 <= same <= 240  # 200 ± 4 standard deviations of a fair coin; the seeds are fixed


def test_the_whole_of_a_square_is_the_picture_itself():
    whole = Augment(scale=(1, 1), ratio=(1, 1), hflip=0)
    picture = noise(16, 16)
    resized = {picture.resize((5, 5), f).tobytes() for f in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)}
    found = {whole(picture, 5, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert found == resized
    np.testing.assert_array_equal(whole(picture, 16, np.random.default_rng(0)), np.asarray(picture))


def test_the_generator_alone_decides():
    one, same, other = (AUGMENT(noise(40, 40), 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_crop_larger_than_the_picture_shows_more_of_the_paper_around_it():
    picture = Image.new("RGB", (20, 20), (250, 240, 230))
    picture.paste((0, 0, 0), (8, 8, 12, 12))
    augment = Augment(scale=(4, 4), ratio=(1, 1), hflip=0)
    pixels = augment(picture, 40, np.random.default_rng(0))
    dark = (pixels.max(axis=2) < 100).sum()
    assert 8 <= dark <= 24, "a 4×4 mark in a 20×20 picture shown at its own scale is 16 pixels, less its blurred rim"
    assert (pixels[0] == (250, 240, 230)).all()
    assert (pixels[:, -1] == (250, 240, 230)).all()
    assert border_colour(picture) == (250, 240, 230)
