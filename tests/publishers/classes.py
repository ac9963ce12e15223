"""Write the file of ImageNet's class names from timm's lists: ``python classes.py INFO_FOLDER``."""

import gzip
import sys
from pathlib import Path

NOTICE = """\
# Synsets and their first lemmas, in the order of their numbers; "1" of ImageNet-1k, "g" of Google's ImageNet-21k.
# From timm's lists (Apache-2.0). WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.
# WordNet's licence lets its database be used, copied, changed and distributed for any purpose, without fee, if this
# notice stays; it is provided "as is", without warranties. https://wordnet.princeton.edu/license-and-commercial-use
"""


def classes(info):
    """Return the text of the file, from timm's folder of ImageNet's lists."""
    lemmas = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    small = set((info / "imagenet_synsets.txt").read_text().split())
    large = set((info / "imagenet21k_goog_synsets.txt").read_text().split())
    rows = [
        f"{synset}\t{'1' * (synset in small)}{'g' * (synset in large)}\t{lemmas[synset].split(',')[0].strip()}\n"
        for synset in sorted(small | large)
    ]
    return NOTICE + "".join(rows)


if __name__ == "__main__":
    target = Path(__file__).parents[2] / "src" / "resnetv2" / "weights" / "classes.tsv.gz"
    target.write_bytes(gzip.compress(classes(Path(sys.argv[1])).encode(), 9, mtime=0))
