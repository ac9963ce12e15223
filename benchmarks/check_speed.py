"""Measure ``resnetv2 check``: pictures a second the first time, how much faster the second time, and memory.

Writes JPEG pictures of soft noise in ten classes to a temporary folder, then checks them in fresh processes: first with
an empty cache, then again. Prints a Markdown table.

    python benchmarks/check_speed.py --pictures 10000 --side 256
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from train_speed import processor, table

CLASSES = 10
LONG_AGO = 1_500_000_000  # a file that has just changed is not remembered
CHECK = """
import json, resource, sys, time
from resnetv2 import check
start = time.perf_counter()
report = check(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.perf_counter() - start, "readable": report.statistics["readable"], "peak_kb": peak}))
"""


def write_pictures(folder, count, side):
    """Write ``count`` JPEG pictures of ``side`` × ``side`` pixels."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class {i % CLASSES}" / f"{i:07}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        os.utime(path, (LONG_AGO, LONG_AGO))


def check(folder, cache):
    """Check in a fresh process; return its figures."""
    words = [sys.executable, "-c", CHECK, str(folder)]
    done = subprocess.run(
        words, env={**os.environ, "RESNETV2_CACHE": cache}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--repeat", type=int, default=3, help="second checks; the median counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "pictures")
        folder.mkdir()
        write_pictures(folder, args.pictures, args.side)
        cache = str(Path(place, "cache"))
        first = check(folder, cache)
        again = sorted((check(folder, cache) for _ in range(args.repeat)), key=lambda figures: figures["seconds"])
        second = again[len(again) // 2]
    rows = [
        {
            "check": name,
            "s": f"{figures['seconds']:.2f}",
            "pictures a second": f"{figures['readable'] / figures['seconds']:,.0f}",
            "peak memory, MB": f"{figures['peak_kb'] / 1024:,.0f}",
        }
        for name, figures in (("first", first), ("second", second))
    ]
    print(json.dumps({"cpu": processor(), "cores": os.cpu_count(), "command": shlex.join(["python", *sys.argv])}))
    print(table(rows))
    print(f"the second is {first['seconds'] / second['seconds']:.1f} times as fast")


if __name__ == "__main__":
    main()
