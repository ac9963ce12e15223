"""What MXNet's exporter to ONNX makes of Gluon's resnet50_v2: resnet50_v2.onnx, its initializers without numbers.

Kept as tests/golden/gluon.onnx. Needs MXNet 1.9.1 with NumPy below 1.24, and onnx 1.13.1.
"""

import mxnet
import numpy as np
import onnx
from mxnet.gluon.model_zoo import vision
from mxnet.onnx import export_model
from values import CLASSES, folder

for _ in range(4):  # networks are counted: the fifth is "resnetv24_", as in the ONNX Model Zoo
    vision.resnet18_v2()
network = vision.resnet50_v2(classes=CLASSES)
network.initialize()
network.hybridize()
network(mxnet.nd.zeros((1, 3, 224, 224)))
stem, path = folder() / "resnet50_v2", folder() / "resnet50_v2.onnx"
network.export(str(stem))
shape = (None, 3, 224, 224)
files = (f"{stem}-symbol.json", f"{stem}-0000.params")
export_model(*files, [(1, *shape[1:])], [np.float32], str(path), dynamic=True, dynamic_input_shapes=[shape])
model = onnx.load(path)
for tensor in model.graph.initializer:
    tensor.ClearField("float_data")
onnx.save(model, path)
