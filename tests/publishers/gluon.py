"""MXNet Gluon's resnet50_v2: resnet50_v2.params and its answers. Needs MXNet 1.9.1 with NumPy below 1.24."""

import mxnet
from mxnet.gluon.model_zoo import vision
from values import CLASSES, folder, value_of, write_answers

network = vision.resnet50_v2(classes=CLASSES)
network.initialize()
network(mxnet.nd.zeros((1, 3, 224, 224)))
for name, parameter in network._collect_params_with_prefix().items():
    parameter.set_data(mxnet.nd.array(value_of(name, parameter.shape)))
network.save_parameters(str(folder() / "resnet50_v2.params"))


def maps(x):
    """Return the maps at strides 4, 8, 16 and 32; every stage strides in its first unit."""
    x = mxnet.nd.array(x)
    found = []
    for number, layer in enumerate(network.features[:11]):  # up to the last ReLU
        x = layer(x)
        if number in (5, 6, 7, 10):
            found.append(x.asnumpy())
    return found


write_answers(lambda x: network(mxnet.nd.array(x)).asnumpy(), maps)
