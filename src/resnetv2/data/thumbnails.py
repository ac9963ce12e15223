"""Pictures as our pages show them: small, and within the page."""

from __future__ import annotations

from PIL import Image

from resnetv2.errors import DataError
from resnetv2.pages.render import to_address
from resnetv2.preprocess import Readable, open_picture

SIDE = 160  # pixels of the longer side


def thumbnail(picture: Image.Image | None) -> str:
    """Return a small JPEG as a data: address, "" of None; pictures far below SIDE are enlarged without smoothing."""
    if picture is None:
        return ""
    scale = SIDE // max(picture.size)
    if scale > 1:
        return to_address(picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST))
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    return to_address(small)


def open_shown(place: Readable) -> Image.Image | None:
    """Return a picture that a page shows, None if it is gone or damaged by now."""
    try:
        return open_picture(place)
    except DataError:
        return None
