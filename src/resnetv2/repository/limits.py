"""What timm and transformers cannot do to a picture."""

from __future__ import annotations

from resnetv2.errors import ConvertError
from resnetv2.preprocess import Preprocessing


def check_pictures(title: str, preprocessing: Preprocessing) -> None:
    """Refuse a preprocessing that neither of them has.

    Raises:
        ConvertError: naming every field.
    """
    unlike = {
        "fit": preprocessing.fit == "square",
        "central_fraction": preprocessing.central_fraction != 1,
        "sampling": preprocessing.sampling != "antialias",
    }
    if any(unlike.values()):
        told = preprocessing.to_dict()
        differing = ", ".join(f"{name} {told[name]!r}" for name, differs in unlike.items() if differs)
        raise ConvertError(f"{title} cannot prepare pictures as this network was given them: {differing}")
