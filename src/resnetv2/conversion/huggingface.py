"""Hugging Face transformers' ``Bit``: timm's BiT weights by other names."""

from __future__ import annotations

from resnetv2.config import ResNetV2Config
from resnetv2.conversion.publisher import PLAIN, Geometry, Publisher, always, name_modules
from resnetv2.preprocess import Preprocessing

_FIXED = {"stem.conv": "bit.embedder.convolution", "norm": "bit.norm", "head.fc": "classifier.1"}


def _names(config: ResNetV2Config) -> dict[str, str]:
    return name_modules(
        config, _FIXED, lambda stage, number, part: f"bit.encoder.stages.{stage}.layers.{number}.{part}"
    )


def _geometry(config: ResNetV2Config) -> Geometry:  # noqa: ARG001
    text = "the repository's preprocessor_config.json decides; the 448 pixels of its conversion script are assumed"
    preprocessing = Preprocessing(image_size=448, resize=448, interpolation="bilinear", crop_offset="floor")
    return Geometry(preprocessing, text)


HUGGINGFACE = Publisher(
    name="huggingface",
    title="Hugging Face Bit",
    style=PLAIN,
    names=_names,
    dialects=always("bit", weight_std_eps=1e-8),
    geometry=_geometry,
)
