"""How well a score tells clothing from digits, seen by a network that was trained on the other of the two.

The clothes are Fashion-MNIST's (Debian's package dataset-fashion-mnist). Each network is trained and calibrated, then
answers its own test pictures and the other's, and every score is asked which are which: AUROC, with the 95 % interval
of 2,000 bootstrap draws. "ours" is what ``predict --abstain`` uses, the others are what else it might have been.
"""

import argparse
from pathlib import Path

import numpy as np
from fashion_mnist import read_part
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

import resnetv2
from resnetv2.data.index import read_index
from resnetv2.digits import write_digits
from resnetv2.inference import softmax

COUNTS = {"train": 6000, "val": 600, "test": 1000}
EPOCHS = {"digits": 20, "clothes": 8}
DRAWS = 2000
ERROR_RATE = 0.05


def write_clothes(folder):
    """Write the first 6,600 training pictures and the first 1,000 test pictures, 28×28 grey, as PNG files."""
    for part, splits in (("train", ("train", "val")), ("t10k", ("test",))):
        images, labels = read_part(part)
        number = 0
        for split in splits:
            for _ in range(COUNTS[split]):
                path = folder / split / str(labels[number]) / f"{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    Image.fromarray(images[number]).save(path)
                number += 1


def train(name, data, out, seed):
    if not (out / "best.safetensors").exists():
        chosen = {
            "hflip": 0.0 if name == "digits" else 0.5,
            "model": {"stem": "3x3", "width_factor": 0.25},
            "workers": 1,
        }
        options = {"arch": "resnet18v2", "image_size": 32, "batch_size": 64, "epochs": EPOCHS[name], "device": "cpu"}
        options["seed"] = seed
        resnetv2.train(data, out=out, resume=(out / "config.json").exists(), set=chosen, **options)
    return out / "best.safetensors"


def answers(classifier, data, split):
    """Return logits (N, K), pooled features (N, d) and labels of a split."""
    samples = read_index(data).split(split)
    decode, rows = classifier.header.preprocessing.decode, []
    for start in range(0, len(samples), 64):
        pixels = decode([samples.paths[i] for i in range(start, min(start + 64, len(samples)))])
        rows.append((classifier.session(pixels), classifier.session.features(pixels)))
    logits, features = (np.concatenate(parts).astype(np.float64) for parts in zip(*rows, strict=True))
    return logits, features, samples.labels


def calibrate(model, data, out):
    """Return the calibrated model, with an error rate if one can be promised."""
    for error_rate in (ERROR_RATE, None):
        out.unlink(missing_ok=True)
        try:
            report = resnetv2.calibrate(model, data, out=out, error_rate=error_rate, device="cpu")
        except resnetv2.DataError as error:
            print(error)
            continue
        keys = ("temperature", "temperature_ci95", "log_loss", "ece", "threshold", "error_rate", "limit", "unlike_rate")
        print({key: report[key] for key in keys})
        return out
    raise AssertionError


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def neighbour(kept, features, k):
    """Return the cosine distance to the k-th nearest of the kept features (Sun et al. 2022, arXiv 2204.06507)."""
    return np.sort(1 - unit(features) @ unit(kept).T, axis=1)[:, k - 1]


def squares(features, means, precision):
    """Return Mahalanobis's distance from the nearest mean (Lee et al. 2018, arXiv 1807.03888)."""
    gaps = features[:, None] - means[None]
    return np.einsum("nkd,de,nke->nk", gaps, precision, gaps).min(axis=1)


def make_scores(features, labels, likeness):
    """Return the scores by name, each a function of logits and features; high is unlike."""
    means = np.stack([features[labels == k].mean(axis=0) for k in np.unique(labels)])
    within = LedoitWolf(assume_centered=True).fit(features - means[labels]).precision_
    whole = LedoitWolf().fit(features)
    some = features[np.unique(np.linspace(0, len(features) - 1, 1000).round().astype(int))]
    return {
        "highest probability": lambda logits, _: -softmax(logits).max(axis=1),
        "ours": lambda _, found: likeness.distances(found),
        "whole covariance, raw": lambda _, found: squares(found, means, within),
        "relative, raw": lambda _, found: (
            squares(found, means, within) - squares(found, whole.location_[None], whole.precision_)
        ),
        "neighbour 1 of all": lambda _, found: neighbour(features, found, 1),
        "neighbour 1 of 1,000": lambda _, found: neighbour(some, found, 1),
        "neighbour 10 of 1,000": lambda _, found: neighbour(some, found, 10),
    }


def interval(own, other):
    """Return the 95 % bootstrap interval of the AUROC, over pictures of both kinds."""
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        parts = [generator.choice(part, len(part)) for part in (own, other)]
        draws.append(roc_auc_score(np.repeat([0, 1], [len(own), len(other)]), np.concatenate(parts)))
    return np.quantile(draws, [0.025, 0.975])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("unlike"), help="for pictures and runs; what is there stays"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = {"digits": args.folder / "digits", "clothes": args.folder / "clothes"}
    write_digits(data["digits"])
    write_clothes(data["clothes"])
    for name, other in (("digits", "clothes"), ("clothes", "digits")):
        run = args.folder / f"run-{name}-{args.seed}"
        model = train(name, data[name], run, args.seed)
        calibrated = calibrate(model, data[name], run / "calibrated.safetensors")
        classifier = resnetv2.load(calibrated, device="cpu")
        _, features, labels = answers(classifier, data[name], "train")
        own, strange = (answers(classifier, data[each], "test") for each in (name, other))
        top1 = (own[0].argmax(axis=1) == own[2]).mean()
        print(f"\ntrained on {name}: top-1 {top1:.2%}; {len(own[0])} of its own, {len(strange[0])} of {other}")
        report = resnetv2.evaluate(calibrated, data[name], device="cpu")
        plain = resnetv2.evaluate(model, data[name], device="cpu")
        for key in ("log_loss", "ece", "brier"):
            print(f"{key} on test: {plain[key]:.4f} before, {report[key]:.4f} after")
        print(report["abstention"]["note"])
        pictures = [data[other] / "test"]
        reasons = [a.abstains for a in resnetv2.predict(calibrated, pictures, device="cpu", abstain=True)]
        print(f"of {other}:", {reason: reasons.count(reason) for reason in set(reasons)})
        for score, measure in make_scores(features, labels, classifier.likeness).items():
            ours, theirs = measure(*own[:2]), measure(*strange[:2])
            auroc = roc_auc_score(np.repeat([0, 1], [len(ours), len(theirs)]), np.concatenate([ours, theirs]))
            low, high = interval(ours, theirs)
            taken = (theirs <= np.quantile(ours, 0.99)).mean()
            print(
                f"{score:24} AUROC {auroc:.4f} ({low:.4f} - {high:.4f}), of the others like 99 % of its own {taken:.1%}"
            )


if __name__ == "__main__":
    main()
