"""The classes that published networks answer with, in the order of their outputs. Standard library only."""

from __future__ import annotations

import gzip
from collections import Counter
from functools import cache
from importlib.resources import files

from resnetv2.errors import ConfigError, unknown

_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""

_SMALL = {
    "": (),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(name.replace("_", " ") for name in _CIFAR100.split()),
    "svhn": tuple("0123456789"),
}
_IMAGENET = {"in1k": "1", "in1k_background": "1", "in21k_goog": "g"}  # the mark in the file
LABELS = (*_SMALL, *_IMAGENET)


def class_names(labels: str) -> tuple[str, ...]:
    """Return the names of classes by index; each is there once.

    ImageNet's are the first words of WordNet's synsets, with the synset in parentheses where two share a word.

    Args:
        labels: "in1k" (1000), "in1k_background" (1001, the background first), "in21k_goog" (21843, as BiT orders them),
            "cifar10", "cifar100", "svhn", or "" for none.

    Raises:
        ConfigError: no such classes.
    """
    if labels in _SMALL:
        return _SMALL[labels]
    chosen = _chosen(labels)
    often = Counter(chosen.values())
    names = tuple(name if often[name] == 1 else f"{name} ({synset})" for synset, name in chosen.items())
    return ("background", *names) if labels == "in1k_background" else names


def synsets(labels: str) -> tuple[str, ...]:
    """Return WordNet's synsets by index, such as "n01440764"; the background's is "".

    Raises:
        ConfigError: no such classes of ImageNet.
    """
    chosen = tuple(_chosen(labels))
    return ("", *chosen) if labels == "in1k_background" else chosen


def _chosen(labels: str) -> dict[str, str]:
    if labels not in _IMAGENET:
        raise ConfigError(unknown("classes", labels, filter(None, LABELS)))
    return {synset: name for synset, marks, name in _rows() if _IMAGENET[labels] in marks}


@cache
def _rows() -> tuple[tuple[str, ...], ...]:
    packed = files("resnetv2.weights").joinpath("classes.tsv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return tuple(tuple(line.split("\t")) for line in lines if not line.startswith("#"))
