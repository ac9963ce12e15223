import pytest

from resnetv2.errors import (
    ConfigError,
    ConvertError,
    DataError,
    DownloadError,
    Error,
    MissingExtra,
    ModelFileError,
    unknown,
)


@pytest.mark.parametrize("kind", [DataError, ModelFileError, ConfigError, ConvertError, DownloadError, MissingExtra])
def test_every_error_a_user_can_cause_is_one_error_and_a_value_error(kind):
    assert issubclass(kind, Error)
    assert issubclass(Error, ValueError)


def test_an_unknown_name_gets_the_nearest_known_one():
    assert unknown("architecture", "resnet50_v2", ["resnet18v2", "resnet50v2"]) == (
        "unknown architecture 'resnet50_v2': did you mean 'resnet50v2'?"
    )


def test_an_unknown_name_without_a_near_one_gets_all_known_ones_in_order():
    assert unknown("dialect", "xyzzy", {"torch": 1, "keras": 2}) == "unknown dialect 'xyzzy': choose from keras, torch"


def test_a_missing_extra_says_the_one_line_that_brings_it():
    message = str(MissingExtra("training", "train"))
    assert message.startswith("training needs")
    assert message.endswith('pip install "resnetv2[train]"')
