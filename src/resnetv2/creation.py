"""Networks by name, in timm's words: architectures with random weights, or published ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from resnetv2.config import ARCHITECTURES, ResNetV2Config, architecture
from resnetv2.console import talk
from resnetv2.errors import ConfigError, unknown
from resnetv2.model import FeatureMaps, ResNetV2
from resnetv2.published import read_published
from resnetv2.runtime.pytorch import build_model
from resnetv2.weights.catalogue import card, list_models
from resnetv2.weights.modelfile import read_model_file


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    dialect: str | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    memory: str = "saved",
    kernels: str = "auto",
    zero_init_last: bool = False,
    **changes: Any,
) -> ResNetV2 | FeatureMaps:
    """Build a ResNet-v2 by name, in timm's words.

    Args:
        name: an architecture such as "resnet50v2", or published weights such as "resnet50v2.a1h_in1k";
            ``resnetv2.list_models(pretrained=…)`` lists both. With ``pretrained`` also a model file.
        pretrained: give the network the weights of that name, downloaded and converted once and then kept in the cache.
            How they want their pictures is the attribute ``preprocessing`` of the network.
        num_classes: 0 gives pooled features; None is 1000, or the number that was published. Pretrained weights with
            another number get a new, random head, which is said on stderr.
        in_chans: channels of the input.
        dialect: whose ResNet-v2 an architecture is: "torch" (timm; the default), "keras", "slim", "bit", "gluon" …
        features_only: return a network that gives feature maps at strides 4, 8, 16, 32.
        out_indices: which maps, counted from 0; all of them if None. With ``features_only`` alone.
        changes: any field of ``ResNetV2Config``, such as ``stem="3x3"`` or ``width_factor=2``.
        drop_rate, drop_path_rate, memory, kernels, zero_init_last: see ``ResNetV2``.

    Raises:
        ConfigError: unknown name, dialect or field, or a value out of range; ``pretrained`` with a bare architecture,
            or with what would change the network that the weights are for.
        DownloadError: the weights cannot be fetched.
    """
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices choose feature maps: say features_only=True with them")
    options: dict[str, Any] = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "memory": memory}
    options["kernels"] = kernels
    classes = 0 if features_only else num_classes  # a head that nothing reads would get no gradient
    if pretrained:
        given = {"dialect": dialect, "in_chans": None if in_chans == 3 else in_chans, **changes}
        given["zero_init_last"] = zero_init_last or None
        fixed = [key for key, value in given.items() if value is not None]
        if fixed:
            raise ConfigError(
                f"pretrained weights fix {', '.join(fixed)}: leave them out, or leave out pretrained=True"
            )
        model = _pretrained(name, classes, options)
    else:
        config = _config(name, dialect, {"in_chans": in_chans, **changes})
        config = config if classes is None else replace(config, num_classes=classes)
        model = ResNetV2(config, zero_init_last=zero_init_last, **options)
    if not features_only:
        return model
    return FeatureMaps(model, range(len(model.feature_info)) if out_indices is None else out_indices)


def _config(name: str, dialect: str | None, changes: Mapping[str, Any]) -> ResNetV2Config:
    if name in ARCHITECTURES:
        return architecture(name, "torch" if dialect is None else dialect, **changes)
    known = list_models(pretrained=True)
    if name not in known:
        if os.path.exists(name):  # noqa: PTH110  Path.exists raises on a name too long
            raise ConfigError(f"{name} is a file, whose network comes with its weights: pretrained=True")
        raise ConfigError(unknown("architecture or published weights", name, [*ARCHITECTURES, *known]))
    if dialect is not None:
        raise ConfigError(f"{name} fixes the dialect: leave it out")
    return ResNetV2Config.from_dict({**card(name).config.to_dict(), **changes})


def _pretrained(name: str, num_classes: int | None, options: Mapping[str, Any]) -> ResNetV2:
    file = read_published(name, read_model_file)
    model = build_model(file.header.architecture, file.weights, **options)
    model.preprocessing = file.header.preprocessing
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
        if num_classes:
            talk().print(f"{name}: its head for {len(file.header.classes)} classes gives way to a random one")
    return model
