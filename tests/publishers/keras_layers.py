"""What the scripts of Keras networks share: every layer filled by its name, maps and logits read at layers by name."""

import numpy as np
from values import value_of, write_answers


def fill(model):
    """Give every variable of a model the numbers of its name; Keras 2 writes ":0" after names, Keras 3 has paths."""
    for variable in model.weights:
        name = getattr(variable, "path", variable.name).removesuffix(":0")
        variable.assign(value_of(name, tuple(variable.shape), -1))


def write_layers(keras, model, strided, logits):
    """Write the answers of a model of pictures (N, height, width, 3).

    Args:
        keras: Keras 2 or 3, the one that ``model`` is of.
        model: a functional model.
        strided: the first layer of each unit that strides; maps are what these read, and "post_relu" or "relu1" gives.
        logits: the layer that gives them; pooled features where a network has no head.
    """
    names = [layer.name for layer in model.layers]
    last = model.get_layer("relu1" if "relu1" in names else "post_relu").output
    taps = [*[model.get_layer(name).input for name in strided], last, model.get_layer(logits).output]
    network = keras.Model(model.input, taps)

    def outputs(x):
        return [np.asarray(out) for out in network(x.transpose(0, 2, 3, 1), training=False)]

    write_answers(lambda x: outputs(x)[-1], lambda x: [out.transpose(0, 3, 1, 2) for out in outputs(x)[:-1]])
