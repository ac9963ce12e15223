"""Time inference of ResNet50-v2 on the processor, ours in each runtime against what people run otherwise.

    python benchmarks/infer_speed.py files     # JPEG files to labels, pictures a second
    python benchmarks/infer_speed.py one       # one picture in memory, milliseconds
    python benchmarks/infer_speed.py start     # `resnetv2 predict` of one picture, process start to answer, seconds
    python benchmarks/infer_speed.py memory    # largest memory while a folder of 10,000 is predicted, MiB by pictures
    python benchmarks/infer_speed.py bn        # what the batch norms at the units' entries cost, and in other forms
    python benchmarks/infer_speed.py int8      # eight bits beside float32 in the same runtime, pictures a second

All sides have the same random weights, and take turns in one process, so whatever else the machine does falls on all of
them. A ratio is taken within a turn. Sides whose package is missing are left out, and named. OMP_NUM_THREADS holds for
every side but JAX, which knows no such limit; where another program keeps a core busy, `OMP_NUM_THREADS=1 taskset -c 1`
gives one core to all. Prints Markdown tables.

Keras and transformers are no part of the project's environment. Beside it, without a second PyTorch:

    python -m pip install --target PEERS --constraint constraints.txt "keras==3.*" jax transformers
    PYTHONPATH=PEERS python benchmarks/infer_speed.py files
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from train_speed import environment, spread, table

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from peers import import_timm

import resnetv2
from resnetv2.config import architecture
from resnetv2.inference import Classifier
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.graph import Node, build_graph
from resnetv2.runtime.onnxmodel import encode_onnx
from resnetv2.runtime.session import count_threads
from resnetv2.weights.modelfile import Golden, Header, ModelFile, write_model_file

SIDE = 224
ENDINGS = {"openvino": "xml", "onnx": "onnx"}
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
        architecture=architecture("resnet50v2"),
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


def open_onnx(model, optimized=""):
    """Return ONNX Runtime's session with as many threads as every side; it may leave what it made of the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    options.optimized_model_filepath = optimized
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def timm_onnx(network, batch):
    """Return the loop of ONNX Runtime's own examples: decode a batch, run it."""
    session = open_onnx(onnx_bytes(network))

    def labels(paths):
        found = []
        for low in range(0, len(paths), batch):
            views = np.stack([timm_view(path) for path in paths[low : low + batch]])
            found += session.run(None, {"x": views})[0].argmax(axis=1).tolist()
        return found

    return labels


def compile_openvino(network, hint):
    """Return a network for single pictures, compiled as a session of ours is: the same threads, and float32.

    Left to choose, OpenVINO computes in bfloat16 on processors with AMX. What it does choose is printed.
    """
    import openvino

    model = openvino.Core().read_model(onnx_bytes(network), b"")
    model.reshape([1, 3, SIDE, SIDE])
    threads = {"INFERENCE_NUM_THREADS": str(count_threads())} if count_threads() else {}
    settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32", **threads}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    print(f"OpenVINO, {hint}: computes in {precision}", file=sys.stderr)
    return compiled


def bare_openvino(network, _batch):
    """Return OpenVINO as its benchmark_app runs it: requests in flight, on tensors in memory, nothing decoded."""
    import openvino

    queue = openvino.AsyncInferQueue(compile_openvino(network, "THROUGHPUT"))
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


def keras_network(backend):
    """Return Keras's ResNet50V2 with random weights, in a process of its own: it takes one backend a process."""

    def prepare(_network, batch):
        before = os.environ.get("KERAS_BACKEND")
        os.environ["KERAS_BACKEND"] = backend
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            pool.submit(keras_labels, [], batch).result()  # the process starts now, with this backend
        finally:
            os.environ.pop("KERAS_BACKEND") if before is None else os.environ.update(KERAS_BACKEND=before)
        return lambda paths: pool.submit(keras_labels, paths, batch).result()

    return prepare


@functools.cache
def keras_model():
    """Return the network of this process."""
    import keras

    return keras.applications.ResNet50V2(weights=None)


def keras_labels(paths, batch):
    """Return labels by Keras's own steps: two threads decode a batch, then it is answered."""
    import keras

    def view(path):
        return np.asarray(keras.utils.load_img(path, target_size=(SIDE, SIDE)), np.float32) / 127.5 - 1

    found = []
    with ThreadPoolExecutor(2) as pool:
        for low in range(0, len(paths), batch):
            views = np.stack(list(pool.map(view, paths[low : low + batch])))
            found += keras_model().predict_on_batch(views).argmax(axis=1).tolist()
    return found


def float32_classifier(runtime, network):
    """Return ours on the model file, in a runtime."""
    return Classifier.from_file(our_file(network), "cpu", runtime)


def int8_classifier(to, network):
    """Return ours on an artefact of 8 bits, calibrated on pictures like those that it will see."""
    with TemporaryDirectory() as folder:
        model = artefacts(Path(folder), (), file=our_file(network))["model file"]
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        write_pictures(pictures, 64)
        out = Path(folder, f"int8.{ENDINGS[to]}")
        resnetv2.export(model, to=to, out=out, int8=True, calibrate=pictures, min_agreement=0.0)
        return Classifier.load(out, "cpu")


OURS = {
    **{f"ours, {name}": (functools.partial(float32_classifier, name), package) for name, package in PACKAGES.items()},
    **{f"ours, {to}, int8": (functools.partial(int8_classifier, to), f"onnx {PACKAGES[to]}") for to in ENDINGS},
}


def ours(classifier_of):
    """Return our pipeline: ``Classifier.predict`` as the command calls it."""

    def prepare(network, _batch):
        classifier = classifier_of(network)
        return lambda paths: [int(answer.label) for answer in classifier.predict(paths, top=1)]

    return prepare


SIDES = {
    **{name: (ours(classifier_of), packages) for name, (classifier_of, packages) in OURS.items()},
    "bare OpenVINO, tensors in memory": (bare_openvino, "openvino"),
    "timm, PyTorch eager, channels_last": (timm_torch, "timm"),
    "timm, torch.compile": (lambda network, batch: timm_torch(network, batch, compiled=True), "timm"),
    "timm, ONNX Runtime": (timm_onnx, "onnxruntime"),
    "Keras ResNet50V2, jax": (keras_network("jax"), "keras jax"),
    "Keras ResNet50V2, torch": (keras_network("torch"), "keras torch"),
    "transformers pipeline, ResNet-50 v1.5": (transformers_pipeline, "transformers"),
}


# --- what is measured -------------------------------------------------------------------------------------------------


def prepared(names, batch):
    """Return the named sides whose packages are here, ready to label paths."""
    network = timm_network()
    missing = [name for name in names if None in map(find_spec, SIDES[name][1].split())]
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
    for name, (classifier_of, _) in OURS.items():
        session = classifier_of(network).session
        sides[name] = lambda _, session=session: session(picture)

    def eager(_):
        with torch.inference_mode():
            network(x)

    sides["timm, PyTorch eager, channels_last"] = eager
    v1 = import_timm().create_model("resnet50").eval()
    for name, other in (("timm resnetv2_50", network), ("timm resnet50 (v1.5)", v1)):
        sides[f"{name}, OpenVINO"] = latency_openvino(other)
        sides[f"{name}, ONNX Runtime"] = latency_onnx(other)
    milliseconds = one_turns(sides, arguments.repeats * 5)
    fastest = min(sides, key=lambda name: statistics.median(milliseconds[name]))
    rows = []
    for name, values in milliseconds.items():
        ratios = [value / other for value, other in zip(values, milliseconds[fastest], strict=True)]
        rows.append({"side": name, "ms": spread(values, 1), f"÷ {fastest}": spread(ratios, 2)})
    print(table(rows))


def one_turns(sides, repeats):
    """Return the milliseconds of every side in every turn, the median of five answers each.

    The order of a turn is drawn. A side begins with idle cores, since for some milliseconds after an answer the threads
    of a runtime spin in wait of more, and with an answer that does not count.
    """
    order, milliseconds = np.random.default_rng(0), {name: [] for name in sides}
    for _ in range(repeats):
        for name in order.permutation(list(sides)).tolist():
            time.sleep(0.2)
            answers = turns({name: sides[name]}, [None], 5)[name]
            milliseconds[name].append(1000 * statistics.median(answers))
    return milliseconds


def latency_openvino(network):
    """Return a function that answers one tensor by OpenVINO, tuned for latency."""
    compiled = compile_openvino(network, "LATENCY")
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)
    return lambda _: compiled(x)


def latency_onnx(network):
    """Return a function that answers one tensor by ONNX Runtime."""
    session = open_onnx(onnx_bytes(network))
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)
    return lambda _: session.run(None, {"x": x})


def start(arguments):
    """Seconds from process start to the answer for one picture."""
    seconds = {}
    with TemporaryDirectory() as folder:
        models, (picture,) = artefacts(Path(folder), arguments.to), write_pictures(Path(folder), 1)
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = str(Path(folder, "bytecode"))  # written by the turn that does not count
        for _ in range(arguments.repeats + 1):
            for name, path in models.items():
                began, used = time.perf_counter(), used_seconds()
                words = [sys.executable, "-m", "resnetv2", "predict", str(path), str(picture), "--json"]
                subprocess.run(words, check=True, capture_output=True, env=environ)
                seconds.setdefault(name, []).append((time.perf_counter() - began, used_seconds() - used))
    rows = []
    for name, values in seconds.items():
        elapsed, busy = zip(*values[1:], strict=True)
        rows.append({"model": name, "s": spread(elapsed, 2), "of the processor, s": spread(busy, 2)})
    print(table(rows))


def used_seconds():
    """Return the processor seconds of all processes that this one waited for: other programs do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def artefacts(folder, formats, network=None, file=None):
    """Write the model file and its artefacts, and return them by a name."""
    import torch

    from resnetv2.runtime.pytorch import build_model, model_file
    from resnetv2.weights.golden import golden_pictures

    file = file or our_file(timm_network())
    header = file.header
    if network is None:
        network = build_model(header.architecture, file.weights)
    else:
        header = replace(header, architecture=network.config)
    whole = folder / "model.safetensors"
    write_model_file(whole, model_file(network, header, golden_pictures(SIDE), torch.device("cpu")))
    paths = {"model file": whole}
    for to in formats:
        paths[f"artefact for {to}"] = resnetv2.export(whole, to=to, out=folder / f"{to}.{ENDINGS[to]}").out
    return paths


MEASURE = """
import re, sys
from pathlib import Path
from resnetv2.inference import predict_each
for number, answer in enumerate(predict_each(sys.argv[1], [sys.argv[2]]), 1):
    assert answer.error is None, answer
    if number in (100, 1000, int(sys.argv[3])):
        print(number, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024, flush=True)
"""


def memory(arguments):
    """Peak resident MiB after 100, 1,000 and all pictures; a small network, since only the pipeline is asked about.

    It is Linux's VmHWM: ``ru_maxrss`` of a new process is at least what its parent had.
    """
    network = resnetv2.create_model("resnet18v2", num_classes=1000, width_factor=0.25)
    rows = []
    with TemporaryDirectory() as folder:
        models = artefacts(Path(folder), arguments.to, network)
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        files = write_pictures(Path(folder), 16)
        for number in range(arguments.pictures):
            os.link(files[number % len(files)], pictures / f"{number:06d}.jpg")
        for name, path in list(models.items())[1:]:
            words = [sys.executable, "-c", MEASURE, str(path), str(pictures), str(arguments.pictures)]
            lines = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ).stdout.split()
            found = zip(lines[::2], lines[1::2], strict=True)
            rows.append({"model": name, **{f"{int(count):,} pictures, MiB": peak for count, peak in found}})
    print(table(rows))


def int8(arguments):
    """Speed of eight bits beside float32 in the same runtime: ``export`` measures it, sixteen pictures in turns."""
    from pictures import write_dataset

    rows = []
    with TemporaryDirectory() as folder:
        model = artefacts(Path(folder), ())["model file"]
        splits = {name: dict.fromkeys("012", count) for name, count in (("train", 12), ("val", 1), ("test", 2))}
        data = write_dataset(Path(folder, "data"), splits, SIDE)
        for to in arguments.to:
            options = {"int8": True, "calibrate": data, "check": data, "min_agreement": 0.0, "max_drop": 1.0}
            report = resnetv2.export(model, to=to, out=Path(folder, f"int8.{ENDINGS[to]}"), **options).report
            rate = report["pictures_per_second"]
            figures = {f"{precision}, pictures/s": f"{value:.1f}" for precision, value in rate.items()}
            rows.append({"runtime": to, **figures, "int8 ÷ float32": f"{rate['int8'] / rate['float32']:.2f}"})
    print(table(rows))


def bn(arguments):
    """Milliseconds a picture with the batch norms at the units' entries, written in other ways, and without them.

    Without them the network is another one: only the time is asked about.
    """
    from resnetv2.runtime.onnx import OnnxSession
    from resnetv2.runtime.openvino import OpenVinoSession

    file = our_file(timm_network())
    config = file.header.architecture
    graph = build_graph(config, file.header.preprocessing, file.weights)
    models = {name: encode_onnx(change(graph)) for name, change in WRITTEN.items()}
    for name, model in models.items():
        print(f"{name}: ONNX Runtime runs {onnx_operators(model)}; OpenVINO runs {openvino_operators(model)}")
    rows = []
    for count in (1, 16):
        pictures = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
        for runtime, open_model in (("onnx", OnnxSession), ("openvino", OpenVinoSession)):
            sessions = {name: open_model(model, config) for name, model in models.items()}
            rows += _compare(runtime, sessions, pictures, arguments.repeats)
        rows += _compare("torch", torch_sessions(file), pictures, arguments.repeats)
    print(table(rows))


def _compare(runtime, sessions, pictures, repeats):
    count = len(pictures)
    sides = {name: lambda _, session=session: session(pictures) for name, session in sessions.items()}
    seconds = turns(sides, [None], repeats * (5 if count == 1 else 1))
    least = seconds["left out"]
    return [
        {
            "runtime": runtime,
            "pictures at once": count,
            "batch norm at a unit's entry": name,
            "ms a picture": spread([1000 * value / count for value in values], 1),
            "÷ left out": spread([value / other for value, other in zip(values, least, strict=True)], 2),
        }
        for name, values in seconds.items()
    ]


def torch_sessions(file):
    """Return our network in PyTorch, and one without the batch norms at the units' entries."""
    import torch

    from resnetv2.runtime.pytorch import TorchSession, build_model

    found = {}
    for name in ("BatchNormalization", "left out"):
        model = build_model(file.header.architecture, file.weights)
        if name == "left out":
            for unit in (module for module in model.modules() if getattr(module, "norm1", None) is not None):
                unit.norm1 = torch.nn.Identity()
            model.norm = torch.nn.Identity()
        found[name] = TorchSession(model, file.header.preprocessing, torch.device("cpu"))
    return found


def without_norms(graph):
    """Return a graph without batch norms; those that follow a convolution are part of it already."""
    dropped = {node.name: node.inputs[0] for node in graph.nodes if node.op == "BatchNormalization"}
    nodes = [
        node._replace(inputs=tuple(dropped.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node.name not in dropped
    ]
    return replace(graph, nodes=nodes)


def multiplied(graph):
    """Return a graph whose batch norms are a multiplication and an addition."""
    nodes, arrays = [], dict(graph.arrays)
    for node in graph.nodes:
        if node.op != "BatchNormalization":
            nodes.append(node)
            continue
        x, scale, shift, *_ = node.inputs
        for name in (scale, shift):
            arrays[name] = arrays[name].reshape(1, -1, 1, 1)
        nodes.append(Node("Mul", f"{node.name}.mul", (x, scale), {}))
        nodes.append(Node("Add", node.name, (f"{node.name}.mul", shift), {}))
    return replace(graph, nodes=nodes, arrays=arrays)


WRITTEN = {"BatchNormalization": lambda graph: graph, "Mul, Add": multiplied, "left out": without_norms}


def onnx_operators(model):
    """Return how many operators of each kind ONNX Runtime's own optimisation leaves."""
    import onnx

    with TemporaryDirectory() as folder:
        path = str(Path(folder, "optimized.onnx"))
        open_onnx(model, path)
        return dict(
            Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node).most_common()
        )


def openvino_operators(model):
    """Return how many operators of each kind OpenVINO executes; what is fused into another is not among them."""
    from resnetv2.runtime.openvino import openvino_core, read_openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(read_openvino(model), "CPU", settings)
    kinds = (op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops())
    return dict(Counter(kinds).most_common())


TASKS = {"files": files, "one": one, "start": start, "memory": memory, "int8": int8, "bn": bn}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--repeats", type=int, default=3, help="turns of every side (default: 3)")
    parser.add_argument("--pictures", type=int, help="files (default: 64; 10000 for memory)")
    parser.add_argument("--batch", type=int, default=32, help="of the peers' loops (default: 32)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="the first is compared with")
    parser.add_argument("--to", nargs="+", choices=ENDINGS, default=list(ENDINGS), help="artefacts of start and int8")
    arguments = parser.parse_args()
    arguments.pictures = arguments.pictures or (10_000 if arguments.task == "memory" else 64)
    print(json.dumps(environment("cpu")))
    TASKS[arguments.task](arguments)


if __name__ == "__main__":
    main()
