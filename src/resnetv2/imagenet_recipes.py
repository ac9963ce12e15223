"""Recipes that somebody published for ImageNet, as settings of ``TrainConfig``. Standard library only.

What they reached is their publishers' word for the network that is named; here none of them was run on ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ImageNetRecipe:
    """One recipe.

    Attributes:
        source: where it is from.
        published: what its publishers reached, on which network, at which size.
        cost: what that took, in their words.
        differs: what of it is otherwise here, and could change the result.
        settings: fields of ``TrainConfig``.
    """

    source: str
    published: str
    cost: str
    differs: str
    settings: Mapping[str, Any]


_CROP = {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "hflip": 0.5}
_NO_AVERAGE = {"ema_decay": 0.0}  # the weights themselves are validated and saved
_RSB = {  # what A1, A2 and A3 share
    **_CROP,
    **_NO_AVERAGE,
    "batch_size": 2048,
    "optimizer": "lamb",
    "schedule": "cosine",
    "warmup_epochs": 5,
    "clip_grad": 1.0,
    "loss": "bce",
    "cutmix": 1.0,
    "image_size": 224,
    "crop_pct": 0.95,
}
_RSB_DIFFERS = "RandAugment at a fixed strength where theirs varies by 0.5; mixup and CutMix draw one share for a batch"
_FFCV = {
    **_CROP,
    **_NO_AVERAGE,
    "batch_size": 4096,
    "lr": 1.7,
    "schedule": "linear",
    "warmup_epochs": 2,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
    "image_size": 192,
    "start_image_size": 160,
    "resize_ramp": (0.75, 0.86),
    "val_image_size": 256,
    "crop_pct": 0.875,
}
_FFCV_DIFFERS = "no BlurPool; validation without the mean over a picture and its mirror image"
_FFCV_SOURCE = "libffcv/ffcv-imagenet, rn50 configurations and README"

IMAGENET_RECIPES: Mapping[str, ImageNetRecipe] = {
    "classic-90": ImageNetRecipe(
        source="Goyal et al. 2017, arXiv 1706.02677; pytorch/vision references, weights V1",
        published="76.1 % top-1 of ResNet-50 (v1.5) at 224",
        cost="90 epochs",
        differs="the rate falls to a tenth at 30, 60 and 90 % of the run, not every 30 epochs",
        settings={
            **_CROP,
            **_NO_AVERAGE,
            "epochs": 90,
            "batch_size": 256,
            "lr": 0.1,
            "schedule": "step",
            "warmup_epochs": 5,
            "weight_decay": 1e-4,
            "label_smoothing": 0.0,
            "crop_pct": 0.875,
        },
    ),
    "rsb-a1": ImageNetRecipe(
        source="Wightman et al. 2021, arXiv 2110.00476 (ResNet strikes back), A1",
        published="80.4 % top-1 of ResNet-50 (v1.5) at 224; timm's resnetv2_50.a1h, of the same family: 80.4 %",
        cost="600 epochs, 4.6 days on four V100",
        differs=_RSB_DIFFERS,
        settings={
            **_RSB,
            "epochs": 600,
            "lr": 5e-3,
            "weight_decay": 0.01,
            "label_smoothing": 0.1,
            "mixup": 0.2,
            "auto_augment": "rand-m7",
            "sampling": "repeated",
            "drop_path_rate": 0.05,
        },
    ),
    "rsb-a2": ImageNetRecipe(
        source="Wightman et al. 2021, arXiv 2110.00476, A2",
        published="79.8 % top-1 of ResNet-50 (v1.5) at 224",
        cost="300 epochs",
        differs=_RSB_DIFFERS,
        settings={
            **_RSB,
            "epochs": 300,
            "lr": 5e-3,
            "weight_decay": 0.02,
            "label_smoothing": 0.0,
            "mixup": 0.1,
            "auto_augment": "rand-m7",
            "sampling": "repeated",
            "drop_path_rate": 0.05,
        },
    ),
    "rsb-a3": ImageNetRecipe(
        source="Wightman et al. 2021, arXiv 2110.00476, A3",
        published="78.1 % top-1 of ResNet-50 (v1.5), trained at 160, tested at 224",
        cost="100 epochs",
        differs=_RSB_DIFFERS,
        settings={
            **_RSB,
            "epochs": 100,
            "lr": 8e-3,
            "weight_decay": 0.02,
            "label_smoothing": 0.0,
            "mixup": 0.1,
            "auto_augment": "rand-m6",
            "image_size": 160,
            "val_image_size": 224,
        },
    ),
    "torchvision-v2": ImageNetRecipe(
        source="pytorch/vision, new recipe of the weights V2 (pull requests 5201 and 6433)",
        published="80.858 % top-1 of ResNet-50 (v1.5), trained at 176, tested at 224",
        cost="600 epochs, 1 day 18 hours on eight GPUs",
        differs="pictures repeat three times, not four; mixup and CutMix draw one share for a batch",
        settings={
            **_CROP,
            "epochs": 600,
            "batch_size": 1024,
            "lr": 0.5,
            "schedule": "cosine",
            "warmup_epochs": 5,
            "weight_decay": 2e-5,
            "label_smoothing": 0.1,
            "mixup": 0.2,
            "cutmix": 1.0,
            "auto_augment": "trivial",
            "random_erasing": 0.1,
            "sampling": "repeated",
            "ema_decay": 0.99998,
            "image_size": 176,
            "val_image_size": 224,
            "crop_pct": 224 / 232,
        },
    ),
    **{
        f"ffcv-{epochs}": ImageNetRecipe(
            source=_FFCV_SOURCE,
            published=f"{top1} % top-1 of ResNet-50 (v1.5 with BlurPool) at 256 with mirror images",
            cost=f"{epochs} epochs, {minutes} minutes on eight A100",
            differs=_FFCV_DIFFERS,
            settings={**_FFCV, "epochs": epochs},
        )
        for epochs, top1, minutes in ((16, 73.8, 14.9), (32, 76.6, 28.7), (88, 78.4, 77.2))
    },
}
