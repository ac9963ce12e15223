"""The ResNet-v2 network, whole: layers, unit, stage, model.

Shapes use N = batch, C = channels, H and W = height and width in pixels. Module names follow timm, with the head as a
linear layer ``head.fc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from resnetv2.config import ResNetV2Config, Unit
from resnetv2.errors import ConfigError
from resnetv2.kernels import preact
from resnetv2.kernels.convolution import conv2d

if TYPE_CHECKING:
    from resnetv2.preprocess import Preprocessing

# --- layers -----------------------------------------------------------------------------------------------------------


class Conv2d(nn.Conv2d):
    """Square convolution, faster than PyTorch's to train on CPUs; see ``resnetv2.kernels.convolution``."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], int(self.padding[0]))


class StdConv2d(nn.Conv2d):
    """Convolution whose kernel is standardised per output channel (Qiao et al. 2019, arXiv 1903.10520; as in BiT)."""

    eps = 1e-10

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(var + self.eps)
        return conv2d(x, weight, self.bias, self.stride[0], int(self.padding[0]))


class SameConv2d(nn.Conv2d):
    """Convolution that pads as TensorFlow's SAME does at stride 2: an even side gets the odd pixel at its end."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(pad_same(x, self.kernel_size[0], value=0.0), self.weight, self.bias, self.stride[0], 0)


class EvoNormS0(nn.Module):
    """EvoNorm-S0 over 32 groups (Liu et al. 2020, arXiv 2004.02967): norm and activation in one."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        var = x.reshape(n, 32, c // 32, h, w).float().var(dim=(2, 3, 4), correction=0, keepdim=True)
        std = (var + self.eps).sqrt().to(x.dtype).expand(n, 32, c // 32, 1, 1).reshape(n, c, 1, 1)
        weight, bias, v = (p.to(x.dtype).view(1, c, 1, 1) for p in (self.weight, self.bias, self.v))
        return x * torch.sigmoid(x * v) / std * weight + bias


class InputNorm(nn.BatchNorm2d):
    """Batch norm on the pixels whose scale is fixed at 1, as MXNet's ``fix_gamma`` has it."""

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps, momentum)
        self.weight.requires_grad = False


def pad_same(x: Tensor, kernel: int, value: float) -> Tensor:
    """Pad H and W for a stride-2 window of odd size ``kernel`` as TensorFlow's SAME does."""
    h, w = x.shape[-2] % 2, x.shape[-1] % 2
    half = kernel // 2
    return F.pad(x, (half - 1 + w, half, half - 1 + h, half), value=value)


def max_pool(x: Tensor, border: str) -> Tensor:
    """Max-pool 3x3 with stride 2. (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))

    The border matters because a pre-activation stem is signed: "ignore" never lets it win, "zero" does, "same" pads an
    even side at its end only.
    """
    if border == "ignore":
        return F.max_pool2d(x, 3, 2, padding=1)
    if border == "zero":
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    return F.max_pool2d(pad_same(x, 3, float("-inf")), 3, 2)


def make_conv(
    config: ResNetV2Config, in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Return a square convolution in the config's flavour, padded so that stride 1 keeps the size."""
    if config.same_padding and kernel > 1 and stride == 2:
        return SameConv2d(in_channels, out_channels, kernel, stride, bias=bias)
    conv_type = StdConv2d if config.weight_std else Conv2d
    conv = conv_type(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)
    if isinstance(conv, StdConv2d):
        conv.eps = config.weight_std_eps
    return conv


def make_norm(config: ResNetV2Config, channels: int) -> nn.Module:
    """Return the config's normalisation over C."""
    if config.norm == "group":
        return nn.GroupNorm(32, channels, eps=config.norm_eps)
    if config.norm == "evonorm":
        return EvoNormS0(channels, config.norm_eps)
    return nn.BatchNorm2d(channels, eps=config.norm_eps, momentum=config.norm_momentum)


def activate(norm: nn.Module, x: Tensor) -> Tensor:
    """Return relu(norm(x)), or norm(x) where the norm is its own activation."""
    y: Tensor = norm(x)
    return y if isinstance(norm, EvoNormS0) else F.relu(y, inplace=True)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: zero whole samples of a residual branch, scaling the kept ones (Huang et al., 1603.09382)."""
    if not training or rate == 0.0:
        return x
    keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - rate)
    return x * (keep / (1 - rate))


# --- the pre-activation step ------------------------------------------------------------------------------------------


class Recompute:
    """Saved-tensor hooks that keep relu(norm(x)) out of memory and compute it again, bit for bit, in backward.

    Autograd would keep both ``x`` (for the norm) and ``relu(norm(x))`` (for ReLU and each convolution that reads it).
    The second is a cheap function of the first. It is computed once in backward, handed to every formula that saved it,
    and dropped. Running statistics are left alone the second time.
    """

    def __init__(self, norm: nn.Module, x: Tensor, activation: Tensor) -> None:
        self.norm, self.x = norm, x.detach()
        self.training = norm.training  # a frozen batch norm uses its running statistics the second time, too
        self.place = (activation.data_ptr(), activation.shape, activation.dtype)
        self.readers = 0
        self.unread = 0
        self.again: Tensor | None = None

    def pack(self, saved: Tensor) -> Tensor | None:
        """Return None in place of the activation, any other tensor as it is."""
        if (saved.data_ptr(), saved.shape, saved.dtype) != self.place:
            return saved
        self.readers += 1
        return None

    def unpack(self, packed: Tensor | None) -> Tensor:
        """Return the tensor that ``pack`` was given."""
        if packed is not None:
            return packed
        if self.again is None:
            self.again = self._compute()
            self.unread = self.readers
        again = self.again
        self.unread -= 1
        if self.unread == 0:
            self.again = None
        return again

    def _compute(self) -> Tensor:
        norm = self.norm
        with torch.no_grad():
            if isinstance(norm, nn.BatchNorm2d):
                mean, var = (None, None) if self.training else (norm.running_mean, norm.running_var)
                y = F.batch_norm(self.x, mean, var, norm.weight, norm.bias, self.training, 0.0, norm.eps)
            else:
                y = norm(self.x)
            return F.relu(y, inplace=True)


def preactivate(
    norm: nn.Module, x: Tensor, convs: Sequence[Callable[[Tensor], Tensor]], recompute: bool
) -> list[Tensor]:
    """Return ``conv(relu(norm(x)))`` for each of ``convs``: the step that the whole network is made of.

    With ``recompute``, backward keeps ``x`` alone; results and gradients are the same bits. Norms that cannot be run
    twice (EvoNorm is its own activation, ``SyncBatchNorm`` talks to other processes) keep the activation.
    """
    if not recompute or not isinstance(norm, (nn.BatchNorm2d, nn.GroupNorm)):
        activation = activate(norm, x)
        return [conv(activation) for conv in convs]
    y = norm(x)
    hooks = Recompute(norm, x, y)
    with saved_tensors_hooks(hooks.pack, hooks.unpack):
        activation = F.relu(y, inplace=True)
        return [conv(activation) for conv in convs]


# --- stem, unit, stage ------------------------------------------------------------------------------------------------


class Stem(nn.Module):
    """From pixels to the first residual unit.

    (N, in_chans, H, W) -> (N, stem_channels, H/4, W/4), or with the "3x3" stem (N, stem_channels, H, W)
    """

    def __init__(self, config: ResNetV2Config) -> None:
        super().__init__()
        out, bias = config.stem_channels, config.stem_bias
        self.pool = config.stem_pool if config.stem != "3x3" else None
        self.norm = make_norm(config, out) if config.stem_norm else None
        if config.stem == "deep":
            self.conv1 = make_conv(config, config.in_chans, out // 2, 3, 2)
            self.norm1 = make_norm(config, out // 2)
            self.conv2 = make_conv(config, out // 2, out // 2, 3)
            self.norm2 = make_norm(config, out // 2)
            self.conv3 = make_conv(config, out // 2, out, 3, bias=bias)
        elif config.stem == "7x7":
            self.conv = make_conv(config, config.in_chans, out, 7, 2, bias)
        else:
            self.conv = make_conv(config, config.in_chans, out, 3, 1, bias)
        self.deep = config.stem == "deep"

    def forward(self, x: Tensor) -> Tensor:
        if self.deep:
            x = activate(self.norm1, self.conv1(x))
            x = activate(self.norm2, self.conv2(x))
            x = self.conv3(x)
        else:
            x = self.conv(x)
        if self.norm is not None:
            x = activate(self.norm, x)
        return x if self.pool is None else max_pool(x, self.pool)


class Projection(nn.Module):
    """The shortcut of a unit whose shape changes: a 1x1 convolution, in the "d" form after a 2x2 average pool."""

    def __init__(self, config: ResNetV2Config, unit: Unit) -> None:
        super().__init__()
        self.pool = config.projection_pool and unit.stride == 2
        stride = 1 if self.pool else unit.stride
        self.conv = make_conv(config, unit.in_channels, unit.out_channels, 1, stride, config.out_bias)
        self.norm = make_norm(config, unit.out_channels) if config.projection_input == "raw" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool:
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class ResidualUnit(nn.Module):
    """One pre-activation unit (He et al. 2016, arXiv 1603.05027, figure 4e), bottleneck or basic.

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)
    """

    def __init__(self, config: ResNetV2Config, unit: Unit, drop_path_rate: float, recompute: bool) -> None:
        super().__init__()
        self.stride = unit.stride
        self.drop_path_rate = drop_path_rate
        self.recompute = recompute
        self.raw_projection = config.projection_input == "raw"
        self.bottleneck = config.block == "bottleneck"
        cin, mid, out, bias = unit.in_channels, unit.mid_channels, unit.out_channels, config.out_bias
        self.norm1 = make_norm(config, cin) if unit.norm1 else None
        self.downsample = Projection(config, unit) if unit.project else None
        if self.bottleneck:
            first, second = (1, unit.stride) if config.stride_conv == "conv2" else (unit.stride, 1)
            self.conv1 = make_conv(config, cin, mid, 1, first)
            self.norm2 = make_norm(config, mid)
            self.conv2 = make_conv(config, mid, mid, 3, second)
            self.norm3 = make_norm(config, mid)
            self.conv3 = make_conv(config, mid, out, 1, bias=bias)
        else:
            self.conv1 = make_conv(config, cin, mid, 3, unit.stride)
            self.norm2 = make_norm(config, mid)
            self.conv2 = make_conv(config, mid, out, 3, bias=bias)

    @property
    def last_conv(self) -> nn.Conv2d:
        """The convolution whose result is added to the shortcut."""
        return self.conv3 if self.bottleneck else self.conv2

    def forward(self, x: Tensor) -> Tensor:
        recompute = self.recompute and self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        readers: list[Callable[[Tensor], Tensor]] = [self.conv1]
        if self.downsample is not None and not self.raw_projection:
            readers.append(self.downsample)
        if self.norm1 is None:
            y, *shortcuts = (read(x) for read in readers)
        else:
            y, *shortcuts = preactivate(self.norm1, x, readers, recompute)
        if shortcuts:
            shortcut = shortcuts[0]
        elif self.downsample is not None:
            shortcut = self.downsample(x)
        else:
            shortcut = x[..., :: self.stride, :: self.stride] if self.stride > 1 else x
        y = preactivate(self.norm2, y, [self.conv2], recompute)[0]
        if self.bottleneck:
            y = preactivate(self.norm3, y, [self.conv3], recompute)[0]
        return drop_path(y, self.drop_path_rate, self.training).add_(shortcut)

    def is_fusible(self) -> bool:
        """Tell whether ``forward_fused`` computes this unit as it is now."""
        steps: list[tuple[nn.Module | None, list[nn.Module]]] = [(self.norm1, [self.conv1]), (self.norm2, [self.conv2])]
        if self.bottleneck:
            steps.append((self.norm3, [self.conv3]))
        if self.downsample is not None:
            if self.raw_projection or self.downsample.pool:
                return False
            steps[0][1].append(self.downsample.conv)
        ours = all(type(conv) in (Conv2d, nn.Conv2d) for _, convs in steps for conv in convs)
        return ours and all(preact.is_plain_step(*step) for step in steps)

    def forward_fused(
        self, x: Tensor, moments: preact.Moments | None, products: bool = True
    ) -> tuple[Tensor, preact.Moments | None]:
        """Return what ``forward`` does, with the statistics of it: those of ``x`` are ``moments``, where known.

        Steps are ``resnetv2.kernels.preact``'s. For units whose norms and convolutions these suit.
        """
        downsample = self.downsample
        identity = downsample is None and self.stride == 1
        readers = [self.conv1] if downsample is None else [self.conv1, downsample.conv]
        (y, *shortcuts), found, passed = preact.preact_conv(
            self.norm1, x, moments, readers, passes_x=identity, products=products
        )
        shortcut = shortcuts[0] if shortcuts else passed
        if shortcut is None:
            shortcut = x[..., :: self.stride, :: self.stride]
        add = shortcut if self.drop_path_rate == 0.0 else None
        if self.bottleneck:
            (y,), found, _ = preact.preact_conv(self.norm2, y, found, [self.conv2], products=products)
            (y,), found, _ = preact.preact_conv(self.norm3, y, found, [self.conv3], add, products=products)
        else:
            (y,), found, _ = preact.preact_conv(self.norm2, y, found, [self.conv2], add, products=products)
        if add is not None:
            return y, found
        return drop_path(y, self.drop_path_rate, self.training).add_(shortcut), None


class Stage(nn.Module):
    """The units that share one width; their modules are ``blocks.0``, ``blocks.1`` …"""

    def __init__(self, blocks: list[ResidualUnit]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class Head(nn.Module):
    """Global average pool, dropout, linear layer.

    (N, C, H, W) -> logits (N, num_classes), or (N, C) without classes
    """

    def __init__(self, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = F.dropout(x.mean(dim=(2, 3)), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


# --- model ------------------------------------------------------------------------------------------------------------


class FeatureInfo(list[dict[str, Any]]):
    """What the feature maps are: one dict for each, with ``num_chs``, ``reduction`` (pixels a cell) and ``module``."""

    def channels(self) -> list[int]:
        """Return the channels of each map."""
        return [entry["num_chs"] for entry in self]

    def reduction(self) -> list[int]:
        """Return the stride of each map against the input picture."""
        return [entry["reduction"] for entry in self]


class ResNetV2(nn.Module):
    """Pre-activation ResNet classifier and backbone.

    Args:
        config: the architecture.
        drop_rate: dropout before the head, in [0, 1).
        drop_path_rate: stochastic depth of the last unit, in [0, 1); earlier units less, linearly down to 0.
        memory: "saved" keeps activations for backward as PyTorch does; "recompute" keeps the norms' inputs alone and
            computes the activations again: half the memory, the same bits. Under ``torch.compile`` both are the same,
            because the compiler recomputes by itself.
        kernels: "auto" trains with fused kernels where they were measured to be faster, "plain" never, "fused" wherever
            they can be used, matrix products included, which pays in a CUDA graph; see ``resnetv2.kernels.preact``.
            They keep what ``memory="recompute"`` keeps.
        zero_init_last: start every residual branch at zero (Goyal et al. 2017, arXiv 1706.02677, adapted to v2: the
            last convolution, since no norm follows it).

    The input is (N, in_chans, H, W) float, already normalised; H and W at least 32.
    """

    def __init__(
        self,
        config: ResNetV2Config,
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        memory: str = "saved",
        kernels: str = "auto",
        zero_init_last: bool = False,
    ) -> None:
        super().__init__()
        for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
            if not 0 <= rate < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {rate!r}")
        if memory not in ("saved", "recompute"):
            raise ConfigError(f"memory must be 'saved' or 'recompute', got {memory!r}")
        self.config = config
        self.preprocessing: Preprocessing | None = None  # what the weights want to see, where they are not random
        preact.check_kernels(kernels)
        self.memory = memory
        self.kernels = kernels
        self.num_features = config.num_features
        norm = InputNorm(config.in_chans, config.norm_eps, config.norm_momentum) if config.input_norm else None
        self.input_norm = norm
        self.stem = Stem(config)
        plan = list(config.units())
        stages: list[list[ResidualUnit]] = [[] for _ in config.depths]
        for number, unit in enumerate(plan):
            rate = drop_path_rate * number / max(len(plan) - 1, 1)
            stages[unit.stage].append(ResidualUnit(config, unit, rate, memory == "recompute"))
        self.stages = nn.ModuleList(Stage(units) for units in stages)
        self.norm = make_norm(config, config.num_features)
        self.head = Head(config.num_features, config.num_classes, drop_rate)
        self.feature_info = feature_info(config)
        if torch.get_default_device().type != "meta":  # without memory, drawing numbers only imports torch's compiler
            self.init_weights(zero_init_last)

    @torch.no_grad()
    def init_weights(self, zero_init_last: bool = False) -> None:
        """Initialise every parameter in this one place: He normal (fan out) convolutions, unit norms, a small head."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, EvoNormS0):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
                nn.init.ones_(module.v)
        if zero_init_last:
            for unit in self.units():
                nn.init.zeros_(unit.last_conv.weight)

    def units(self) -> Iterator[ResidualUnit]:
        """Yield the residual units in order of execution."""
        for stage in self.stages:
            yield from stage.blocks  # type: ignore[misc]  # a ModuleList forgets what it holds

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a head."""
        return self.config.num_classes

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an identity without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one; 0 removes it."""
        self.config = replace(self.config, num_classes=num_classes)
        old = next(self.parameters())
        head = Head(self.num_features, num_classes, self.head.drop_rate)
        self.head = head.to(old.device, old.dtype).train(self.training)
        if isinstance(self.head.fc, nn.Linear):
            nn.init.normal_(self.head.fc.weight, std=0.01)
            nn.init.zeros_(self.head.fc.bias)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Return the last map at each resolution, raw, and the normed one at the end.

        (N, in_chans, H, W) -> for ResNet50-v2 [(N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16),
        (N, 2048, H/32, W/32)]. Maps are taken just before each unit that strides, so that dialects which stride in
        different units agree; in "kerascv" alone they are wider: 512, 1024, 2048 and 2048 channels.
        """
        if self.input_norm is not None:
            x = self.input_norm(x)
        x = self.stem(x)
        maps = []
        fused = self.training and preact.suits(self.kernels, x, self)
        moments = None
        for unit in self.units():
            if unit.stride == 2:
                maps.append(x)
            if fused and unit.is_fusible():
                x, moments = unit.forward_fused(x, moments, self.kernels == "fused")
            else:
                x, moments = unit(x), None
        return [*maps, activate(self.norm, x)]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map after the final norm and ReLU: (N, in_chans, H, W) -> (N, 2048, H/32, W/32)."""
        return self.forward_maps(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify a map: (N, 2048, h, w) -> (N, num_classes), or (N, 2048) with ``pre_logits``."""
        out: Tensor = self.head(x, pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> logits (N, num_classes), or pooled features (N, 2048) without classes."""
        return self.forward_head(self.forward_features(x))


class FeatureMaps(nn.Module):
    """A backbone that returns maps: (N, in_chans, H, W) -> a list, one map for each of ``out_indices``."""

    def __init__(self, model: ResNetV2, out_indices: Sequence[int]) -> None:
        super().__init__()
        count = len(model.feature_info)
        bad = [i for i in out_indices if not -count <= i < count]
        if bad:
            raise ConfigError(f"out_indices must lie in 0 … {count - 1}, got {bad}")
        self.model = model
        self.preprocessing = model.preprocessing
        self.out_indices = tuple(i % count for i in out_indices)
        self.feature_info = FeatureInfo(model.feature_info[i] for i in self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.model.forward_maps(x)
        return [maps[i] for i in self.out_indices]


def feature_info(config: ResNetV2Config) -> FeatureInfo:
    """Return channels, stride and place of the maps that ``ResNetV2.forward_maps`` gives."""
    info = FeatureInfo()
    reduction, module = (1 if config.stem == "3x3" else 4), "stem"
    for unit in config.units():
        if unit.stride == 2:
            info.append({"num_chs": unit.in_channels, "reduction": reduction, "module": module})
            reduction *= 2
        module = f"stages.{unit.stage}.blocks.{unit.number}"
    info.append({"num_chs": config.num_features, "reduction": reduction, "module": "norm"})
    return info
