"""The PyTorch session, and the normalisation that training shares with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnetv2.config import ResNetV2Config
from resnetv2.data.augment import Box, Resize, resize_box
from resnetv2.errors import ConfigError
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.graph import map_names
from resnetv2.runtime.session import POOLED, check_finite, check_layer, one_memory_error
from resnetv2.shapes import check_shapes
from resnetv2.weights.modelfile import Golden, Header, ModelFile


class Normalize(nn.Module):
    """uint8 (N, H, W, 3) RGB -> float32 (N, 3, H, W) in channels_last: (pixel - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        for name in ("mean", "std"):
            value = torch.tensor(getattr(preprocessing, name), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std


class TorchSession:
    """Logits by PyTorch.

    Args:
        model: an evaluated network; it is moved to ``device`` and set to ``eval()``.
        preprocessing: whose mean and std are applied on the device.
        device: a torch device.
        compiled: let ``torch.compile`` fuse the network, which takes a minute at the first batch of every new size.
    """

    def __init__(
        self, model: ResNetV2, preprocessing: Preprocessing, device: torch.device, compiled: bool = False
    ) -> None:
        self.runtime = "torch-compile" if compiled else "torch"
        self.device = device
        self.normalize = Normalize(preprocessing).to(device)
        self.model = place(model, device).eval()
        self.forward = torch.compile(self.model) if compiled else self.model

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> logits float32 (N, num_classes); see ``Session``."""
        return check_finite(self._run(self.forward, pictures))

    def features(self, pictures: np.ndarray, layer: str = POOLED) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> features of a layer, float32; see ``Session``."""
        names = map_names(self.model.config)
        check_layer(layer, [POOLED, *names])
        if layer == POOLED:
            return self._run(self._pooled, pictures)
        return self._run(lambda x: self.model.forward_maps(x)[names.index(layer)], pictures)

    def with_features(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, 3) RGB -> logits and pooled features; see ``Session``. They are never compiled."""
        features = self._run(self._pooled, pictures)
        return check_finite(self._classify(features)), features

    def _pooled(self, x: Tensor) -> Tensor:
        result: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return result

    @torch.inference_mode()
    def _classify(self, features: np.ndarray) -> np.ndarray:
        if not self.model.num_classes:
            return features
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            result: np.ndarray = self.model.head.fc(torch.from_numpy(features).to(self.device)).float().cpu().numpy()
        return result

    @torch.inference_mode()
    def _run(self, network: Callable[[Tensor], Tensor], pictures: np.ndarray) -> np.ndarray:
        """Compute in full float32: TensorFloat-32, CUDA's default for convolutions, moves logits by thousandths."""
        with one_memory_error(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            x = self.normalize(torch.from_numpy(pictures).to(self.device))
            result: np.ndarray = network(x).float().cpu().numpy()
        return result


def place(model: ResNetV2, device: torch.device) -> ResNetV2:
    """Move a network to a device, its convolutions laid out for channels_last."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device named, or for "auto" the best one present: CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here: {reason}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r} cannot be used here: choose auto, cpu, cuda or mps")
    return device


def build_model(architecture: ResNetV2Config, weights: Mapping[str, np.ndarray], **options: Any) -> ResNetV2:
    """Build a network and give it weights, all of them; it shares their memory.

    Args:
        architecture: the network.
        weights: float32 arrays by name, as a model file has them.
        options: of ``ResNetV2``, such as ``drop_rate``.

    Raises:
        ModelFileError: weights and architecture do not fit; every misfit is named.
    """
    check_shapes(architecture, weights)
    with torch.device("meta"):
        model = ResNetV2(architecture, **options)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, assign=True)
    return model


def model_file(model: ResNetV2, header: Header, pictures: Sequence[bytes], device: torch.device) -> ModelFile:
    """Return the content of a model file: a network's weights, and its answers to ``pictures`` as golden samples."""
    weights = {name: value.detach().cpu().contiguous().numpy() for name, value in weights_of(model).items()}
    session = TorchSession(model, header.preprocessing, device)
    logits = [session(header.preprocessing.decode([picture])) for picture in pictures]  # a batch would need more memory
    return ModelFile(header, weights, Golden(tuple(pictures), np.concatenate(logits)))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what a model file stores of a network: parameters and statistics, without BN's batch counters."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


_COARSE = 64  # pixels of a box's shorter side, from which on half a pixel more or less does not matter


def choose_resize() -> Resize:
    """Return the faster way to resize crops in training: torch's where it has vector code for this processor."""
    return resize_box_fast if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else resize_box


def resize_box_fast(pixels: np.ndarray, box: Box, size: int, bicubic: bool) -> np.ndarray:
    """Return what ``resize_box`` does, four times as fast: to one level of grey, save where bicubic overshoots.

    The box is rounded to whole pixels, as torchvision and timm draw it; one with a side below 64 pixels is Pillow's.
    """
    left, top, right, bottom = box
    if min(right - left, bottom - top) < _COARSE:
        return resize_box(pixels, box, size, bicubic)
    part = np.require(pixels[round(top) : round(bottom), round(left) : round(right)], requirements=["C", "W"])
    # As channels_last all the way: a copy into another layout would wake OpenMP's threads, and wait for them.
    picture = torch.from_numpy(part).unsqueeze(0).permute(0, 3, 1, 2)
    mode = "bicubic" if bicubic else "bilinear"
    out = F.interpolate(picture, (size, size), mode=mode, antialias=True, align_corners=False)
    resized: np.ndarray = out.permute(0, 2, 3, 1)[0].numpy()
    return resized
