"""Time how fast JPEGs become training batches: our loader against PyTorch's DataLoader, Grain and bare loops.

Every side decodes the same files, takes a random resized crop and mirrors half of them; what is not ours does so with
Pillow, as timm does. "bare" is the sum of the rates of single-thread loops run one after the other, without any
loader: as much as the processors can give if they do not disturb each other. The sides take turns, so whatever else
the machine does falls on all. Prints a Markdown table. Grain is timed where it is installed.

    python benchmarks/load_speed.py --repeats 5
"""

import argparse
import importlib.util
import multiprocessing
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from resnetv2.data.augment import Augment
from resnetv2.data.crews import Budget
from resnetv2.data.decoding import Decoder, Task
from resnetv2.data.index import read_index
from resnetv2.data.load import Loader
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.pytorch import choose_resize

SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)


def write_photos(root, count, width, height, quality):
    """Write JPEGs cut at random from scikit-learn's two photographs as root/train/class/*.jpg."""
    from sklearn.datasets import load_sample_images

    photos, rng = [Image.fromarray(photo) for photo in load_sample_images().images], np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % 2]
        share = rng.uniform(0.7, 1)
        w, h = photo.width * share, photo.height * share
        left, top = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
        path = root / "train" / f"class{number % 2}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + w, top + h)).save(
            path, quality=quality
        )


class Pictures:
    """What timm's ImageFolder and training transforms do, in plain Pillow; one item is (uint8 (H, W, 3), label)."""

    def __init__(self, samples, size):
        self.samples, self.size = samples, size

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        with self.samples.paths[index].open("rb") as file:
            picture = Image.open(file).convert("RGB")
        area, log_ratio = picture.width * picture.height, np.log(RATIO)
        for _ in range(10):
            target, ratio = random.uniform(*SCALE) * area, np.exp(random.uniform(*log_ratio))
            w, h = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
            if w <= picture.width and h <= picture.height:
                break
        else:
            w, h = picture.size
        left, top = random.randint(0, picture.width - w), random.randint(0, picture.height - h)
        filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
        picture = picture.crop((left, top, left + w, top + h)).resize((self.size, self.size), random.choice(filters))
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(picture), int(self.samples.labels[index])


def bare(samples, size, _batch, workers):
    """Return the pictures a second of ``workers`` loops with Pillow, each alone on the machine, added up."""
    return alone(Pictures(samples, size).__getitem__, len(samples), workers)


def bare_ours(samples, size, _batch, workers):
    """Return the same with our decoder."""
    decoder = Decoder(Preprocessing(image_size=size, resize=size), augment(), size)
    return alone(lambda index: decoder(Task(index, samples.paths[index], (index,))), len(samples), workers)


def alone(read, count, workers):
    """Return the pictures a second of ``workers`` loops over ``count`` pictures, one after the other, added up."""
    total = 0.0
    for worker in range(workers):
        start, indices = time.perf_counter(), range(worker, count, workers)
        for index in indices:
            read(index)
        total += len(indices) / (time.perf_counter() - start)
    return total


def rate(batches, pictures_of):
    """Return the pictures a second after the first batch: no start is counted, and every side was ahead by then."""
    batches = iter(batches)
    next(batches)
    start = time.perf_counter()
    count = sum(pictures_of(batch) for batch in batches)
    return count / (time.perf_counter() - start)


def augment(dct_scaling=True):
    return Augment(scale=SCALE, ratio=RATIO, hflip=0.5, dct_scaling=dct_scaling, resize=choose_resize())


def ours(samples, size, batch, workers, dct_scaling=True, budget=0, worker_type="threads"):
    """Return the pictures a second of an epoch; with a budget of the second one."""
    settings = Preprocessing(image_size=size, resize=size)
    loader = Loader(samples, batch, settings, augment(dct_scaling), 0, workers, Budget(budget), worker_type=worker_type)
    if budget or worker_type == "processes":  # what is kept, or started, for all epochs
        list(loader.batches())
    return rate(loader.batches(epoch=1), lambda batch: len(batch.labels))


def dataloader(samples, size, batch, workers):
    """Return the pictures a second of PyTorch's DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(Pictures(samples, size), batch, shuffle=True, num_workers=workers, drop_last=True)
    return rate(loader, lambda batch: len(batch[1]))


def grain(samples, size, batch, workers, processes=False):
    """Return the pictures a second of Grain with threads, or processes."""
    from grain import MapDataset, MultiprocessingOptions, ReadOptions

    pictures = Pictures(samples, size)
    data = MapDataset.range(len(pictures)).shuffle(seed=0).map(lambda index: pictures[index])
    data = data.to_iter_dataset(ReadOptions(num_threads=0 if processes else workers)).batch(batch, drop_remainder=True)
    if processes:
        data = data.mp_prefetch(MultiprocessingOptions(num_workers=workers))
    return rate(data, lambda batch: len(batch[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns of every side (default: 5)")
    parser.add_argument("--pictures", type=int, default=512, help="files (default: 512)")
    parser.add_argument("--size", default="500x375", help="pixels of the files (default: 500x375)")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs (default: 90)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels of the crops (default: 224)")
    parser.add_argument("--batch", type=int, default=32, help="(default: 32)")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each side (default: 2)")
    parser.add_argument("--keep-mb", type=int, default=0, help="also time ours with decoded pictures kept")
    arguments = parser.parse_args()
    sides = {
        "bare": bare,
        "bare, our decoder": bare_ours,
        "ours": ours,
        "ours, whole decode": lambda *a: ours(*a, dct_scaling=False),
        "ours, processes": lambda *a: ours(*a, worker_type="processes"),
        "DataLoader": dataloader,
    }
    if arguments.keep_mb:
        sides["ours, kept decoded"] = lambda *a: ours(*a, budget=arguments.keep_mb * 2**20)
    if importlib.util.find_spec("grain"):
        sides["Grain, threads"] = grain
        if multiprocessing.get_start_method() == "fork":
            sides["Grain, processes"] = lambda *a: grain(*a, processes=True)
    with tempfile.TemporaryDirectory() as folder:
        width, height = map(int, arguments.size.split("x"))
        write_photos(Path(folder), arguments.pictures, width, height, arguments.quality)
        samples = read_index(Path(folder)).split("all")
        rates = {name: [] for name in sides}
        for _ in range(arguments.repeats):
            for name, side in sides.items():
                rates[name].append(side(samples, arguments.image_size, arguments.batch, arguments.workers))
    print(
        "| side | pictures/s, median | ÷ bare | ÷ bare, our decoder | ÷ DataLoader, median (min–max) |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for name, values in rates.items():
        (plain, _), (ours_alone, _), (share, spread) = (
            compare(values, rates[other]) for other in ("bare", "bare, our decoder", "DataLoader")
        )
        print(f"| {name} | {statistics.median(values):.0f} | {plain} | {ours_alone} | {share} ({spread}) |")


def compare(values, others):
    """Return the median ratio of two sides' turns, and its range."""
    ratios = [a / b for a, b in zip(values, others, strict=True)]
    return f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"


if __name__ == "__main__":
    main()
