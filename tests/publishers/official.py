"""The ResNet50-v2 of TensorFlow's official models (r1/resnet): model.ckpt and its answers.

Its package was never published; this is its graph, in its order of operations, which numbers the variables: a unit's
projection is built before the unit's first convolution. Needs TensorFlow, and tf-keras.
"""

from tensorflow_session import finish, tf
from values import CLASSES


def norm_relu(x):
    return tf.nn.relu(tf.layers.batch_normalization(x, momentum=0.997, epsilon=1e-5, training=False, fused=True))


def conv(x, channels, kernel, stride=1):
    """Pad a strided convolution by its kernel alone, both sides alike for odd ones, whatever the picture's size."""
    if stride > 1:
        before, after = (kernel - 1) // 2, kernel // 2
        x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
    padding = "same" if stride == 1 else "valid"
    return tf.layers.conv2d(x, channels, kernel, stride, padding, use_bias=False)


def unit(x, channels, stride, project):
    """Return one bottleneck unit; ``channels`` are those of its 3x3 convolution."""
    preact = norm_relu(x)
    shortcut = conv(preact, 4 * channels, 1, stride) if project else x
    y = conv(preact, channels, 1)
    y = conv(norm_relu(y), channels, 3, stride)
    return conv(norm_relu(y), 4 * channels, 1) + shortcut


pixels = tf.placeholder(tf.float32, (None, None, None, 3))
maps = []
with tf.variable_scope("resnet_model"):
    x = tf.layers.max_pooling2d(conv(pixels, 64, 7, 2), 3, 2, "same")
    for stage, depth in enumerate((3, 4, 6, 3)):
        for number in range(depth):
            first = number == 0
            x = unit(x, 64 << stage, 2 if first and stage else 1, project=first)
        maps.append(x)
    maps[-1] = norm_relu(x)
    logits = tf.layers.dense(tf.reduce_mean(maps[-1], [1, 2]), CLASSES)
tf.train.create_global_step()
finish("model.ckpt", pixels, logits, maps)
