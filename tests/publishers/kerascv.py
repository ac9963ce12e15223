"""KerasCV's ResNet50V2 backbone: resnet50v2.h5, .weights.h5 and its answers, pooled features in the logits' place.

Needs keras-cv 0.9.0 with TensorFlow 2.15 and Keras 2.15.
"""

import keras
import keras_cv
from keras_layers import fill, write_layers
from values import folder

backbone = keras_cv.models.ResNetV2Backbone(
    stackwise_filters=[64, 128, 256, 512],
    stackwise_blocks=[3, 4, 6, 3],
    stackwise_strides=[1, 2, 2, 2],
    include_rescaling=False,
    input_shape=(None, None, 3),
)
fill(backbone)
backbone.save_weights(folder() / "resnet50v2.h5")
backbone.save_weights(folder() / "resnet50v2.weights.h5")
pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(backbone.output)
strided = [f"v2_stack_{unit}_use_preactivation_bn" for unit in ("1_block4", "2_block6", "3_block3")]
write_layers(keras, keras.Model(backbone.input, pooled), strided, "pooled")
