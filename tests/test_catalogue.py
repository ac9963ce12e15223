"""The catalogue of published weights: what its cards say fits together, and agrees with what publishers count."""

import re
from pathlib import Path

import pytest

import resnetv2
from resnetv2.cli.models import document
from resnetv2.config import DIALECTS
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.errors import ConfigError
from resnetv2.shapes import count_parameters
from resnetv2.weights.catalogue import card, cards
from resnetv2.weights.labels import class_names

COUNTS = {  # as the publishers' own code counts trainable numbers; TF-Slim's and the official ones less their class 0
    "resnet50v2.keras_in1k": 25_568_360,
    "resnet101v2.keras_in1k": 44_577_896,
    "resnet152v2.keras_in1k": 60_236_904,
    "resnet50v2.slim_in1k": 25_570_409 - 2049,
    "resnet101v2.slim_in1k": 44_579_945 - 2049,
    "resnet152v2.slim_in1k": 60_238_953 - 2049,
    "resnet50v2.official_in1k": 25_551_401 - 2049,
    "resnet18v2.ra4_e3600_r224_in1k": 11_687_720,
    "resnet18v2d.ra4_e3600_r224_in1k": 11_706_952,
    "resnet34v2.ra4_e3600_r224_in1k": 21_795_880,
    "resnet34v2d.ra4_e3600_r384_in1k": 21_815_112,
    "resnet50v2.a1h_in1k": 25_549_352,
    "resnet101v2.a1h_in1k": 44_541_480,
    "resnet50v2d.gn_ah_in1k": 25_568_584,
    "resnet50v2d.evos_ah_in1k": 25_591_368,
    "resnet50v2.bit_m_in21k_ft_in1k": 25_549_352,
    "resnet50v2x3.bit_m_in21k_ft_in1k": 217_319_080,
    "resnet101v2x3.bit_s_in1k": 387_934_888,
    "resnet152v2x2.bit_m_in21k_ft_in1k": 236_335_208,
    "resnet18v2.pytorchcv_in1k": 11_687_848,
    "resnet14v2.pytorchcv_bc_b_in1k": 10_057_384,
    "resnet26v2.pytorchcv_bc_b_in1k": 15_987_624,
    "resnet38v2.pytorchcv_bc_b_in1k": 21_917_864,
    "resnet10v2.pytorchcv_in1k": 5_417_128,
    "resnet12v2.pytorchcv_in1k": 5_491_112,
    "resnet14v2.pytorchcv_in1k": 5_786_536,
    "resnet16v2.pytorchcv_in1k": 6_967_208,
    "resnet26v2.pytorchcv_in1k": 17_958_568,
    "resnet200v2.pytorchcv_b_in1k": 64_666_280,
    "resnet269v2.pytorchcv_b_in1k": 102_065_832,
    "resnet20v2.pytorchcv_cifar10": 272_282,
    "resnet110v2.pytorchcv_cifar100": 1_736_372,
    "resnet164v2.pytorchcv_svhn": 1_703_258,
    "resnet1001v2.pytorchcv_cifar10": 10_327_706,
    "resnet1202v2.pytorchcv_cifar10": 19_423_834,
}


@pytest.mark.parametrize("found", cards(), ids=lambda found: found.name)
def test_what_a_card_says_fits_together(found):
    assert re.fullmatch(r"resnet\d+v2d?(x\d)?\.[a-z0-9_]+_(in1k|in21k|cifar10|cifar100|svhn)(_384)?", found.name)
    assert found.source.partition(":")[0] in PUBLISHERS
    assert found.dialect in DIALECTS
    assert len(class_names(found.labels)) == found.config.num_classes
    assert found.preprocessing.image_size == found.image_size
    assert found.licence
    assert found.files
    assert all(location.repo or location.url.startswith("https://") for location in found.files)
    for result in found.results:
        assert result.source
        assert 60 < (result.top1 or result.top5) < 99
        assert (result.top1 or 0) < (result.top5 or 100)


def test_names_and_files_are_there_once():
    names = [found.name for found in cards()]
    assert len(set(names)) == len(names)
    places = [(found.files, found.variant) for found in cards()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_the_network_of_a_card_has_as_many_numbers_as_its_publisher_counts(name, count):
    assert count_parameters(card(name).config) == count


def test_a_name_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'resnet50v2\.keras_in1k'"):
        card("resnet50v2.keras_in1")


def test_published_weights_are_listed_beside_architectures():
    assert "resnet50v2.keras_in1k" in resnetv2.list_models("resnet50v2*", pretrained=True)
    assert "resnet50v2.keras_in1k" not in resnetv2.list_models("resnet50v2*")


def test_the_document_holds_the_table_that_is_generated():
    path = Path(__file__).parent.parent / "docs" / "models.md"
    assert path.read_text(encoding="utf-8").partition("<!-- generated -->\n")[2] == document()
