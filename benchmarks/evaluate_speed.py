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


def random_classifier(image_size):
    config = architecture("resnet50v2", num_classes=len(CLASSES))
    preprocessing = Preprocessing(image_size=image_size, resize=image_size)
    header = Header(architecture=config, preprocessing=preprocessing, classes=CLASSES)
    torch.manual_seed(0)
    return Classifier(header, TorchSession(ResNetV2(config), preprocessing, torch.device("cpu")))


def measure(function):
    """Return seconds by the clock, and of processors."""
    began = time.perf_counter(), time.process_time()
    function()
    return np.array([time.perf_counter(), time.process_time()]) - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--page", type=int, default=10_000, help="pictures of the page")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    classifier = random_classifier(args.image_size)
    header, preprocessing = classifier.header, classifier.header.preprocessing
    with tempfile.TemporaryDirectory() as folder:
        data = write_pictures(Path(folder) / "data", args.pictures, args.image_size)

        def bare():
            for batch in Loader(read_index(data).split("test"), 32, preprocessing).batches():
                classifier.session(batch.pictures)

        sides = [bare, lambda: resnetv2.evaluate(classifier, data)]
        inference = []
        for i in range(args.repeats):
            taken = [measure(side) for side in sides[:: (-1) ** i]]  # in turns, who is first
            inference.append(taken[:: (-1) ** i])
        inference = np.array(inference)  # (repeats, bare and evaluate, clock and processors)
        rng = np.random.default_rng(0)
        index = read_index(data)
        index = index.take(rng.integers(0, args.pictures, args.page).tolist())
        logits = 2 * np.eye(len(CLASSES))[index.labels] + rng.normal(size=(args.page, len(CLASSES)))
        record = small_run(Path(folder))
        jobs = {"page": [], "report": [], "report with heat maps": []}
        for _ in range(args.repeats):

            def page():
                report = {"model": "m", "data": "d", "split": "test", "tta": None, "task": "classification"}
                report |= make_report("classification", logits, index.labels, CLASSES) | {"skipped": []}
                write_page(Path(folder) / "page.html", Shown(report, header, index, logits))

            def whole_report(heat=None):
                report = {"model": "m", "data": "d", "split": "test", "tta": None, "task": "classification"}
                report |= make_report("classification", logits, index.labels, CLASSES) | {"skipped": []}
                trained = replace(header, provenance={"data": {"pictures": index.counts()}})
                show_run(record, index, Shown(report, trained, index, logits, heat, MISTAKES))

            jobs["page"].append(measure(page))
            jobs["report"].append(measure(whole_report))
            jobs["report with heat maps"].append(measure(lambda: whole_report(heat_of(classifier))))
    print("| what | median | min – max | n |\n| --- | --- | --- | --- |")
    clock, processor = np.moveaxis(inference, 2, 0)
    rows = [
        (f"bare inference, {args.pictures:,} pictures of {args.image_size} pixels, s", clock[:, 0], "{:.1f}"),
        ("evaluate ÷ bare", clock[:, 1] / clock[:, 0], "{:.3f}"),
        ("the same, processor time", processor[:, 1] / processor[:, 0], "{:.3f}"),
    ]
    for name, taken in jobs.items():
        clock, processor = np.array(taken).T
        rows.append((f"figures and {name} of {args.page:,} pictures, s", clock, "{:.2f}"))
        rows.append(("the same, processor time, s", processor, "{:.2f}"))
    for what, values, form in rows:
        low, high = form.format(min(values)), form.format(max(values))
        print(f"| {what} | {form.format(statistics.median(values))} | {low} – {high} | {len(values)} |")


if __name__ == "__main__":
    main()
