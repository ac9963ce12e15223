"""What evaluation costs beside the network: figures against bare inference, page and report of many pictures."""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import resnetv2
from resnetv2.config import architecture
from resnetv2.data.index import read_index
from resnetv2.data.load import Loader
from resnetv2.evaluation.mistakes import Shown
from resnetv2.evaluation.page import write_page
from resnetv2.evaluation.run import heat_of, make_report
from resnetv2.inference import Classifier
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.pytorch import TorchSession
from resnetv2.training.record import read_record
from resnetv2.training.report import MISTAKES, show_run
from resnetv2.weights.modelfile import Header

CLASSES = tuple(f"class {i}" for i in range(10))


def write_pictures(root, count, size, split="test"):
    rng = np.random.default_rng(0)
    for i in range(count):
        folder = root / split / CLASSES[i % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((size, size)).save(folder / f"{i}.jpg")
    return root


def small_run(folder):
    """Return the record of a run of a few steps: what a report reads beside the answers."""
    for split in ("train", "val"):
        write_pictures(folder / "small", 40, 32, split)
    small = {"arch": "resnet18v2", "epochs": 2, "image_size": 32, "device": "cpu"}
    out = resnetv2.train(folder / "small", out=folder / "run", set={"model": {"width_factor": 0.25}}, **small).out
    return read_record(out, str(folder / "small"))


def measure(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--page", type=int, default=10_000, help="pictures of the page")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = architecture("resnet50v2", num_classes=len(CLASSES))
    preprocessing = Preprocessing(image_size=args.image_size, resize=args.image_size)
    header = Header(architecture=config, preprocessing=preprocessing, classes=CLASSES)
    torch.manual_seed(0)
    classifier = Classifier(header, TorchSession(ResNetV2(config), preprocessing, torch.device("cpu")))
    with tempfile.TemporaryDirectory() as folder:
        data = write_pictures(Path(folder) / "data", args.pictures, args.image_size)

        def bare():
            for batch in Loader(read_index(data).split("test"), 32, preprocessing).batches():
                classifier.session(batch.pictures)

        ratios, seconds = [], []
        for _ in range(args.repeats):
            first, second = measure(bare), measure(lambda: resnetv2.evaluate(classifier, data))
            ratios.append(second / first)
            seconds.append(first)
        rng = np.random.default_rng(0)
        index = read_index(data)
        index = index.take(rng.integers(0, args.pictures, args.page).tolist())
        logits = 2 * np.eye(len(CLASSES))[index.labels] + rng.normal(size=(args.page, len(CLASSES)))
        record, pages, reports, processor = small_run(Path(folder)), [], [], []
        for _ in range(args.repeats):

            def page():
                report = {"model": "m", "data": "d", "split": "test", "tta": None, "task": "classification"}
                report |= make_report("classification", logits, index.labels, CLASSES) | {"skipped": []}
                write_page(Path(folder) / "page.html", Shown(report, header, index, logits))

            def whole_report():
                report = {"model": "m", "data": "d", "split": "test", "tta": None, "task": "classification"}
                report |= make_report("classification", logits, index.labels, CLASSES) | {"skipped": []}
                trained = replace(header, provenance={"data": {"pictures": index.counts()}})
                show_run(record, index, Shown(report, trained, index, logits, heat_of(classifier), MISTAKES))

            pages.append(measure(page))
            began = time.process_time()
            reports.append(measure(whole_report))
            processor.append(time.process_time() - began)
    print("| what | median | min – max | n |\n| --- | --- | --- | --- |")
    for what, values, form in (
        (f"bare inference, {args.pictures:,} pictures of {args.image_size} pixels, s", seconds, "{:.1f}"),
        ("evaluate ÷ bare", ratios, "{:.3f}"),
        (f"figures and page of {args.page:,} pictures, s", pages, "{:.2f}"),
        (f"figures, report with heat maps and card of a run, {args.page:,} pictures, s", reports, "{:.2f}"),
        ("the same, processor time, s", processor, "{:.2f}"),
    ):
        low, high = form.format(min(values)), form.format(max(values))
        print(f"| {what} | {form.format(statistics.median(values))} | {low} – {high} | {len(values)} |")


if __name__ == "__main__":
    main()
