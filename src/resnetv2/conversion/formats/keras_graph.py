"""The graph of Keras Applications' ResNet-v2 as Keras 3 writes it into config.json: layers and what each one reads."""

from __future__ import annotations

from typing import Any

from resnetv2.config import ResNetV2Config, Unit
from resnetv2.errors import ConvertError


def functional_config(config: ResNetV2Config) -> dict[str, Any]:
    """Return the config.json of a functional model (N, height, width, channels) -> logits, or pooled features.

    Layers have the names of Keras Applications; height and width are free. Keras takes what a layer's config leaves
    out from the layer's defaults.

    Raises:
        ConvertError: no network of bottlenecks after a 7x7 stem.
    """
    if (config.block, config.stem) != ("bottleneck", "7x7"):
        raise ConvertError(
            "Keras Applications has bottleneck units after a 7x7 stem, not "
            f"{config.block} units after a {config.stem} stem"
        )
    graph = _Graph(config)
    x = graph.stem()
    for unit in config.units():
        x = graph.unit(unit, x)
    x = graph.add("GlobalAveragePooling2D", "avg_pool", graph.norm("post", x))
    if config.num_classes:
        x = graph.add("Dense", "predictions", x, units=config.num_classes)
    fields = {"name": "resnetv2", "trainable": True, "layers": graph.layers}
    ends = {"input_layers": ["input_layer", 0, 0], "output_layers": [x, 0, 0]}
    return _object("keras.src.models.functional", "Functional", {**fields, **ends})


class _Graph:
    """Layers in the order they are added, each known by its name."""

    def __init__(self, config: ResNetV2Config) -> None:
        self.config = config
        self.layers: list[dict[str, Any]] = []

    def add(self, kind: str, name: str, *inputs: str, **fields: Any) -> str:
        """Add a layer that reads the outputs of ``inputs``; return its name."""
        tensors = [_output_of(layer) for layer in inputs]
        args = tensors if len(tensors) == 1 else [tensors]  # Add reads one list
        nodes: list[dict[str, Any]] = [{"args": args, "kwargs": {}}] if tensors else []
        layer = _object("keras.layers", kind, {"name": name, **fields})
        self.layers.append({**layer, "name": name, "inbound_nodes": nodes})
        return name

    def stem(self) -> str:
        self.add("InputLayer", "input_layer", batch_shape=[None, None, None, self.config.in_chans])
        x = self.conv("conv1", "input_layer", self.config.stem_channels, 7, 2, bias=True)
        x = self.spatial("ZeroPadding2D", "pool1_pad", x, padding=1)
        return self.spatial("MaxPooling2D", "pool1_pool", x, pool_size=3, strides=2)

    def unit(self, unit: Unit, x: str) -> str:
        name = f"conv{unit.stage + 2}_block{unit.number + 1}"
        preact = self.norm(f"{name}_preact", x)
        shortcut = x
        if unit.project:
            shortcut = self.conv(f"{name}_0", preact, unit.out_channels, 1, unit.stride, bias=True)
        elif unit.stride > 1:  # every second pixel
            shortcut = self.spatial("MaxPooling2D", f"{name}_0_pool", x, pool_size=1, strides=unit.stride)
        y = self.norm(f"{name}_1", self.conv(f"{name}_1", preact, unit.mid_channels, 1))
        y = self.norm(f"{name}_2", self.conv(f"{name}_2", y, unit.mid_channels, 3, unit.stride))
        y = self.conv(f"{name}_3", y, unit.out_channels, 1, bias=True)
        return self.add("Add", f"{name}_out", shortcut, y)

    def conv(self, name: str, x: str, filters: int, size: int, stride: int = 1, *, bias: bool = False) -> str:
        if size > 1:
            x = self.spatial("ZeroPadding2D", f"{name}_pad", x, padding=size // 2)
        fields = {"filters": filters, "kernel_size": size, "strides": stride, "use_bias": bias}
        return self.spatial("Conv2D", f"{name}_conv", x, **fields)

    def norm(self, name: str, x: str) -> str:
        momentum = 1 - self.config.norm_momentum  # Keras weighs the old statistics
        x = self.add("BatchNormalization", f"{name}_bn", x, epsilon=self.config.norm_eps, momentum=momentum)
        return self.add("Activation", f"{name}_relu", x, activation="relu")

    def spatial(self, kind: str, name: str, x: str, **fields: Any) -> str:
        return self.add(kind, name, x, data_format="channels_last", **fields)


def _object(module: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _output_of(layer: str) -> dict[str, Any]:
    """Return a reference to a layer's output; Keras works its shape out again."""
    config = {"shape": [None], "dtype": "float32", "keras_history": [layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
