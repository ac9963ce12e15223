"""KerasHub's ResNet50-v2: a preset's folder and its answers. Needs KerasHub 0.32 with Keras 3 on TensorFlow."""

import keras
import keras_hub
from keras_layers import fill, write_layers
from values import CLASSES, folder

backbone = keras_hub.models.ResNetBackbone(
    input_conv_filters=[64],
    input_conv_kernel_sizes=[7],
    stackwise_num_filters=[64, 128, 256, 512],
    stackwise_num_blocks=[3, 4, 6, 3],
    stackwise_num_strides=[1, 2, 2, 2],
    block_type="bottleneck_block",
    use_pre_activation=True,
    image_shape=(None, None, 3),
)
network = keras_hub.models.ResNetImageClassifier(backbone, num_classes=CLASSES)
fill(network)
network.save_to_preset(folder() / "resnet_v2_50")
# the task calls its backbone as one layer: the same layers in one graph
pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
flat = keras.Model(backbone.input, network.get_layer("predictions")(pooled))
strided = [f"stack{stage}_block0_pre_activation_bn" for stage in (1, 2, 3)]
write_layers(keras, flat, strided, "predictions")
