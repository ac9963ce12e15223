"""TF-Slim's resnet_v2_50: resnet_v2_50.ckpt and its answers. Needs TensorFlow, tf-slim 1.1.0, and tf-keras."""

from tensorflow_session import finish, tf
from tf_slim import arg_scope
from tf_slim.nets import resnet_v2
from values import CLASSES

x = tf.placeholder(tf.float32, (None, None, None, 3))
with arg_scope(resnet_v2.resnet_arg_scope()):
    logits, points = resnet_v2.resnet_v2_50(x, CLASSES, is_training=False)
tf.train.create_global_step()

# Blocks 1 to 3 stride in their last unit: what the unit before it returns is the map
maps = [points[f"resnet_v2_50/block{block}/unit_{unit}/bottleneck_v2"] for block, unit in ((1, 2), (2, 3), (3, 5))]
maps.append(tf.get_default_graph().get_tensor_by_name("resnet_v2_50/postnorm/Relu:0"))
finish("resnet_v2_50.ckpt", x, logits[:, 0, 0], maps)
