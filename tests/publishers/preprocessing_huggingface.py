"""How transformers' processors of Bit prepare pictures, with Pillow and with torchvision. Needs both."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scenes import write_answers

sys.path.insert(0, str(Path(__file__).parents[1]))
from peers import import_timm

HALF = [0.5, 0.5, 0.5]


def prepare_with(processor):
    """Return the steps that the conversion of timm's weights states: 448 of 448, bilinear."""

    def prepare(picture, resize, crop):
        made = processor(
            size={"shortest_edge": resize or 448},
            crop_size={"height": crop or 448, "width": crop or 448},
            resample=2,  # bilinear
            image_mean=HALF,
            image_std=HALF,
        )(Image.fromarray(picture), input_data_format="channels_last")
        return np.asarray(made["pixel_values"][0]).transpose(1, 2, 0)

    return prepare


def main():
    """Ask both processors."""
    import_timm()  # which makes torchvision importable
    from transformers.models.bit.image_processing_bit import BitImageProcessor
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    write_answers(pillow=prepare_with(BitImageProcessorPil), torchvision=prepare_with(BitImageProcessor))


main()
