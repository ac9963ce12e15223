"""Write one small artefact of each kind, as this version of resnetv2 writes them: they must stay loadable.

    python tests/publishers/artefacts.py tests/golden/artefacts

Run it when the schema of artefacts changes; older ones stay as they are. Those of float32 are calibrated.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parents[1]))
from pictures import write_dataset
from test_exporting import CLASSES, write_network

import resnetv2
from resnetv2.runtime.artefact import SCHEMA_VERSION


def main(folder):
    with TemporaryDirectory() as place:
        model = write_network(Path(place) / "model.safetensors", width_factor=1 / 32)
        splits = {name: dict.fromkeys(CLASSES, count) for name, count in (("train", 12), ("val", 5), ("test", 5))}
        data = write_dataset(Path(place) / "pictures", splits, 24)
        calibrated = Path(place) / "calibrated.safetensors"
        resnetv2.calibrate(model, data, out=calibrated)
        int8 = {"int8": True, "calibrate": data, "check": data, "min_agreement": 0.0, "max_drop": 1.0}
        for to, ending in (("onnx", "onnx"), ("openvino", "xml"), ("torch", "pt2")):
            resnetv2.export(calibrated, to=to, out=folder / f"schema{SCHEMA_VERSION}-float32.{ending}")
            if to != "torch":
                resnetv2.export(model, to=to, out=folder / f"schema{SCHEMA_VERSION}-int8.{ending}", **int8)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
