"""Compare lp-ft with ten epochs of fine-tuning everything, ours and timm's, from one model file to other pictures.

The three start from the same weights and learn from the same split at the same size. timm's ``resnetv2_50`` is trained
in a plain loop: SGD with Nesterov momentum, warm-up and cosine, label smoothing, batches that our loader makes, so that
only network and step are timm's. Times are of everything from the pictures to the trained network, with nothing kept
from before; accuracy is on the test split, which decides nothing. Prints a Markdown table.

    python benchmarks/lp_ft.py WEIGHTS DATA --epochs 10
"""

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import resnetv2
from resnetv2.data.augment import Augment
from resnetv2.data.index import read_saved_index
from resnetv2.data.load import Loader
from resnetv2.evaluation.intervals import wilson_interval
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.pytorch import Normalize
from resnetv2.training.schedules import rate_at
from resnetv2.weights.modelfile import read_model_file

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from peers import import_timm

BATCH, RATE = 32, 0.01


def write_digits(root, train=0.7, val=0.1):
    """Write scikit-learn's 1,797 UCI digits as root/{train,val,test}/digit/*.png, in the order they come."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    for position, i in enumerate(order.tolist()):
        share = position / len(images)
        split = "train" if share < train else "val" if share < train + val else "test"
        path = root / split / str(labels[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(images[i].reshape(8, 8) * 16, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return root


def ours(recipe, weights, data, out, size, epochs):
    """Train with a recipe; return seconds and right answers on the test split."""
    options = {"recipe": recipe, "image_size": size, "device": "cpu"}
    if recipe == "finetune":
        options |= {"epochs": epochs, "batch_size": BATCH, "lr": RATE}
    began = time.perf_counter()
    run = resnetv2.train(data, out=out, weights=weights, **options)
    seconds = time.perf_counter() - began
    report = resnetv2.evaluate(run.best, data, split="test", device="cpu")
    return seconds, report["top1"], report["n"]


def timms(weights, index, size, epochs, config):
    """Fine-tune timm's network in a plain loop; return seconds and right answers on the test split."""
    began = time.perf_counter()
    model = import_timm().create_model("resnetv2_50", num_classes=len(index.classes))
    state = {name: torch.from_numpy(value) for name, value in read_model_file(weights).weights.items()}
    head = {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
    model.load_state_dict({**{n: v for n, v in state.items() if not n.startswith("head.")}, **head}, strict=False)
    model = model.to(memory_format=torch.channels_last).train()
    view = Preprocessing(image_size=size, resize=size)
    normalize = Normalize(view)
    augment = Augment(scale=tuple(config["crop_scale"]), ratio=tuple(config["crop_ratio"]), hflip=config["hflip"])
    train = Loader(index.split("train"), BATCH, view, augment)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4, nesterov=True)
    step, steps = 0, epochs * len(train)
    for epoch in range(epochs):
        for batch in train.batches(epoch):
            optimizer.param_groups[0]["lr"] = rate_at("cosine", RATE, step, steps, min(len(train), steps / 4))
            labels = torch.from_numpy(batch.labels)
            loss = F.cross_entropy(model(normalize(torch.from_numpy(batch.pictures))), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    seconds = time.perf_counter() - began
    test = Loader(index.split("test"), 64, view)
    with torch.inference_mode():
        model.eval()
        right = [
            (model(normalize(torch.from_numpy(b.pictures))).argmax(1).numpy() == b.labels).tolist()
            for b in test.batches()
        ]
    right = [x for part in right for x in part]
    return seconds, float(np.mean(right)), len(right)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="model file of a ResNet50-v2")
    parser.add_argument("data", help="folder with train, val and test; or 'digits': scikit-learn's")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["RESNETV2_CACHE"] = str(root / "cache")
        data = write_digits(root / "digits") if args.data == "digits" else Path(args.data)
        rows = {
            name: ours(recipe, args.weights, data, root / recipe, args.image_size, args.epochs)
            for name, recipe in {"lp-ft": "lp-ft", f"finetune, {args.epochs} epochs": "finetune"}.items()
        }
        index = read_saved_index(root / "finetune" / "index.csv", data, "classification")
        config = resnetv2.info(root / "finetune" / "best.safetensors")["provenance"]["recipe"]
        name = f"timm's resnetv2_50, {args.epochs} epochs in a plain loop"
        rows[name] = timms(args.weights, index, args.image_size, args.epochs, config)
    print(f"`{shlex.join(['python', *sys.argv])}`. {platform.processor()}, {torch.get_num_threads()} threads, ")
    print(f"PyTorch {torch.__version__}, timm {import_timm().__version__}; {index.counts()}; one run of each.\n")
    print("| what | seconds | against lp-ft | top-1 on test (95 % interval) |\n| --- | --- | --- | --- |")
    for name, (seconds, top1, n) in rows.items():
        low, high = wilson_interval(round(top1 * n), n)
        times = seconds / rows["lp-ft"][0]
        print(f"| {name} | {seconds:.0f} | {times:.1f} | {top1:.2%} ({low:.2%}–{high:.2%}), n = {n:,} |")


if __name__ == "__main__":
    main()
