"""Time inference of ResNet50-v2 on the processor, ours in each runtime against what people run otherwise.

    python benchmarks/infer_speed.py files     # JPEG files to labels, pictures a second
    python benchmarks/infer_speed.py one       # one picture in memory, milliseconds
    python benchmarks/infer_speed.py start     # `resnetv2 predict` of one picture, process start to answer, seconds
    python benchmarks/infer_speed.py memory    # largest memory while a folder is predicted, MiB by pictures
    python benchmarks/infer_speed.py int8      # what eight bits give and cost, in each runtime

All sides have the same random weights, and take turns in one process, so whatever else the machine does falls on all of
them. A ratio is taken within a turn. Sides whose package is missing are left out, and named. OMP_NUM_THREADS holds for
every side; where another program keeps a core busy, `OMP_NUM_THREADS=1 taskset -c 1` gives one core to all. Prints
Markdown tables.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from train_speed import environment, spread, table

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from peers import import_timm

import resnetv2
from resnetv2.inference import Classifier
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.session import count_threads
from resnetv2.weights.modelfile import Golden, Header, ModelFile, write_model_file

SIDE = 224
PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}
MEAN, STD = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)


# --- what is given ----------------------------------------------------------------------------------------------------


def timm_network():
    """Return timm's resnetv2_50 with random weights, evaluated."""
    import torch

    torch.manual_seed(0)
    return import_timm().create_model("resnetv2_50").eval().to(memory_format=torch.channels_last)


def our_file(network):
    """Return timm's network as the content of our model file."""
    weights = {name: value.numpy() for name, value in network.state_dict().items() if not name.endswith("tracked")}
    weights["head.fc.weight"] = weights["head.fc.weight"].reshape(1000, -1)  # timm's head is a 1x1 convolution
    header = Header(
        architecture=resnetv2.architecture("resnet50v2"),
        preprocessing=Preprocessing(image_size=SIDE, resize=256, mean=MEAN, std=STD),
        classes=tuple(map(str, range(1000))),
    )
    return ModelFile(header, weights, Golden((), np.zeros((0, 1000), np.float32)))


def write_pictures(folder, count):
    """Write JPEGs of 500x375 pixels, smooth with some noise, as ImageNet's are on average, and return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375), Image.BICUBIC)
        noisy = np.asarray(smooth, np.int16) + rng.integers(-12, 13, (375, 500, 3))
        paths.append(folder / f"{number:05d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


# --- the sides: each is a function of JPEG paths to labels ------------------------------------------------------------


def timm_view(path):
    """Return float32 (3, 224, 224): what timm's evaluation does, by Pillow and numpy, as its transforms do."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    scale = 256 / min(picture.size)
    resized = picture.resize([round(side * scale) for side in picture.size], Image.BICUBIC)
    left, top = ((side - SIDE) // 2 for side in resized.size)
    pixels = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)), np.float32)
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


class Views:
    """timm's view of each file, for PyTorch's DataLoader."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return timm_view(self.paths[index])


def timm_torch(network, batch, compiled=False):
    """Return PyTorch's usual loop: a DataLoader, batches in channels_last, no gradients."""
    import torch

    forward = torch.compile(network) if compiled else network

    def labels(paths):
        found = []
        loader = torch.utils.data.DataLoader(Views(paths), batch, num_workers=1)
        with torch.inference_mode():
            for views in loader:
                x = views.contiguous(memory_format=torch.channels_last)
                found += forward(x).argmax(dim=1).tolist()
        return found

    return labels


def onnx_bytes(network):
    """Return timm's network as PyTorch's own exporter writes it."""
    import torch

    out = BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
    torch.onnx.export(network, (torch.zeros(1, 3, SIDE, SIDE),), out, dynamo=False, opset_version=17, **names)
    return out.getvalue()


def timm_onnx(network, batch):
    """Return the loop of ONNX Runtime's own examples: decode a batch, run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    session = onnxruntime.InferenceSession(onnx_bytes(network), options, providers=["CPUExecutionProvider"])

    def labels(paths):
        found = []
        for low in range(0, len(paths), batch):
            views = np.stack([timm_view(path) for path in paths[low : low + batch]])
            found += session.run(None, {"x": views})[0].argmax(axis=1).tolist()
        return found

    return labels


def openvino_settings(hint):
    """Return what the peers ask OpenVINO for: the same number of threads as every side."""
    threads = {"INFERENCE_NUM_THREADS": str(count_threads())} if count_threads() else {}
    return {"PERFORMANCE_HINT": hint, **threads}


def bare_openvino(network, _batch):
    """Return OpenVINO as its benchmark_app runs it: requests in flight, on tensors in memory, nothing decoded."""
    import openvino

    model = openvino.Core().read_model(onnx_bytes(network), b"")
    model.reshape([1, 3, SIDE, SIDE])
    compiled = openvino.Core().compile_model(model, "CPU", openvino_settings("THROUGHPUT"))
    queue = openvino.AsyncInferQueue(compiled)
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)

    def labels(paths):
        for _ in paths:
            queue.start_async({0: x})
        queue.wait_all()
        return []

    return labels


def transformers_pipeline(_network, batch):
    """Return Hugging Face's image-classification pipeline with its own ResNet-50 (v1.5), random weights."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification, pipeline

    model = ResNetForImageClassification(ResNetConfig(num_labels=1000)).eval()
    processor = ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.875)
    classify = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    return lambda paths: [answer[0]["label"] for answer in classify(list(map(str, paths)), batch_size=batch)]


def keras_network(_network, batch):
    """Return Keras's ResNet50V2 with random weights, on the backend that KERAS_BACKEND names."""
    import keras

    model = keras.applications.ResNet50V2(weights=None)

    def view(path):
        return np.asarray(keras.utils.load_img(path, target_size=(SIDE, SIDE)), np.float32) / 127.5 - 1

    def labels(paths):
        found = []
        with ThreadPoolExecutor(2) as pool:
            for low in range(0, len(paths), batch):
                views = np.stack(list(pool.map(view, paths[low : low + batch])))
                found += model.predict_on_batch(views).argmax(axis=1).tolist()
        return found

    return labels


def ours(runtime):
    """Return our pipeline in a runtime: ``Classifier.predict`` as the command calls it."""

    def prepare(network, _batch):
        classifier = Classifier.from_file(our_file(network), "cpu", runtime)
        return lambda paths: [int(answer.label) for answer in classifier.predict(paths, top=1)]

    return prepare


SIDES = {
    **{f"ours, {runtime}": (ours(runtime), package) for runtime, package in PACKAGES.items()},
    "bare OpenVINO, tensors in memory": (bare_openvino, "openvino"),
    "timm, PyTorch eager, channels_last": (timm_torch, "timm"),
    "timm, torch.compile": (lambda network, batch: timm_torch(network, batch, compiled=True), "timm"),
    "timm, ONNX Runtime": (timm_onnx, "onnxruntime"),
    "Keras ResNet50V2": (keras_network, "keras"),
    "transformers pipeline, ResNet-50 v1.5": (transformers_pipeline, "transformers"),
}


# --- what is measured -------------------------------------------------------------------------------------------------


def prepared(names, batch):
    """Return the named sides whose packages are here, ready to label paths."""
    network = timm_network()
    missing = [name for name in names if find_spec(SIDES[name][1]) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}", file=sys.stderr)
    return {name: SIDES[name][0](network, batch) for name in names if name not in missing}


def turns(sides, paths, repeats):
    """Return the seconds of every side in every turn, after one that does not count."""
    seconds = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, labels in sides.items():
            began = time.perf_counter()
            labels(paths)
            seconds[name].append(time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def files(arguments):
    """Pictures a second from JPEG files to labels, and the ratio to the best of ours."""
    with TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), arguments.pictures)
        seconds = turns(prepared(arguments.sides, arguments.batch), paths, arguments.repeats)
    reference = seconds[arguments.sides[0]]
    rows = []
    for name, values in seconds.items():
        ratios = [theirs / first for theirs, first in zip(values, reference, strict=True)]
        rows.append(
            {
                "side": name,
                "pictures/s": spread([len(paths) / value for value in values], 1),
                f"{arguments.sides[0]} ÷ this": spread(ratios, 2),
            }
        )
    print(table(rows))


def one(arguments):
    """Milliseconds for one picture that is in memory, decoded."""
    import torch

    network = timm_network()
    picture = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    x = torch.zeros(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    sides = {}
    for runtime in PACKAGES:
        session = Classifier.from_file(our_file(network), "cpu", runtime).session
        sides[f"ours, {runtime}"] = lambda _, session=session: session(picture)

    def eager(_):
        with torch.inference_mode():
            network(x)

    sides["timm, PyTorch eager, channels_last"] = eager
    sides["timm, OpenVINO (LATENCY)"] = latency_openvino(network)
    v1 = import_timm().create_model("resnet50").eval()
    sides["timm resnet50 (v1.5), OpenVINO (LATENCY)"] = latency_openvino(v1)
    seconds = turns(sides, [None], arguments.repeats * 5)
    rows = [{"side": name, "ms": spread([1000 * value for value in values], 1)} for name, values in seconds.items()]
    print(table(rows))


def latency_openvino(network):
    """Return a function that answers one tensor by OpenVINO, tuned for latency."""
    import openvino

    model = openvino.Core().read_model(onnx_bytes(network), b"")
    model.reshape([1, 3, SIDE, SIDE])
    compiled = openvino.Core().compile_model(model, "CPU", openvino_settings("LATENCY"))
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)
    return lambda _: compiled(x)


def start(arguments):
    """Seconds from process start to the answer for one picture."""
    seconds = {}
    with TemporaryDirectory() as folder:
        models, (picture,) = artefacts(Path(folder)), write_pictures(Path(folder), 1)
        for _ in range(arguments.repeats + 1):
            for name, path in models.items():
                began = time.perf_counter()
                words = [sys.executable, "-m", "resnetv2", "predict", str(path), str(picture), "--json"]
                subprocess.run(words, check=True, capture_output=True)
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    print(table([{"model": name, "s": spread(values[1:], 2)} for name, values in seconds.items()]))


def artefacts(folder):
    """Write the model file and its artefacts, and return them by a name."""
    import torch

    from resnetv2.runtime.pytorch import build_model, model_file
    from resnetv2.weights.golden import golden_pictures

    file = our_file(timm_network())
    network = build_model(file.header.architecture, file.weights)
    whole = folder / "model.safetensors"
    write_model_file(whole, model_file(network, file.header, golden_pictures(SIDE), torch.device("cpu")))
    paths = {"model file": whole}
    for to, ending in (("onnx", "onnx"), ("openvino", "xml")):
        paths[f"artefact for {to}"] = resnetv2.export(whole, to=to, out=folder / f"{to}.{ending}").out
    return paths


MEASURE = """
import resource, sys
from resnetv2.inference import predict_each
for number, _ in enumerate(predict_each(sys.argv[1], sys.argv[2:3] * int(sys.argv[3]), runtime="auto"), 1):
    if number in (100, 1000, int(sys.argv[3])):
        print(number, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)
"""


def memory(arguments):
    """Peak resident MiB after 100, 1,000 and all pictures; a small network, since only the pipeline is asked about."""
    network = resnetv2.create_model("resnet18v2", num_classes=1000, width_factor=0.25)
    file = our_file(timm_network())
    header = Header(architecture=network.config, preprocessing=file.header.preprocessing, classes=file.header.classes)
    weights = {name: v.numpy() for name, v in network.state_dict().items() if not name.endswith("tracked")}
    with TemporaryDirectory() as folder:
        path, (picture,) = Path(folder, "model.safetensors"), write_pictures(Path(folder), 1)
        write_model_file(path, ModelFile(header, weights, file.golden))
        words = [sys.executable, "-c", MEASURE, str(path), str(picture), str(arguments.pictures)]
        lines = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ).stdout.split()
    numbers = list(map(int, lines))
    print(table([{"pictures": n, "MiB": m} for n, m in zip(numbers[::2], numbers[1::2], strict=True)]))


def int8(_arguments):
    """Speed of eight bits and agreement of labels, calibrated and checked on noisy colours; the weights are random."""
    from runs import write_colours

    rows = []
    with TemporaryDirectory() as folder:
        model = artefacts(Path(folder))["model file"]
        data = write_colours(Path(folder, "data"), train=12, val=2, test=4, size=SIDE)
        for to, ending in (("openvino", "xml"), ("onnx", "onnx")):
            options = {"int8": True, "calibrate": data, "check": data, "min_agreement": 0.0, "max_drop": 1.0}
            report = resnetv2.export(model, to=to, out=Path(folder, f"int8.{ending}"), **options).report
            rate = report["pictures_per_second"]
            rows.append({"runtime": to, **{k: f"{v:.1f}" for k, v in rate.items()}, "agreement": report["agreement"]})
    print(table(rows))


TASKS = {"files": files, "one": one, "start": start, "memory": memory, "int8": int8}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--repeats", type=int, default=5, help="turns of every side (default: 5)")
    parser.add_argument("--pictures", type=int, default=64, help="files (default: 64; 10000 for memory)")
    parser.add_argument("--batch", type=int, default=32, help="of the peers' loops (default: 32)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES)[:7], help="the first is compared with")
    arguments = parser.parse_args()
    print(json.dumps(environment("cpu")))
    TASKS[arguments.task](arguments)


if __name__ == "__main__":
    main()
