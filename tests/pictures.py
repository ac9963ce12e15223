"""Small deterministic pictures, made where a test needs them."""

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def noise(width, height, seed=0):
    """Return an RGB picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encode(image, format="PNG", **options):  # noqa: A002  Pillow's word
    """Return the bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def write_picture(path, image=None, **options):
    """Write a picture file and the folders above it; the name's ending decides the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or noise(8, 8, zlib.crc32(path.name.encode(errors="surrogateescape")))).save(path, **options)
    return path


def write_dataset(root, splits, size=16):
    """Write ``root/split/class/<number>.png`` for ``{split: {class: n}}``; the split "" leaves that level out.

    A class is a hue and a split's pictures are noise around it, so that a network can learn them and no two are alike.
    Returns ``root``.
    """
    names = sorted({name for classes in splits.values() for name in classes})
    for split, classes in splits.items():
        for name, count in classes.items():
            hue = Image.new("HSV", (size, size), (255 * names.index(name) // len(names), 255, 200)).convert("RGB")
            for number in range(count):
                seed = zlib.crc32(f"{split}/{name}/{number}".encode(errors="surrogateescape"))
                picture = Image.blend(hue, noise(size, size, seed), 0.3)
                write_picture(Path(root, split, name, f"{number}.png"), picture)
    return Path(root)
