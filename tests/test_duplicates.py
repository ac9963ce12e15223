"""The same picture found again: to the pixel, saved anew, resized, cropped, mirrored; and different ones left alone."""

import io

import numpy as np
import pytest
from pictures import encode, noise
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

from resnetv2.data import duplicates
from resnetv2.data.duplicates import NEAR, find_groups, near_pairs
from resnetv2.data.examine import FACTS, examine
from resnetv2.data.fingerprint import MIRROR, WORDS, count_bits, fingerprint


def facts_of(pictures, **options):
    return np.array([examine(p if isinstance(p, bytes) else encode(p, **options)) for p in pictures], FACTS)


def groups_of(facts):
    return [(group.members, group.exact) for group in find_groups(facts, np.ones(len(facts), bool))]


def jpeg(picture, quality):
    return Image.open(io.BytesIO(encode(picture, "JPEG", quality=quality))).convert("RGB")


def crop(picture, share):
    width, height = picture.size
    return picture.crop((width * share, height * share, width * (1 - share), height * (1 - share)))


COPIES = {
    "saved at quality 40": lambda p: jpeg(p, 40),
    "half the size": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
    "twice the size": lambda p: p.resize((p.width * 2, p.height * 2), Image.Resampling.BICUBIC),
    "squashed": lambda p: p.resize((p.width, p.height // 2)),
    "cropped by 1 %": lambda p: crop(p, 0.01),
    "darker": lambda p: p.point(lambda value: value * 0.8),
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored and saved": lambda p: jpeg(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 60),
}


@pytest.fixture(scope="module")
def parts():
    """Return pictures of 106×106 pixels, parts of two photographs that do not overlap, without those of sky alone."""
    corners = [(x, y) for y in range(0, 424, 106) for x in range(0, 636, 106)]
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]  # 427×640
    pictures = [photograph.crop((x, y, x + 106, y + 106)) for photograph in photographs for x, y in corners]
    facts = facts_of(pictures)
    return [p for p, f in zip(pictures, facts, strict=True) if f["spread"] > 30 and not f["plain"]]


@pytest.mark.parametrize("how", COPIES)
def test_a_changed_copy_of_a_photograph_is_found_and_nothing_else(parts, how):
    assert len(parts) > 15
    facts = facts_of([*parts, *map(COPIES[how], parts)])
    found = groups_of(facts)
    n = len(parts)
    right = [members for members, exact in found if len(members) == 2 and members[1] - members[0] == n and not exact]
    assert len(right) == len(found)  # none with a stranger
    assert len(right) >= 0.85 * n  # 98 % or more of 1,000 whole photographs; of these few small parts a crop loses two


def test_a_lossless_copy_is_exact(parts):
    facts = facts_of([encode(parts[0]), encode(parts[1]), encode(parts[0], "BMP"), encode(parts[0])])
    assert groups_of(facts) == [((0, 2, 3), True)]


def test_groups_join_what_is_near_to_one_of_theirs(parts):
    pictures = [parts[2], jpeg(parts[2], 50), parts[3], parts[2], COPIES["half the size"](jpeg(parts[2], 50))]
    facts = facts_of(pictures)
    assert groups_of(facts) == [((0, 1, 3, 4), False)]
    assert find_groups(facts, np.ones(len(facts), bool))[0].copies == ((0, 3),)


def test_what_cannot_be_read_is_in_no_group(parts):
    facts = facts_of([parts[0]] * 3)
    assert [g.members for g in find_groups(facts, np.array([True, False, True]))] == [(0, 2)]
    assert find_groups(facts, np.zeros(3, bool)) == []
    assert find_groups(facts[:0], np.zeros(0, bool)) == []


@pytest.mark.parametrize("side", [8, 28, 64, 224])
def test_handwritten_digits_are_not_each_others_copies(side):
    digits = load_digits()
    scans = [Image.fromarray(np.rint(x * (255 / 16)).astype(np.uint8)) for x in digits.images]
    facts = facts_of([scan.resize((side, side), Image.Resampling.BICUBIC) for scan in scans])
    assert groups_of(facts) == []


def test_enlarged_digits_that_were_saved_again_are_found():
    images = load_digits().images[:200]
    scans = [
        Image.fromarray(np.rint(x * 15).astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC) for x in images
    ]
    found = groups_of(facts_of([*scans, *(jpeg(scan, 75) for scan in scans)]))
    assert all(len(members) == 2 and members[1] - members[0] == 200 for members, _ in found)
    assert len(found) >= 170  # nine of ten keep within the limit for plain pictures; 180 when this was written


def test_a_mirrored_glyph_is_another_sign():
    b = Image.new("L", (64, 64), 255)
    b.paste(0, (14, 6, 22, 58))
    b.paste(0, (22, 32, 46, 58))
    facts = facts_of([b, b.transpose(Image.Transpose.FLIP_LEFT_RIGHT), jpeg(b, 70)])
    assert facts["plain"].all()
    assert groups_of(facts) == [((0, 2), False)]


def test_blank_pictures_are_the_same_only_where_their_files_are():
    whites = [Image.new("RGB", (64, 64), (level,) * 3) for level in range(200, 240)]
    assert groups_of(facts_of(whites)) == []
    faint = [Image.blend(whites[0], noise(64, 64, seed), 0.004) for seed in range(20)]
    assert groups_of(facts_of(faint)) == []
    assert groups_of(facts_of([whites[0], whites[1], whites[0]])) == [((0, 2), True)]


def test_the_hash_of_a_mirror_image_differs_in_the_bits_that_mirror_names(parts):
    for picture in parts:
        grey = picture.convert("L")
        there, _ = fingerprint(grey)
        back, _ = fingerprint(grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert (
            count_bits(there ^ back ^ MIRROR).sum() <= NEAR // 2
        )  # frequencies near zero, where the rounding of the filter decides


def test_bits_are_counted_as_python_counts_them():
    words = np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64)
    assert count_bits(words).tolist() == [int(word).bit_count() for word in words]
    assert count_bits(np.array([0, 2**64 - 1], np.uint64)).tolist() == [0, 64]


def by_force(hashes, plain):
    """Return the near pairs as the definition has them."""
    found = set()
    for a in range(len(hashes)):
        for b in range(a + 1, len(hashes)):
            limit = 16 if plain[a] or plain[b] else 32
            for turned in [np.zeros_like(MIRROR)] + ([] if plain[a] or plain[b] else [MIRROR]):
                bits = count_bits(hashes[a] ^ hashes[b] ^ turned)
                if bits[0] <= 7 and bits.sum() <= limit:
                    found.add((a, b))
    return found


def pairs_of(hashes, plain):
    pairs = [np.sort(np.stack(ab), axis=0) for ab in near_pairs(hashes, plain)]
    return {(int(a), int(b)) for a, b in np.concatenate(pairs, axis=1).T}


@pytest.mark.parametrize("seed", range(5))
def test_look_up_finds_exactly_the_pairs_that_comparing_all_finds(seed):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (60, WORDS), np.uint64)
    for i in range(60, 240):  # copies of copies, with some bits turned, and some mirrored
        flips = np.packbits(rng.random(64 * WORDS) < rng.choice([0.0, 0.02, 0.05, 0.1])).view(np.uint64)
        mirrored = MIRROR if rng.random() < 0.3 else np.zeros_like(MIRROR)
        hashes = np.concatenate([hashes, (hashes[rng.integers(i)] ^ flips ^ mirrored)[None]])
    plain = rng.random(240) < 0.3
    expected = by_force(hashes, plain)
    assert len(expected) > 50
    assert pairs_of(hashes, plain) == expected


def test_a_crowd_of_near_pictures_costs_its_number_not_its_square(monkeypatch):
    """A film's frames share their low frequencies; each is compared with a bounded number of the others."""
    rng = np.random.default_rng(0)
    hashes = np.repeat(rng.integers(0, 2**64, (1, WORDS), np.uint64), 5000, axis=0)
    hashes[:, 1] ^= np.uint64(1) << rng.integers(0, 64, 5000).astype(np.uint64)
    compared = []
    whole = duplicates._candidates

    def counted(words, turned):
        for a, b in whole(words, turned):
            compared.append(len(a))
            yield a, b

    monkeypatch.setattr(duplicates, "_candidates", counted)
    pairs = pairs_of(hashes, np.zeros(5000, bool))
    assert sum(compared) <= 2 * 5000 * 256 * 4 * 17  # as they are and mirrored, 4 bands, 17 look-ups
    assert len({place for pair in pairs for place in pair}) == 5000


def test_a_blurred_photograph_is_still_the_same_and_the_next_one_is_not(parts):
    blurred = parts[0].filter(ImageFilter.GaussianBlur(1))
    assert groups_of(facts_of([parts[0], blurred, parts[1]])) == [((0, 1), False)]
