"""``search``: the pictures of an index that are most similar to one picture, as a list and as a page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnetv2.data.thumbnails import open_shown, thumbnail
from resnetv2.embedding.index import read_index
from resnetv2.embedding.run import identify
from resnetv2.errors import ConfigError, DataError, ModelFileError
from resnetv2.inference import Classifier, read_model
from resnetv2.pages.render import check_page, render_page
from resnetv2.preprocess import open_picture
from resnetv2.runtime.choice import AUTO


@dataclass(frozen=True)
class Match:
    """A picture of an index, and how similar it is: the cosine between features, 1 for the same."""

    path: str
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON line."""
        return asdict(self)


def search(
    index: str | Path,
    picture: str | Path,
    *,
    model: str | Path | None = None,
    top: int = 10,
    html: str | Path | None = None,
    device: str = "auto",
    runtime: str = AUTO,
) -> list[Match]:
    """Find the pictures of an index that are most similar to a picture.

    Args:
        index: what ``embed`` wrote as .index.
        picture: a file; it need not be in the index.
        model: where the index's model is now; None is where it was. It must be that very model.
        top: how many to find.
        html: a page to write with the pictures found, as far as they are still there.
        device: "auto", "cpu", "cuda", "mps".
        runtime: see ``Classifier.load``.

    Returns:
        The most similar first. The graph is not searched whole, so of very many pictures one may be missed.

    Raises:
        ModelFileError: no such index, one of another kind or a newer version, or made by another model.
        DataError: the picture cannot be read.
        ConfigError: ``top`` below 1, or a page that does not end in .html, in place of what is only read, or among the
            pictures.
        MissingExtra: usearch is not installed, or for a page jinja2.
        Error: the page cannot be written.
    """
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    if html is not None:
        check_page(html)
    opened = read_index(Path(index))
    if html is not None:
        _refuse_among(html, opened.paths)
    made_by, layer = opened.header["model"], opened.header["layer"]
    name = made_by["name"] if model is None else model
    try:
        file = read_model(name)
    except ModelFileError as error:
        if model is not None:
            raise
        raise ModelFileError(f"{index} was made by a model that is not where it was: {error}. Say --model") from error
    if identify(file) != made_by["sha256"]:
        raise ModelFileError(
            f"{index} was made by another model than {name}: its SHA-256 is {made_by['sha256'][:12]}…, "
            f"this one's {identify(file)[:12]}…; make the index anew with resnetv2 embed"
        )
    try:
        image = open_picture(Path(picture))
    except DataError as error:
        raise DataError(f"cannot read {picture}: {error}") from error
    classifier = Classifier.from_file(file, device, runtime)
    pixels = classifier.header.preprocessing(image)
    found = opened.nearest(classifier.features(np.array(pixels)[None], layer)[0], top)
    matches = [Match(path, similarity) for path, similarity in found]
    if html is not None:
        _write_page(Path(html), str(picture), image, str(index), matches, len(opened.paths))
    return matches


def _refuse_among(page: str | Path, pictures: Iterable[str]) -> None:
    """Refuse a page among the pictures of the index.

    Raises:
        ConfigError: it is such a place.
    """
    folders = {os.path.dirname(path) for path in pictures}  # noqa: PTH120  text: there may be millions of pictures
    if os.path.dirname(os.path.realpath(page)) in map(os.path.realpath, folders):  # noqa: PTH120
        raise ConfigError(f"{page} lies among the pictures of the index, which are only read: choose another --html")


def _write_page(path: Path, picture: str, image: Image.Image, index: str, matches: list[Match], total: int) -> None:
    shown = [{**match.to_dict(), "picture": thumbnail(open_shown(Path(match.path)))} for match in matches]
    values = {"picture": picture, "asked": thumbnail(image), "index": index, "matches": shown, "total": total}
    render_page(path, "resnetv2.embedding/page.html.j2", **values)
