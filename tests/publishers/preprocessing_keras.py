"""How KerasHub's ResNet converter prepares uint8 pictures, and how Keras's loader of pictures resizes them.

Needs KerasHub on TensorFlow: on other backends its bicubic filter is another.
"""

import io

import keras
import keras_hub
from PIL import Image
from scenes import write_answers


def kerashub(picture, _, crop):
    """Return what the presets' converter makes of a picture; they convert timm's mean and standard deviation of 0.5."""
    side = crop or 224
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(side, side), scale=1 / 127.5, offset=-1.0, interpolation="bicubic"
    )
    return converter(picture[None])[0]


def load_img(picture, _, crop):
    """Return the pixels, 0 … 255."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return keras.utils.load_img(file, target_size=(crop or 224,) * 2)


write_answers(kerashub=kerashub, load_img=load_img)
