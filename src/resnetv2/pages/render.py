"""Our HTML pages: one file with everything in it, which fetches nothing, in the reader's light or dark."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from resnetv2.console import printable
from resnetv2.errors import ConfigError, MissingExtra
from resnetv2.files import replace_file

_MARK = b'<meta name="generator" content="resnetv2">'  # in every template, by which a page of ours is known
_HEAD = 1000  # bytes in which it stands


def check_page(path: str | Path) -> None:
    """Refuse a page in place of anything but another page of ours, or whose name may be a model's, index's or list's.

    Raises:
        ConfigError: it ends neither in .html nor in .htm, or something that is no page of ours is there.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a page ends in .html, got {path}")
    if os.path.lexists(path) and not _is_ours(Path(path)):
        raise ConfigError(f"{path} is there already, and is no page of resnetv2: choose another name")


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _MARK in file.read(_HEAD)
    except OSError:  # a folder, a link to nothing, or not to be read
        return False


def render_page(path: Path, template: str, **values: Any) -> None:
    """Render a template, "PACKAGE/FILE", into a file; in it, names of files and classes are text and never markup.

    A template has ``style``, which all pages share, ``script``, which sorts tables, and ``policy``, by which a browser
    runs that script and nothing else. It may extend and import others by such names.

    Raises:
        MissingExtra: jinja2 is not installed.
        Error: the file cannot be written.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise MissingExtra("the HTML page", "train") from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_read)
    )
    environment.filters |= {"printable": printable, "count": "{:,}".format}
    script = _read("resnetv2.pages/page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    chunks = environment.get_template(template).stream(
        style=Markup(_read("resnetv2.pages/page.css")),  # noqa: S704  our own
        script=Markup(script),  # noqa: S704  likewise
        policy=policy,
        **values,
    )
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(chunks)


def _read(template: str) -> str:
    package, name = template.split("/")
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def to_address(picture: Image.Image) -> str:
    """Return a picture as the data: address of a JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
