"""Mutate pictures of a fixed corpus: each must be answered or refused by name, without a crash, in bounded memory.

Every case is told by its number alone, so that what failed can be had again:

    python tests/fuzz_pictures.py --cases 10000
    python tests/fuzz_pictures.py --seconds 60 --first 500000
    python tests/fuzz_pictures.py --show 1234 > case.bin

The cases run in processes of their own, which may neither die, nor take ten seconds over one, nor need more memory than
one picture within the pixel budget does. The default tests run the first few hundred, `make fuzz` as many as fit in
two minutes.
"""

import argparse
import collections
import faulthandler
import functools
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from pictures import encode, noise
from PIL import ExifTags, Image, features

from resnetv2.data.examine import examine
from resnetv2.errors import DataError
from resnetv2.preprocess import MAX_PIXELS, open_picture, open_pixels

MODES = {  # that each format can hold
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "RGBA", "LA", "1", "I;16"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "L", "P", "CMYK", "RGBA", "F"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
}
CHUNK = 500  # cases of a process
PATIENCE = 10  # seconds for a case
MEMORY = 16 * MAX_PIXELS + 2**29  # bytes: one picture as RGBA, RGB, grey and encoded, beside Python and its libraries
GRAVE = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80", b"\0\x01")


@functools.cache
def corpus():
    """Return the bytes of the pictures that are mutated, always the same."""
    soft = noise(8, 7, 1).resize((40, 33), Image.Resampling.BICUBIC)
    files = [
        encode((soft.convert("L") if mode in ("F", "I;16", "LA") else soft).convert(mode), name)
        for name, modes in MODES.items()
        if name != "AVIF" or features.check("avif")
        for mode in modes
    ]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    files += [
        encode(soft, "JPEG", progressive=True, exif=exif),
        encode(soft, "JPEG", subsampling=0, restart_marker_blocks=1),
        encode(soft, "TIFF", compression="tiff_lzw"),
        encode(soft, "TIFF", compression="jpeg"),
        encode(soft.convert("1"), "TIFF", compression="group4"),
        encode(soft.convert("P"), "PNG", transparency=3, exif=exif),
        encode(soft, "PNG", save_all=True, append_images=[soft.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]),
        encode(soft, "GIF", save_all=True, append_images=[soft.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]),
        encode(soft, "WEBP", lossless=True, exif=exif),
    ]
    try:
        import pillow_heif
    except ImportError:
        return files
    file = io.BytesIO()
    pillow_heif.from_pillow(soft).save(file, quality=60)
    return [*files, file.getvalue()]


def case(number):
    """Return the mutated picture of this number."""
    rng, files = np.random.default_rng(number), corpus()
    data = bytearray(files[number % len(files)])
    for _ in range(int(rng.integers(1, 4))):
        if data:
            _mutate(data, files[int(rng.integers(len(files)))], rng)
    return bytes(data)


def _mutate(data, other, rng):
    kind, length = int(rng.integers(7)), int(rng.integers(1, 40))
    whole = rng.random() < 0.5
    place = int(rng.integers(len(data) if whole else min(len(data), 200)))  # headers are most of what can go wrong
    if kind == 0:
        for i in rng.integers(0, len(data), rng.integers(1, 9)):
            data[i] = rng.integers(256)
    elif kind == 1:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del data[place : place + length]
    elif kind == 3:
        data[place:place] = data[place : place + length]
    elif kind == 4:
        del data[int(rng.integers(len(data))) :]
    elif kind == 5:
        grave = GRAVE[int(rng.integers(len(GRAVE)))]
        data[place : place + len(grave)] = grave
    else:
        start = int(rng.integers(len(other)))
        data[place : place + length] = other[start : start + length]


def attempt(data):
    """Read a picture in every way there is; return "answered" or the reason of the refusal.

    The ways must agree: the same pixels, or the same refusal.
    """
    answers = [_answer(open_picture, data), _answer(open_pixels, data), _answer(examine, data)]
    picture, pixels, facts = answers
    if isinstance(picture, str):
        assert picture != "no reason"
        assert pixels == picture, answers
        assert facts == picture, answers
        return picture
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), pixels)
    assert picture.size == (facts["width"], facts["height"])
    smaller = [_answer(read, data, lambda *_: 2) for read in (open_picture, open_pixels)]
    assert isinstance(smaller[0], str) == isinstance(smaller[1], str), smaller
    assert smaller[0] == smaller[1] if isinstance(smaller[0], str) else np.array_equal(*map(np.asarray, smaller))
    return "answered"


def _answer(read, *args):
    try:
        return read(*args)
    except DataError as error:
        return str(error) or "no reason"


def work(first, count, diary):
    """Run cases in this process; write the number of each before it begins, and what came of all at the end."""
    warnings.simplefilter("ignore")  # Pillow's, about damaged metadata
    tally = collections.Counter()
    with Path(diary).open("w") as file:
        for number in range(first, first + count):
            file.seek(0)
            file.write(f"{number:20}")
            file.flush()
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            tally["answered" if attempt(case(number)) == "answered" else "refused"] += 1
            faulthandler.cancel_dump_traceback_later()
    print(json.dumps({**tally, "peak": most_memory()}))


def most_memory():
    """Return the most bytes that this process has held."""
    try:
        status = Path("/proc/self/status").read_text()  # getrusage would tell of who started this process too
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def fuzz(first, count):
    """Run cases in a process of their own; return what came of them.

    Raises:
        AssertionError: a case crashed, hung, disagreed with itself, or took too much memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        diary = Path(folder, "diary")
        words = [sys.executable, "-X", "faulthandler", __file__, "--work", str(first), str(count), str(diary)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        number = diary.read_text().strip() if diary.exists() else "?"
        assert done.returncode == 0, f"case {number}: exit code {done.returncode}\n{done.stderr[-4000:]}"
    tally = json.loads(done.stdout)
    assert tally["peak"] < MEMORY, f"cases {first} to {first + count - 1} took {tally['peak'] / 2**20:,.0f} MiB"
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="begin no more cases after so many")
    parser.add_argument("--cases", type=int, help="the number of cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--show", type=int, metavar="CASE", help="write this case to stdout")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(int(args.work[0]), int(args.work[1]), args.work[2])
        return
    if args.show is not None:
        sys.stdout.buffer.write(case(args.show))
        return
    began, done, peak, tally = time.monotonic(), 0, 0, collections.Counter()
    most = args.cases or (10_000 if args.seconds is None else sys.maxsize)
    while done < most and (args.seconds is None or time.monotonic() - began < args.seconds):
        count = min(CHUNK, most - done)
        found = fuzz(args.first + done, count)
        peak = max(peak, found.pop("peak"))
        tally.update(found)
        done += count
    seconds = time.monotonic() - began
    print(f"{done:,} cases in {seconds:.0f} s: {dict(tally)}, at most {peak / 2**20:,.0f} MiB; none crashed or hung")


if __name__ == "__main__":
    main()
