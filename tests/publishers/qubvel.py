"""qubvel's classification_models: resnet50.h5 and its answers, without softmax.

The head is put on here, as the package does it: with its own, the network accepts pictures of one size alone. Needs
image-classifiers 1.0.0 with TensorFlow 2.15 and Keras 2.15.
"""

import keras
from classification_models.tfkeras import Classifiers
from keras_layers import fill, write_layers
from values import CLASSES, folder

build, _ = Classifiers.get("resnet50")
backbone = build((None, None, 3), include_top=False, weights=None)
pooled = keras.layers.GlobalAveragePooling2D(name="pool1")(backbone.output)
network = keras.Model(backbone.input, keras.layers.Dense(CLASSES, name="fc1")(pooled))
fill(network)
network.save_weights(folder() / "resnet50.h5")
write_layers(keras, network, [f"stage{stage}_unit1_bn1" for stage in (2, 3, 4)], "fc1")
