import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.data.names import Names

TEXTS = st.lists(st.text(st.characters(codec="utf-8")) | st.binary().map(lambda b: b.decode(errors="surrogateescape")))


@given(TEXTS, st.slices(20))
def test_names_read_as_the_tuple_they_were_made_of(texts, part):
    names = Names(iter(texts))
    assert tuple(names) == tuple(texts)
    assert len(names) == len(texts)
    assert names[part] == tuple(texts)[part]
    assert [names[i] for i in range(-len(texts), 0)] == texts


@pytest.mark.parametrize("place", [3, -4])
def test_a_place_outside_is_an_index_error(place):
    with pytest.raises(IndexError):
        Names(["a", "b", "c"])[place]


def test_a_name_costs_its_bytes_and_eight_more():
    tracemalloc.start()
    names = Names(f"{i:040d}" for i in range(100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names) == 100_000
    assert size < 100_000 * (40 + 8) * 1.15  # what an array grows by ahead of need
