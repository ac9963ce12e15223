"""MXNet Gluon's resnet50_v2: resnet50_v2.params and its answers; depths.npz, the logits of the other depths.

Needs MXNet 1.9.1 with NumPy below 1.24.
"""

import mxnet
import numpy as np
from mxnet.gluon.model_zoo import vision
from values import CLASSES, folder, pictures, value_of, write_answers


def filled(name):
    """Return a network of Gluon's with the numbers of ``value_of``."""
    network = getattr(vision, name)(classes=CLASSES)
    network.initialize()
    network(mxnet.nd.zeros((1, 3, 224, 224)))
    for prefixed, parameter in network._collect_params_with_prefix().items():
        parameter.set_data(mxnet.nd.array(value_of(prefixed, parameter.shape)))
    return network


def maps(x):
    """Return the maps at strides 4, 8, 16 and 32; every stage strides in its first unit."""
    x = mxnet.nd.array(x)
    found = []
    for number, layer in enumerate(resnet50.features[:11]):  # up to the last ReLU
        x = layer(x)
        if number in (5, 6, 7, 10):
            found.append(x.asnumpy())
    return found


resnet50 = filled("resnet50_v2")
resnet50.save_parameters(str(folder() / "resnet50_v2.params"))
write_answers(lambda x: resnet50(mxnet.nd.array(x)).asnumpy(), maps)
others = {f"resnet{depth}v2": filled(f"resnet{depth}_v2") for depth in (18, 34, 101, 152)}
np.savez(folder() / "depths.npz", **{n: net(mxnet.nd.array(pictures(224))).asnumpy() for n, net in others.items()})
