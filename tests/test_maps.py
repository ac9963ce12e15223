import threading

import numpy as np
import pytest
import torch
from peers import randomise
from pictures import write_dataset
from test_model import GRAPHS, small
from torch.nn import functional as F

from resnetv2.data.augment import Augment
from resnetv2.data.index import read_index
from resnetv2.data.load import Loader
from resnetv2.preprocess import Preprocessing
from resnetv2.training.features import cached_features, fixed_views
from resnetv2.training.maps import MapLoader, Tail, TrunkSession, run_trunk, unpack_maps

SIZE = Preprocessing(image_size=32, resize=32)
AUGMENT = Augment(scale=(0.5, 1.0), ratio=(0.75, 4 / 3), hflip=0.5)


def pictures(count, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


# --- the cut ---


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_two_halves_give_the_bits_of_the_whole(graph, size):
    model = randomise(small(graph)).eval()
    x = torch.randn(2, 3, size, size)
    for layout in (torch.contiguous_format, torch.channels_last):
        model, x = model.to(memory_format=layout), x.to(memory_format=layout)
        with torch.no_grad():
            maps = run_trunk(model, x)
            kept = maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if layout is torch.channels_last else maps
            assert torch.equal(Tail(model)(kept), model(x))


@pytest.mark.parametrize("graph", ["torch", "keras", "bit"])
def test_the_gradients_of_the_tail_are_those_of_the_whole_network_and_the_trunk_has_none(graph):
    model = randomise(small(graph)).train()
    frozen = [module for stage in model.stages[:-1] for module in stage.modules()]
    for module in (model.stem, *frozen, *([model.input_norm] if model.input_norm else [])):
        module.eval()
    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    tail = Tail(model)
    shared = {p.data_ptr() for p in tail.parameters()}
    assert shared < {p.data_ptr() for p in model.parameters()}
    F.cross_entropy(model(x), labels).backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.data_ptr() in shared}
    model.zero_grad()
    with torch.no_grad():
        maps = run_trunk(model, x)
    F.cross_entropy(tail(maps), labels).backward()
    for name, parameter in model.named_parameters():
        if name in whole:
            assert torch.equal(parameter.grad, whole[name]), name
        else:
            assert parameter.grad is None, name


def test_maps_in_half_precision_move_logits_by_less_than_a_thousandth():
    model = randomise(small("torch")).eval().to(memory_format=torch.channels_last)
    session = TrunkSession(model, SIZE, torch.device("cpu"))
    some = pictures(8)
    maps = session.maps(some)
    assert maps.dtype == np.float16
    assert maps.shape == (8, 2, 2, 512)
    with torch.inference_mode():
        logits = Tail(model)(unpack_maps(torch.from_numpy(maps))).numpy()
    whole = session(some)
    # A float16 has 11 bits: each number of the map is off by 2.4e-4 of itself on average, and errors of both signs meet
    # in every sum after it.
    assert 0 < np.abs(logits - whole).max() < 1e-3 * np.abs(whole).max()


def test_a_map_beyond_half_precision_is_infinite_and_not_wrong():
    model = randomise(small("torch")).eval()
    with torch.no_grad():
        model.stages[2].blocks[-1].conv3.weight.mul_(1e8)
    assert np.isinf(TrunkSession(model, SIZE, torch.device("cpu")).maps(pictures(1))).any()


# --- the loader ---


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return the maps of 21 pictures in three views, and the pictures."""
    root = write_dataset(tmp_path_factory.mktemp("data"), {"train": {"a": 4, "b": 17}, "val": {"a": 1, "b": 1}}, 32)
    samples = read_index(root).split("train")
    model = randomise(small("torch", width_factor=0.25, norm="batch")).eval()
    session = TrunkSession(model, SIZE, torch.device("cpu"))
    views = fixed_views(AUGMENT, 3)
    return cached_features(session, "test_maps", samples, SIZE, layer="maps", views=views), samples


def listed(batches):
    return [(batch.indices.tolist(), batch.labels.tolist(), batch.pictures.tobytes()) for batch in batches]


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_order_labels_and_sizes_of_batches_are_those_of_the_loader_of_pictures(kept, sampling):
    features, samples = kept
    loader = MapLoader(features, samples, 4, seed=3, sampling=sampling)
    pictures = Loader(samples, 4, SIZE, AUGMENT, 3, sampling=sampling)
    assert len(loader) == len(pictures)
    for ours, theirs in zip(loader.batches(5), pictures.batches(5), strict=True):
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert loader.seconds > 0


def test_from_any_position_the_rest_of_the_epoch_comes(kept):
    loader = MapLoader(*kept, 4, seed=3)
    whole = listed(loader.batches(2))
    assert listed(MapLoader(*kept, 4, seed=3).batches(2)) == whole
    for start in range(len(loader) + 1):
        assert listed(loader.batches(2, start)) == whole[start:]
    assert (
        len({tuple(i for indices, _, _ in listed(loader.batches(epoch)) for i in indices) for epoch in range(3)}) == 3
    )


def test_every_picture_comes_in_all_of_its_views_over_the_epochs(kept):
    features, samples = kept
    array = features.array()
    seen = set()
    for epoch in range(20):
        for batch in MapLoader(features, samples, 4).batches(epoch):
            assert batch.pictures.dtype == np.float16
            for i, found in zip(batch.indices, batch.pictures, strict=True):
                (view,) = (v for v in range(3) if np.array_equal(array[v, i], found))
                seen.add((int(i), view))
    # Of 63 pairs, one is missed in 20 epochs with a probability of (2/3)^20 = 3e-4.
    assert len(seen) >= 62


def test_evaluation_takes_every_picture_once_in_order_in_its_first_view(kept):
    features, samples = kept
    batches = list(MapLoader(features, samples, 4, shuffle=False).batches(epoch=7))
    assert [i for batch in batches for i in batch.indices] == list(range(21))
    np.testing.assert_array_equal(np.concatenate([batch.pictures for batch in batches]), features.array()[0])


def test_an_epoch_that_is_left_early_leaves_no_thread_behind(kept):
    before = threading.active_count()
    batches = MapLoader(*kept, 4).batches()
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
