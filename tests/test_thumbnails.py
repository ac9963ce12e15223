import base64
import io

import numpy as np
import pytest
from PIL import Image

from resnetv2.data.thumbnails import SIDE, open_shown, thumbnail


def shown(address):
    kind, data = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((8, 4), (160, 80)), ((100, 50), (100, 50)), ((640, 320), (160, 80)), ((4000, 3), (160, 1)), ((1, 1), (160, 160))],
)
def test_a_thumbnail_keeps_the_shape_within_its_side(size, expected):
    picture = Image.new("RGB", size, (200, 30, 90))
    assert shown(thumbnail(picture)).size == expected
    assert max(expected) <= SIDE
    assert picture.size == size, "the picture stays what it is"


def test_small_pictures_are_enlarged_in_whole_pixels():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = 255
    large = np.array(shown(thumbnail(Image.fromarray(pixels))))
    assert large[:70, :70].min() > 250  # JPEG blurs what is near an edge
    assert large[90:, 90:].max() < 5


def test_a_picture_that_is_gone_or_damaged_by_now_has_none(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    assert [thumbnail(open_shown(tmp_path / name)) for name in ("gone.png", "damaged.png")] == ["", ""]
