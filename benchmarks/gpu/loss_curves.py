"""Train ResNet50-v2 on the UCI digits at 224 pixels in bfloat16 on a CUDA GPU, with plain and with fused kernels.

Both see the same weights, pictures and order. A third run, plain again but with the pictures of every batch in another
order, sums the same numbers in another order: how far it strays is what bfloat16 itself leaves open.

    python benchmarks/gpu/loss_curves.py --steps 150
"""

import argparse
import json
import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from resnetv2.creation import create_model

BATCH, RATE, HELD_OUT = 128, 0.05, 360


def digits():
    """Return pictures float32 (1797, 3, 224, 224), about -1 to 1, and labels, shuffled, on the GPU."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    small = torch.from_numpy(data.images[order].astype(np.float32) / 8 - 1)[:, None].cuda()
    pictures = F.interpolate(small, (224, 224), mode="bilinear").expand(-1, 3, -1, -1)
    return pictures, torch.from_numpy(data.target[order]).cuda()


def train(kernels, steps, is_shuffled):
    """Return the loss of every step, and the share of held-out pictures that are right afterwards."""
    torch.manual_seed(0)
    model = create_model("resnet50v2", num_classes=10, kernels=kernels).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4, fused=True)
    pictures, labels = digits()
    rng, losses = np.random.default_rng(1), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 20, 0.5 * (1 + math.cos(math.pi * step / steps)))
        chosen = rng.choice(len(labels) - HELD_OUT, BATCH, replace=False) + HELD_OUT
        chosen = torch.from_numpy(chosen[::-1].copy() if is_shuffled else chosen).cuda()
        x = pictures[chosen].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    model.eval()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        right = model(pictures[:HELD_OUT].contiguous(memory_format=torch.channels_last)).argmax(1) == labels[:HELD_OUT]
    return torch.stack(losses).cpu().numpy(), right.float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=150, help="of each run (default: %(default)s)")
    steps = parser.parse_args().steps
    runs = {
        "plain": train("plain", steps, is_shuffled=False),
        "plain, batches in another order": train("plain", steps, is_shuffled=True),
        "fused": train("fused", steps, is_shuffled=False),
    }
    plain = runs["plain"][0]
    for name, (losses, accuracy) in runs.items():
        curve = [round(float(losses[i : i + 10].mean()), 4) for i in range(0, steps, 10)]
        apart = np.abs(losses - plain)
        facts = {"first": float(losses[0]), "mean_apart": float(apart.mean()), "max_apart": float(apart.max())}
        print(json.dumps({"run": name, "held_out_accuracy": round(accuracy, 4), **facts, "mean_of_10": curve}))


if __name__ == "__main__":
    main()
