"""How TF-Slim ("Inception preprocessing") and TensorFlow's official models prepare pictures for evaluation.

Their repositories are no packages, so the steps of ``preprocess_for_eval`` (research/slim, central fraction 0.875) and
of ``imagenet_preprocessing`` (official/r1/resnet) are told here in the same TensorFlow operators. Also BiT's in its
TensorFlow code, which is one operator. Needs TensorFlow.
"""

import tensorflow as tf
from scenes import write_answers


def slim(picture, _, crop):
    """Central 87.5 % of both sides, squashed, -1 … 1."""
    side = crop or 299
    image = tf.image.convert_image_dtype(picture, tf.float32)
    image = tf.image.central_crop(image, 0.875)
    image = tf.compat.v1.image.resize_bilinear(image[None], [side, side], align_corners=False)[0]
    return (image - 0.5) * 2.0


def official(picture, resize, crop):
    """The shortest side resized, the central square, the mean subtracted."""
    resize, crop = resize or 256, crop or 224
    height, width = (tf.cast(side, tf.float32) for side in picture.shape[:2])
    ratio = tf.cast(resize, tf.float32) / tf.minimum(height, width)
    sides = [tf.cast(side * ratio, tf.int32) for side in (height, width)]
    image = tf.compat.v1.image.resize(picture, sides, tf.image.ResizeMethod.BILINEAR, align_corners=False)
    top, left = ((int(side) - crop) // 2 for side in sides)
    return tf.cast(image[top : top + crop, left : left + crop], tf.float32) - [123.68, 116.78, 103.94]


def bit(picture, _, crop):
    """Squashed, -1 … 1."""
    return (tf.image.resize(picture, [crop or 480] * 2) - 127.5) / 127.5


write_answers(slim=slim, official=official, bit=bit)
