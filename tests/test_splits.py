"""Splits: the same every time, near their shares in every class, and never through the middle of a group."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.data.duplicates import Group
from resnetv2.data.splits import SPLITS, assign_splits, join_groups, match_groups
from resnetv2.errors import DataError


def assign(paths, labels, splits, groups=None):
    """Assign splits to pictures of one class each."""
    return assign_splits(paths, [(label,) for label in labels], splits, groups)


def deal(label, paths, split=""):
    """Return {path: split} as assigned to the pictures of one class that all have the same split, or none."""
    return dict(zip(paths, assign(paths, [label] * len(paths), [split] * len(paths)), strict=True))


@pytest.mark.parametrize("pattern", ["{}.png", "cat/IMG_{:05}.JPG", "käse/{:x}/x.webp"])
@pytest.mark.parametrize(
    ("before", "others", "shares"),
    [
        ("", (), {"train": 0.8, "val": 0.1, "test": 0.1}),
        ("", ("test",), {"train": 0.9, "val": 0.1}),
        ("train", (), {"train": 0.9, "val": 0.1}),
        ("train", ("test",), {"train": 0.9, "val": 0.1}),
    ],
)
def test_the_shares_of_ten_thousand_pictures_are_near_eight_one_and_one_tenth(pattern, before, others, shares):
    paths = [pattern.format(i) for i in range(10_000)]
    more = [f"other/{i}" for i in range(len(others))]
    splits = assign([*paths, *more], ["cat"] * (10_000 + len(more)), [before] * 10_000 + list(others))[:10_000]
    assert set(splits) == set(shares)
    for name, share in shares.items():
        # each picture falls there independently: binomial, and 4 standard deviations are passed once in 16 000 times
        assert abs(splits.count(name) - 10_000 * share) <= 4 * (10_000 * share * (1 - share)) ** 0.5


# of a class this large chance leaves no split empty: (9/10)**250 is 4e-12, even after the removal of 50
LARGE = [f"cat/{i}.png" for i in range(300)]


@given(
    st.lists(st.text(min_size=1, max_size=8).map("cat/new-{}".format), unique=True, max_size=40),
    st.sets(st.sampled_from(LARGE), max_size=50),
    st.sampled_from(["", "train"]),
    st.randoms(use_true_random=False),
)
def test_pictures_that_come_or_go_move_no_other_of_a_large_class(added, removed, split, random):
    before = deal("cat", LARGE, split)
    paths = [path for path in LARGE if path not in removed] + added
    random.shuffle(paths)
    after = deal("cat", paths, split)
    assert {path: after[path] for path in before if path not in removed} == {
        path: name for path, name in before.items() if path not in removed
    }
    assert len(after) == len(before) - len(removed) + len(added)


def test_a_picture_of_a_large_class_keeps_its_split_when_the_class_is_renamed():
    assert deal("dog", LARGE) == deal("cat", LARGE)


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 30), min_size=1),
    st.dictionaries(st.sampled_from("def"), st.integers(1, 30), min_size=1),
    st.sampled_from(["", "train"]),
)
def test_the_split_of_a_class_does_not_depend_on_the_other_classes(some, more, split):
    def assigned(sizes):
        pairs = [(f"{label}/{i}", label) for label, size in sizes.items() for i in range(size)]
        return dict(zip(pairs, assign(*zip(*pairs, strict=True), [split] * len(pairs)), strict=True))

    assert assigned(some | more) == assigned(some) | assigned(more)


@given(st.sets(st.sampled_from(LARGE), min_size=1, max_size=12), st.sampled_from(["", "train"]))
def test_in_a_small_class_only_those_pictures_move_that_fill_a_split_chance_left_empty(members, split):
    hashed = {path: name for path, name in deal("cat", LARGE, split).items() if path in members}
    found = deal("cat", sorted(members), split)
    for path, name in found.items():
        if name != hashed[path]:
            assert name not in hashed.values()
            assert list(found.values()).count(name) == 1
    wanted = ("train", "val") if split else SPLITS
    assert set(found.values()) >= set(wanted[: len(members)])


@pytest.mark.parametrize(
    ("size", "split", "floor"),
    [
        (1, "", ["train"]),
        (2, "", ["train", "val"]),
        (3, "", ["test", "train", "val"]),
        (1, "train", ["train"]),
        (2, "train", ["train", "val"]),
    ],
)
def test_the_smallest_classes_have_one_picture_in_each_split_there_are_pictures_for(size, split, floor):
    for i in range(300):  # so that chance begins from every arrangement
        assert sorted(deal("cat", [f"{i}/{j}.png" for j in range(size)], split).values()) == floor


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1), st.booleans())
def test_splits_cover_all_pictures_and_leave_each_class_some_to_train_and_to_check(sizes, train_only):
    labels = [label for label, size in sizes.items() for _ in range(size)]
    paths = [f"{label}/{i}" for i, label in enumerate(labels)]
    splits = assign(paths, labels, ["train" if train_only else ""] * len(labels))
    assert len(splits) == len(labels)
    assert set(splits) <= set(SPLITS)
    for label, size in sizes.items():
        number = {s: sum(x == label and y == s for x, y in zip(labels, splits, strict=True)) for s in SPLITS}
        assert sum(number.values()) == size
        assert number["train"] >= 1
        assert (number["val"] >= 1) == (size >= 2)
        assert (number["test"] >= 1) == (size >= 3 and not train_only)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", *SPLITS])), max_size=60))
def test_splits_that_were_given_are_kept(pairs):
    labels, given_splits = [p[0] for p in pairs], [p[1] for p in pairs]
    splits = assign([f"{i}.png" for i in range(len(pairs))], labels, given_splits)
    for before, after in zip(given_splits, splits, strict=True):
        allowed = {before} if before else set(SPLITS)
        if before == "train" and "val" not in given_splits and "" not in given_splits:
            allowed = {"train", "val"}
        assert after in allowed


# --- groups ---


def sides(splits, groups):
    """Return {group: the splits it is in}, without pictures of no group."""
    found = {}
    for split, group in zip(splits, groups, strict=True):
        if group:
            found.setdefault(group, set()).add(split)
    return found


GROUPED = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", *"pqrstuvw"])), min_size=1, max_size=60)


@given(GROUPED, st.sampled_from(["", "train"]))
def test_no_group_is_ever_parted(pairs, before):
    labels, groups = map(list, zip(*pairs, strict=True))
    splits = assign([f"{i}.png" for i in range(len(pairs))], labels, [before] * len(pairs), groups)
    assert set(splits) <= set(SPLITS)
    assert all(len(found) == 1 for found in sides(splits, groups).values())


@given(GROUPED)
def test_every_class_is_trained_whatever_the_groups_are(pairs):
    labels, groups = map(list, zip(*pairs, strict=True))
    splits = assign([f"{i}.png" for i in range(len(pairs))], labels, [""] * len(pairs), groups)
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert trained == set(labels)


@given(st.integers(3, 12), st.integers(1, 9), st.sampled_from(["", "train"]))
def test_a_class_with_groups_enough_has_some_in_every_split(number, size, before):
    groups = [f"patient {i}" for i in range(number) for _ in range(size)]
    paths = [f"{i}.png" for i in range(len(groups))]
    splits = assign(paths, ["cat"] * len(paths), [before] * len(paths), groups)
    assert set(splits) == set(SPLITS if before == "" else SPLITS[:2])


def test_the_shares_of_ten_thousand_groups_are_near_eight_one_and_one_tenth():
    groups = [f"patient {i}" for i in range(10_000) for _ in range(2)]
    splits = assign([f"{i}" for i in range(20_000)], ["cat"] * 20_000, [""] * 20_000, groups)
    for name, share in {"train": 0.8, "val": 0.1, "test": 0.1}.items():
        # each group falls there independently: binomial, and 4 standard deviations are passed once in 16 000 times
        assert abs(splits.count(name) / 2 - 10_000 * share) <= 4 * (10_000 * share * (1 - share)) ** 0.5


def test_groups_that_come_or_go_move_no_other_and_a_larger_group_stays():
    groups = [f"patient {i % 300}" for i in range(900)]
    paths = [f"{i}.png" for i in range(900)]
    before = dict(zip(groups, assign(paths, ["cat"] * 900, [""] * 900, groups), strict=True))
    kept = [i for i in range(900) if groups[i] not in ("patient 7", "patient 70")]
    more = [*(groups[i] for i in kept), "patient 8", "someone new"]
    names = [*(paths[i] for i in kept), "added.png", "other.png"]
    after = dict(zip(more, assign(names, ["cat"] * len(more), [""] * len(more), more), strict=True))
    assert {name: after[name] for name in before if name in after} == {
        name: split for name, split in before.items() if name in after
    }


def test_the_smallest_group_fills_a_split_that_chance_left_empty():
    sizes = {"large": 50, "medium": 20, "small": 2}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    splits = assign([str(i) for i in range(72)], ["cat"] * 72, ["train"] * 72, groups)
    assert Counter(zip(groups, splits, strict=True)) == {
        ("large", "train"): 50,
        ("medium", "train"): 20,
        ("small", "val"): 2,
    }


def test_a_group_of_which_one_split_was_given_gets_it_whole():
    paths, groups = [f"{i}" for i in range(6)], ["p", "p", "q", "q", "r", "r"]
    given_splits = ["test", "", "val", "", "val", "train"]
    assert assign(paths, ["cat"] * 6, given_splits, groups) == ["test", "test", "val", "val", "val", "train"]


def test_splits_that_were_all_given_are_kept_though_they_part_a_group():
    assert assign(["a", "b"], ["cat", "cat"], ["train", "val"], ["p", "p"]) == ["train", "val"]


# --- what a group is ---


@pytest.mark.parametrize(
    ("expression", "groups"),
    [
        (r"patient(\d+)", ["7", "7", "8", ""]),
        (r"patient\d+", ["patient7", "patient7", "patient8", ""]),
        (r"^[^/]+/", ["cat/", "dog/", "dog/", "dog/"]),
        (r"(patient7)|(x)", ["patient7", "patient7", "", ""]),
    ],
)
def test_an_expression_names_groups_by_its_first_group_or_by_all_that_matches(expression, groups):
    paths = ["cat/patient7-1.png", "dog/patient7-2.png", "dog/patient8-1.png", "dog/x.png"]
    assert match_groups(paths, expression) == groups


@pytest.mark.parametrize(
    ("expression", "reason"), [("(", "unterminated"), ("film", "matches no path"), ("z*", "no path")]
)
def test_an_expression_that_is_none_or_names_nothing_is_refused(expression, reason):
    with pytest.raises(DataError, match=reason) as caught:
        match_groups(["cat/patient7.png"], expression)
    assert f"--group-by {expression!r}" in str(caught.value)


def test_groups_and_copies_are_joined_as_far_as_they_reach():
    paths = [f"{i}.png" for i in range(8)]
    groups = ["p", "p", "q", "", "", "", "", "r"]
    joined = join_groups(paths, groups, [Group(c, (c,)) for c in ((1, 2), (3, 4), (2, 5))])
    assert list(joined) == ["p", "p", "p", "3.png", "3.png", "p", "", "r"]


@given(GROUPED, st.lists(st.sets(st.integers(0, 59), min_size=2, max_size=4), max_size=8))
def test_joined_groups_are_those_that_a_search_finds(pairs, copies):
    n, groups = len(pairs), [group for _, group in pairs]
    copies = [sorted(i for i in members if i < n) for members in copies]
    some = [Group(tuple(members), (tuple(members),)) for members in copies if len(members) > 1]
    joined = join_groups([f"{i}.png" for i in range(n)], groups, some)
    sets = [{i} for i in range(n)]  # the plain way: unite until nothing changes
    links = [*copies, *([i for i in range(n) if groups[i] == name] for name in set(groups) if name)]
    for _ in range(n):
        for link in links:
            union = set().union(*(sets[i] for i in link)) if link else set()
            for i in union:
                sets[i] = union
    for i in range(n):
        for j in range(n):
            alone = i == j and len(sets[i]) == 1 and not groups[i]
            assert (bool(joined[i]) and joined[i] == joined[j]) == (j in sets[i] and not alone)
