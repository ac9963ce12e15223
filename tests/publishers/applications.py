"""Keras Applications' ResNet50V2: resnet50v2.h5, resnet50v2.keras and its answers. Needs Keras 3 on TensorFlow.

The head is put on here, as Keras does it: with its own, the network accepts pictures of one size alone.
"""

import keras
from keras_layers import fill, write_layers
from values import CLASSES, folder

backbone = keras.applications.ResNet50V2(weights=None, include_top=False, pooling="avg")
network = keras.Model(backbone.input, keras.layers.Dense(CLASSES, name="predictions")(backbone.output))
fill(network)
network.save(folder() / "resnet50v2.h5")
network.save(folder() / "resnet50v2.keras")
strided = [f"{unit}_preact_bn" for unit in ("conv2_block3", "conv3_block4", "conv4_block6")]
write_layers(keras, network, strided, "predictions")
