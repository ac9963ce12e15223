"""Where in a picture a network sees what it answers: heat maps by five methods.

The map that class activation methods read is the last one, after the final norm and ReLU: before them, a
pre-activation network's sums are not what the head sees.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from resnetv2.data.manifest import shorten
from resnetv2.errors import ConfigError, DataError, unknown
from resnetv2.files import replace_file
from resnetv2.inference import Classifier, expand, load
from resnetv2.preprocess import open_picture
from resnetv2.runtime.artefact import is_artefact
from resnetv2.weights.modelfile import Header

CELLS = ("gradcam", "gradcam++", "layercam")  # methods that see no more than the cells of the last map
METHODS = (*CELLS, "occlusion", "integrated-gradients")
_FEWEST = 4  # cells in each direction, from which on "gradcam" is what one begins with
# From cold to hot, with rising luminance: matplotlib's inferno at nine places.
_COLOURS = np.array(
    [
        *((0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96)),
        *((207, 68, 70), (237, 105, 37), (251, 155, 6), (252, 255, 164)),
    ],
    np.float64,
)
_SOURCE = "resnetv2-source"  # in an overlay: the SHA-256 of its picture's path
_QUICK = 12  # steps of integrated gradients on a page, where a picture is as large as a thumb
_OPACITY = 0.75  # of the hottest place
_SIDE = 224  # pixels of an overlay, about; small pictures are enlarged, so that one sees them


@dataclass(frozen=True)
class Explanation:
    """Where the evidence for one class of a picture lies; with ``error`` there is none, and the reason.

    Attributes:
        path: of the picture.
        label: the class; "" for a network that answers with a number.
        heat: float32 (H, W) of the network's input, 0 … 1: 1 is the most important place, 0 none or against.
        raw: float32 (h, w), what the method gives: for class activation methods a cell of the last map each.
        pixels: uint8 (H, W, 3) RGB, what the network sees.
        overlay, array: the files that were written, if any.
        error: why there is no explanation.
    """

    path: str
    label: str = ""
    heat: np.ndarray | None = None
    raw: np.ndarray | None = None
    pixels: np.ndarray | None = None
    overlay: Path | None = None
    array: Path | None = None
    error: str | None = None


def explain(
    model: str | Path | Classifier,
    pictures: Sequence[str | Path],
    *,
    label: str | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> list[Explanation]:
    """Show where in pictures a network sees what it answers.

    Args:
        model: a model file, or a loaded classifier that runs on torch.
        pictures: files and folders; folders are searched through.
        label: the class to explain; None is each picture's own answer.
        method: "gradcam" (Selvaraju et al. 2017, arXiv 1610.02391), "gradcam++" (Chattopadhyay et al. 2018, arXiv
            1710.11063), "layercam" (Jiang et al. 2021), "occlusion" (Zeiler and Fergus 2014, arXiv 1311.2901) or
            "integrated-gradients" (Sundararajan et al. 2017, arXiv 1703.01365); None is ``usual_method``.
        out: a folder for NAME.png, the picture with its heat, and NAME.npy, the raw numbers.
        device: "auto", "cpu", "cuda", "mps".

    Returns:
        One explanation for each picture, in order; unreadable ones carry their ``error``.

    Raises:
        ConfigError: an unknown method or class, a method that sees only one cell, a network without a head or not on
            torch, or files in ``out`` that would be lost.
        DataError: a folder holds no pictures.
        ModelFileError: see ``Classifier.load``.
        MissingExtra: torch is not installed.
        Error: ``out`` cannot be written.
    """
    return list(explain_each(model, pictures, label=label, method=method, out=out, device=device))


def explain_each(
    model: str | Path | Classifier,
    pictures: Sequence[str | Path],
    *,
    label: str | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Iterator[Explanation]:
    """Do as ``explain``, one explanation at a time as they are made."""
    if method is not None and method not in METHODS:
        raise ConfigError(unknown("method", method, METHODS))
    paths = expand(pictures)
    if not isinstance(model, Classifier) and is_artefact(model):
        raise ConfigError(f"explaining takes gradients, and so a model file; {model} was exported for another runtime")
    classifier = model if isinstance(model, Classifier) else load(model, device, runtime="torch")
    method = check_method(classifier.header, method)
    classes = classifier.classes
    if not classes:
        raise ConfigError("the network has no head: it answers with features, and there is no class to explain")
    if label is not None and label not in classes:
        raise ConfigError(unknown("class", label, classes))
    names = _file_names(paths)
    if out is not None:
        _refuse_foreign(Path(out), names, paths)
    for path, name in zip(paths, names, strict=True):
        try:
            pixels = np.array(classifier.header.preprocessing(open_picture(path)))  # one that torch may hold
        except DataError as error:
            yield Explanation(str(path), error=str(error))
            continue
        number = int(classifier.session(pixels[None])[0].argmax()) if label is None else classes.index(label)
        raw = heat_map(classifier, pixels, number, method)
        heat = stretch(raw, pixels.shape[0])
        word = classes[number] if classifier.header.task != "regression" else ""
        files = {} if out is None else _write(Path(out), path, name, pixels, heat, raw)
        yield Explanation(str(path), word, heat, raw, pixels, **files)


def check_method(header: Header, method: str | None) -> str:
    """Return the method, or for None the usual one: "gradcam", and "occlusion" where the last map has few cells.

    Raises:
        ConfigError: the method sees the cells of the last map, and there is one.
    """
    cells = count_cells(header)
    if method is None:
        return "gradcam" if cells >= _FEWEST else "occlusion"
    if method in CELLS and cells == 1:
        size = header.preprocessing.image_size
        raise ConfigError(
            f"{method} shows which cells of the network's last map matter, and of {size} pixels it makes a single one; "
            f"choose occlusion or integrated-gradients"
        )
    return method


def count_cells(header: Header) -> int:
    """Return how many cells the network's last map has in each direction."""
    architecture = header.architecture
    halvings = sum(unit.stride == 2 for unit in architecture.units())
    reduction: int = (1 if architecture.stem == "3x3" else 4) * 2**halvings
    return -(-header.preprocessing.image_size // reduction)


def heat_map(classifier: Classifier, pixels: np.ndarray, number: int, method: str) -> np.ndarray:
    """Return what a method gives for one picture, float32 (h, w), not negative.

    Args:
        classifier: on torch.
        pixels: uint8 (H, W, 3) RGB, preprocessed.
        number: of the class.
        method: of METHODS.

    Raises:
        ConfigError: the classifier does not run on torch.
    """
    if not takes_gradients(classifier):
        raise ConfigError("explaining takes gradients, and so a model file that runs on torch")
    from resnetv2.runtime import attribution
    from resnetv2.runtime.pytorch import TorchSession

    functions: dict[str, Callable[[TorchSession, np.ndarray, int], np.ndarray]] = {
        "gradcam": attribution.gradcam,
        "gradcam++": attribution.gradcam_plus_plus,
        "layercam": attribution.layercam,
        "occlusion": attribution.occlusion,
        "integrated-gradients": attribution.integrated_gradients,
    }
    return functions[method](cast("TorchSession", classifier.session), pixels, number)


def quick_map(classifier: Classifier, pixels: np.ndarray, number: int) -> np.ndarray:
    """Return a map for a thumbnail, float32 (h, w): "gradcam", or coarse integrated gradients of few cells.

    Args:
        classifier: on torch.
        pixels: uint8 (H, W, 3) RGB, preprocessed.
        number: of the class.
    """
    if check_method(classifier.header, None) == "gradcam":
        return heat_map(classifier, pixels, number, "gradcam")
    from resnetv2.runtime.attribution import integrated_gradients
    from resnetv2.runtime.pytorch import TorchSession

    return integrated_gradients(cast("TorchSession", classifier.session), pixels, number, _QUICK)


def quick_heat(classifier: Classifier, pixels: np.ndarray, number: int) -> np.ndarray:
    """Return ``quick_map`` at the size of the pixels, float32 (H, W), its highest place 1."""
    return stretch(quick_map(classifier, pixels, number), len(pixels))


def takes_gradients(classifier: Classifier) -> bool:
    """Return whether a classifier runs on torch."""
    try:
        from resnetv2.runtime.pytorch import TorchSession
    except ModuleNotFoundError:
        return False
    return isinstance(classifier.session, TorchSession)


def stretch(raw: np.ndarray, size: int) -> np.ndarray:
    """Return a map (h, w) at the size of the network's input, float32 (size, size), its highest place 1."""
    low_high = (float(raw.min()), float(raw.max()))
    if low_high[1] <= 0:
        return np.zeros((size, size), np.float32)
    image = Image.fromarray((raw / low_high[1]).astype(np.float32))
    heat = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).clip(0, None)
    result: np.ndarray = (heat / heat.max()).astype(np.float32)
    return result


def overlay(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Return a picture uint8 (H, W, 3) with its heat (H, W) over it: hot places glow, cold ones stay as they are."""
    place = heat[..., None] * (len(_COLOURS) - 1)
    below = np.minimum(place.astype(int), len(_COLOURS) - 2)
    part = place - below
    colours = _COLOURS[below[..., 0]] * (1 - part) + _COLOURS[below[..., 0] + 1] * part
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)[..., None]  # so that all colour is heat
    opacity = _OPACITY * heat[..., None] ** 0.7
    mixed = grey * (1 - opacity) + colours * opacity
    return Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8))


def _file_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each picture's files: its own without the ending, with a number where it comes twice."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 2
        while name in taken:
            name, number = f"{path.stem}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def _refuse_foreign(folder: Path, names: Sequence[str], paths: Sequence[Path]) -> None:
    """Refuse a folder where files would be lost that no former ``explain`` wrote of the same pictures.

    Raises:
        ConfigError: naming them.
    """
    lost = []
    for name, path in zip(names, paths, strict=True):
        picture, array = folder / f"{name}.png", folder / f"{name}.npy"
        is_ours = picture.exists() == array.exists() and (not picture.exists() or _read_source(picture) == _spell(path))
        lost += [str(path) for path in (picture, array) if path.exists() and not is_ours]
    if lost:
        raise ConfigError(
            f"{', '.join(shorten(lost))}: there already, and would be lost; choose another folder for out"
        )


def _spell(path: Path) -> str:
    """Return what an overlay keeps of its picture's place: enough to know it again, and nothing to read."""
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()


def _read_source(overlay: Path) -> str | None:
    """Return what ``_write`` kept in an overlay, None if the file is none of ours."""
    try:
        with Image.open(overlay) as picture:
            return picture.info.get(_SOURCE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _write(
    folder: Path, path: Path, name: str, pixels: np.ndarray, heat: np.ndarray, raw: np.ndarray
) -> dict[str, Any]:
    picture, array = folder / f"{name}.png", folder / f"{name}.npy"
    buffer = io.BytesIO()
    np.save(buffer, raw, allow_pickle=False)
    shown = overlay(pixels, heat)
    told = PngInfo()
    told.add_text(_SOURCE, _spell(path))
    scale = max(1, _SIDE // shown.width)
    shown = shown.resize((scale * shown.width, scale * shown.height), Image.Resampling.NEAREST)
    with replace_file(array) as numbers, replace_file(picture) as overlaid:  # both or none: one alone is not ours
        numbers.write_bytes(buffer.getvalue())
        shown.save(overlaid, "PNG", pnginfo=told)
    return {"overlay": picture, "array": array}
