import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.errors import ConfigError
from resnetv2.plain import Plain


@dataclass(frozen=True, kw_only=True)
class Bag(Plain):
    noun = "thing"

    number: float = 1.0
    name: str = "a"
    flag: bool = False
    pair: tuple[Any, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TUPLES = st.lists(PLAIN).map(tuple)
BAGS = st.builds(
    Bag,
    number=st.floats(allow_nan=False) | st.integers(),
    name=st.text(),
    flag=st.booleans(),
    pair=TUPLES,
    more=st.dictionaries(st.text(), PLAIN | TUPLES),
)


@given(BAGS)
def test_everything_survives_json(bag):
    assert Bag.from_dict(json.loads(json.dumps(bag.to_dict()))) == bag


@given(BAGS)
def test_what_was_made_to_be_written_holds_no_tuple(bag):
    values = bag.to_dict()
    assert type(values["pair"]) is list
    assert not any(isinstance(value, tuple) for value in values["more"].values())


def test_absent_fields_take_their_defaults():
    assert Bag.from_dict({"name": "b"}) == Bag(name="b")
    assert Bag.from_dict({}) == Bag()


def test_an_unknown_field_is_refused_in_the_words_of_the_class_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"^unknown thing 'numbr': did you mean 'number'\?$"):
        Bag.from_dict({"numbr": 3})


def test_all_unknown_keys_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        Bag.from_dict({"numbr": 3, "falg": 0, 7: 1})
    for part in ("'numbr': did you mean 'number'", "'falg': did you mean 'flag'", "unknown thing '7'"):
        assert part in str(error.value)
