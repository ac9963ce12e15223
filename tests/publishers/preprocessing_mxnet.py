"""How GluonCV's scripts prepare pictures for evaluation, with MXNet's transforms. Needs MXNet 1.9.1."""

import mxnet
from mxnet.gluon.data.vision import transforms
from scenes import write_answers

normalise = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


def gluon(picture, resize, crop):
    """The shortest side resized, the central square."""
    steps = [transforms.Resize(resize or 256, keep_ratio=True), transforms.CenterCrop(crop or 224), *normalise]
    image = transforms.Compose(steps)(mxnet.nd.array(picture, dtype="uint8"))
    return image.asnumpy().transpose(1, 2, 0)


write_answers(gluon=gluon)
