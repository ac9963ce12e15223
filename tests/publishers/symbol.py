"""MXNet before Gluon: tornadomeet/ResNet's resnet-50, resnet-50-0000.params and its answers; depths.npz, resnet-18's.

Needs MXNet 1.9.1 with NumPy below 1.24. The scale of the norm on the pixels is stored as numbers other than 1, and
MXNet ignores them (fix_gamma).
"""

import mxnet
import numpy as np
from mxnet import symbol
from values import CLASSES, folder, pictures, value_of, write_answers


def norm(x, name):
    """Return batch norm; that on the pixels, "bn_data", has a fixed scale and no ReLU."""
    pixels = name == "bn_data"
    x = symbol.BatchNorm(x, fix_gamma=pixels, eps=2e-5, momentum=0.9, name=name)
    return x if pixels else symbol.Activation(x, act_type="relu")


def convolution(x, filters, kernel, stride, name):
    """Return a convolution without bias that keeps the size or halves it."""
    sizes = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": (kernel // 2, kernel // 2)}
    return symbol.Convolution(x, num_filter=filters, no_bias=True, name=name, **sizes)


def bottleneck(x, filters, stride, name):
    """Return the branch of one unit and what its projection would read."""
    first = norm(x, f"{name}_bn1")
    y = convolution(first, filters // 4, 1, 1, f"{name}_conv1")
    y = convolution(norm(y, f"{name}_bn2"), filters // 4, 3, stride, f"{name}_conv2")
    return convolution(norm(y, f"{name}_bn3"), filters, 1, 1, f"{name}_conv3"), first


def basic(x, filters, stride, name):
    """Return the branch of one unit and what its projection would read."""
    first = norm(x, f"{name}_bn1")
    y = convolution(first, filters, 3, stride, f"{name}_conv1")
    return convolution(norm(y, f"{name}_bn2"), filters, 3, 1, f"{name}_conv2"), first


def resnet(depths, unit, filters):
    """Return the symbol of the logits and those of the maps before each strided unit and at the end.

    Args:
        depths: units in each stage.
        unit: ``bottleneck`` or ``basic``; the first of every stage projects its shortcut.
        filters: of the first stage.
    """
    x = norm(symbol.Variable("data"), "bn_data")
    x = norm(convolution(x, 64, 7, 2, "conv0"), "bn0")
    x = symbol.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    maps = []
    for stage, depth in enumerate(depths, 1):
        for number in range(1, depth + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            if stride == 2:
                maps.append(x)
            name, width = f"stage{stage}_unit{number}", filters << stage - 1
            y, first = unit(x, width, stride, name)
            x = y + (convolution(first, width, 1, stride, f"{name}_sc") if number == 1 else x)
    maps.append(norm(x, "bn1"))
    pooled = symbol.Pooling(maps[-1], global_pool=True, kernel=(7, 7), pool_type="avg")
    return symbol.FullyConnected(symbol.Flatten(pooled), num_hidden=CLASSES, name="fc1"), maps


def parameters(network):
    """Return the arguments and the statistics of a network, filled."""
    found = []
    shapes, _, statistics = network.infer_shape(data=(1, 3, 224, 224))
    for kind, names, sizes in (
        ("arg", network.list_arguments(), shapes),
        ("aux", network.list_auxiliary_states(), statistics),
    ):
        found.append(
            {n: mxnet.nd.array(value_of(f"{kind}:{n}", s)) for n, s in zip(names, sizes, strict=True) if n != "data"}
        )
    return found


def answers(logits, outputs):
    """Return a function from pictures to the values of some symbols of a network."""

    def answer(x):
        arguments, statistics = parameters(logits)
        data = {**arguments, "data": mxnet.nd.array(x)}
        bound = symbol.Group(outputs).bind(mxnet.cpu(), data, aux_states=statistics)
        return [value.asnumpy() for value in bound.forward(is_train=False)]

    return answer


resnet50, feature_maps = resnet((3, 4, 6, 3), bottleneck, 256)
trained = symbol.SoftmaxOutput(resnet50, name="softmax")
mxnet.model.save_checkpoint(str(folder() / "resnet-50"), 0, trained, *parameters(resnet50))
write_answers(lambda x: answers(resnet50, [resnet50])(x)[0], answers(resnet50, feature_maps))
resnet18, _ = resnet((2, 2, 2, 2), basic, 64)
np.savez(folder() / "depths.npz", resnet18v2=answers(resnet18, [resnet18])(pictures(224))[0])
