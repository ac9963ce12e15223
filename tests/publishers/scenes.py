"""The pictures that publishers' preprocessing is asked about. NumPy alone: some of its users run on old Pythons.

``python tests/publishers/preprocessing_NAME.py FILE`` runs a publisher's own preprocessing on them and writes what its
network is given, normalised: float32 (H, W, 3). ``tests/golden/preprocessing_NAME.npz`` is such a file, kept. The rules
do not depend on the size, so most answers are small: ``CROP`` pixels cut out of ``RESIZE``. At the publisher's own
sizes some points are kept, "real". No file is decoded in between: decoders differ, too.
"""

import sys

import numpy as np

RESIZE, CROP = 15, 12  # their difference is odd: the offset of the crop must be rounded
SMALL = (  # width, height
    (61, 97),
    (97, 61),
    (30, 20),
    (111, 37),
    (37, 111),
    (40, 40),
    (RESIZE, RESIZE),
    (CROP, CROP),
    (7, 9),  # enlarged
    (1, 1),
)
REAL = ((500, 375), (55, 41))  # at 41 pixels TensorFlow's float32 arithmetic makes 255 of 256


def scene(width, height):
    """Return an RGB picture, uint8 (H, W, 3), of noise, or grey where it is 40 pixels wide."""
    picture = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.repeat(picture[:, :, :1], 3, axis=2) if width == 40 else picture


def thin(pixels):
    """Return some points of a large answer (H, W, 3), borders included."""
    return pixels[::31, ::31]


def write_answers(**protocols):
    """Write the answers of protocols, each (uint8 picture, resize, crop or None for the real size) -> (H, W, 3)."""
    answers = {}
    for name, prepare in protocols.items():
        for w, h in SMALL:
            answers[f"{name}.small.{w}x{h}"] = np.asarray(prepare(scene(w, h), RESIZE, CROP), np.float32)
        for w, h in REAL:
            answers[f"{name}.real.{w}x{h}"] = thin(np.asarray(prepare(scene(w, h), None, None), np.float32))
    np.savez_compressed(sys.argv[1], **answers)
