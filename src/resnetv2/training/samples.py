"""The pictures that a trained model file is proven with."""

from __future__ import annotations

import numpy as np

from resnetv2.data.index import Samples
from resnetv2.preprocess import open_picture
from resnetv2.weights.golden import to_png

GOLDEN_SAMPLES = 4


def golden_pictures(samples: Samples, image_size: int) -> list[bytes]:
    """Return a few pictures, of different classes where there are, as small PNG files.

    They keep the shape of the picture but neither its metadata nor more pixels than a resize needs to be tested.

    Args:
        samples: to choose from.
        image_size: side of the network's input in pixels.
    """
    _, first = np.unique(samples.labels, return_index=True, axis=0)
    order = [*first[:GOLDEN_SAMPLES], *(i for i in range(len(samples)) if i not in first)]
    most = 2 * image_size
    pictures = []
    for i in order[:GOLDEN_SAMPLES]:
        picture = open_picture(samples.paths[i])
        picture.thumbnail((most, most))
        pictures.append(to_png(picture))
    return pictures
