"""Heat maps from a network's gradients and from covering parts of a picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resnetv2.runtime.pytorch import TorchSession

_STEPS = 32  # of integrated gradients; attributions then sum to within some percent of the logit's change
_PATCHES = 14  # of an occluded picture, in each direction
_BATCH = 32
_GREY = 1e-12  # keeps a division from 0


def gradcam(session: TorchSession, pixels: np.ndarray, number: int) -> np.ndarray:
    """Return Grad-CAM: the last map's channels, each weighted by its mean gradient.

    With a global average pool and one linear layer these are the layer's weights: Class Activation Mapping.

    Args:
        session: the network.
        pixels: uint8 (H, W, 3) RGB, preprocessed.
        number: of the class.

    Returns:
        float32 (h, w), not negative; so does every function here.
    """
    activation, gradient = _last_map(session, pixels, number)
    return _positive((gradient.mean(dim=(1, 2), keepdim=True) * activation).sum(dim=0))


def gradcam_plus_plus(session: TorchSession, pixels: np.ndarray, number: int) -> np.ndarray:
    """Return Grad-CAM++: positive gradients only, weighted so that small and large evidence count alike."""
    activation, gradient = _last_map(session, pixels, number)
    square, cube = gradient**2, gradient**3
    alpha = square / (2 * square + activation.sum(dim=(1, 2), keepdim=True) * cube).clamp(min=_GREY)
    weights = (alpha * gradient.relu()).sum(dim=(1, 2), keepdim=True)
    return _positive((weights * activation).sum(dim=0))


def layercam(session: TorchSession, pixels: np.ndarray, number: int) -> np.ndarray:
    """Return LayerCAM: each cell weighted by its own positive gradient."""
    activation, gradient = _last_map(session, pixels, number)
    return _positive((gradient.relu() * activation).sum(dim=0))


def occlusion(session: TorchSession, pixels: np.ndarray, number: int) -> np.ndarray:
    """Return by how much the logit falls when a patch is covered with the network's mean colour: (14, 14) at most.

    A patch has twice the side of the cells, so that neighbours overlap, and a cell is the mean of the patches over it.
    """
    size = pixels.shape[0]
    cells = min(_PATCHES, size)
    edges = np.linspace(0, size, cells + 1).round().astype(int)
    mean = session.normalize.mean.view(3).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    places = [(i, j) for i in range(cells) for j in range(cells)]
    before = float(session(pixels[None])[0, number])
    fall, count = np.zeros((cells, cells)), np.zeros((cells, cells))
    for start in range(0, len(places), _BATCH):
        some = places[start : start + _BATCH]
        covered = np.repeat(pixels[None], len(some), axis=0)
        for picture, (i, j) in zip(covered, some, strict=True):
            picture[edges[i] : edges[min(i + 2, cells)], edges[j] : edges[min(j + 2, cells)]] = mean
        for (i, j), after in zip(some, session(covered)[:, number].tolist(), strict=True):
            fall[i : i + 2, j : j + 2] += before - after
            count[i : i + 2, j : j + 2] += 1
    result: np.ndarray = np.maximum(fall / count, 0).astype(np.float32)
    return result


def integrated_gradients(session: TorchSession, pixels: np.ndarray, number: int, steps: int = _STEPS) -> np.ndarray:
    """Return integrated gradients from the network's mean colour, (H, W): the sums over channels, where positive."""
    x = session.normalize(torch.from_numpy(pixels[None]).to(session.device))
    total = torch.zeros_like(x)
    shares = (torch.arange(steps, device=x.device) + 0.5) / steps  # midpoints
    for some in torch.split(shares, _BATCH // 4):
        with torch.enable_grad():
            between = (some.view(-1, 1, 1, 1) * x).requires_grad_()  # 0 is the mean colour
            logits = session.model(between)[:, number].sum()
        total += torch.autograd.grad(logits, between)[0].sum(dim=0, keepdim=True)
    return _positive((total * x / steps)[0].sum(dim=0))


def _last_map(session: TorchSession, pixels: np.ndarray, number: int) -> tuple[Tensor, Tensor]:
    """Return the map that the head sees, after the final norm and ReLU, and the logit's gradient there: (C, h, w)."""
    x = session.normalize(torch.from_numpy(pixels[None]).to(session.device))
    with torch.no_grad():
        activation = session.model.forward_features(x)
    with torch.enable_grad():
        activation.requires_grad_()
        logit = session.model.forward_head(activation)[0, number]
    (gradient,) = torch.autograd.grad(logit, activation)
    return activation.detach()[0], gradient[0]


def _positive(heat: Tensor) -> np.ndarray:
    result: np.ndarray = heat.relu().float().cpu().numpy()
    return result
