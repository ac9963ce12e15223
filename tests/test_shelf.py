import os

import numpy as np
import pytest

from resnetv2.errors import Error
from resnetv2.training.shelf import Shelf, make_room


def keys_of(*numbers):
    """Return a key for each number."""
    return np.array([(number * 2**40 + 7, number) for number in numbers], np.uint64).reshape(-1, 2)


def rows_of(*numbers):
    """Return a row for each number."""
    return np.stack([np.arange(6, dtype=np.float32).reshape(2, 3) + number for number in numbers])


@pytest.fixture
def shelf(tmp_path):
    """Return a shelf of two segments, which hold 1 to 5."""
    shelf = Shelf(tmp_path / "shelf", np.dtype(np.float32))
    shelf.add(keys_of(3, 1), rows_of(3, 1))
    shelf.add(keys_of(5, 2, 4), rows_of(5, 2, 4))
    return shelf


def test_rows_are_found_by_key_in_any_order_and_more_than_once(shelf):
    wanted = (4, 1, 9, 5, 4, 3, 0)
    found = shelf.find(keys_of(*wanted))
    assert found.known.tolist() == [number in range(1, 6) for number in wanted]
    places = np.flatnonzero(found.known)[::-1]
    np.testing.assert_array_equal(found.take(places), rows_of(*(wanted[i] for i in places)))


def test_an_empty_shelf_knows_nothing(tmp_path):
    assert not Shelf(tmp_path / "none", np.dtype(np.float32)).find(keys_of(1, 2)).known.any()


@pytest.mark.parametrize("name", ["000001.rows.npy", "000001.keys.npy"])
@pytest.mark.parametrize("size", [0, 10, 140, -1])
def test_a_file_that_was_cut_is_not_there_and_is_written_again_beside_it(shelf, name, size):
    path = shelf.folder / name
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    found = shelf.find(keys_of(1, 2, 3))
    assert found.known.tolist() == [True, False, True]
    shelf.add(keys_of(2), rows_of(2))
    np.testing.assert_array_equal(shelf.find(keys_of(1, 2, 3)).take(np.arange(3)), rows_of(1, 2, 3))


def test_rows_without_their_keys_do_not_count_and_are_cleared_away(shelf):
    (shelf.folder / "000001.keys.npy").unlink()  # a writer was killed between the two
    (shelf.folder / ".000002.rows.npy.77.tmp").touch()
    assert shelf.find(keys_of(1, 2)).known.tolist() == [True, False]
    shelf.clear()
    assert sorted(path.name for path in shelf.folder.iterdir()) == ["000000.keys.npy", "000000.rows.npy"]


def test_a_row_that_changed_on_the_disk_is_refused_by_the_name_of_its_file(shelf):
    path = shelf.folder / "000001.rows.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = shelf.find(keys_of(5, 4, 1))
    np.testing.assert_array_equal(found.take(np.array([0, 2])), rows_of(5, 1))
    with pytest.raises(Error, match=r"rows of .*000001\.keys\.npy are damaged: run again"):
        found.take(np.array([1]))


@pytest.mark.parametrize("name", ["000000.keys.npy", "000000.rows.npy"])
def test_whichever_bit_of_a_file_flips_its_rows_are_made_again_in_its_place(tmp_path, name):
    shelf = Shelf(tmp_path, np.dtype(np.float32))
    shelf.add(keys_of(1, 2), rows_of(1, 2))
    shelf.add(keys_of(3), rows_of(3))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    whole = (tmp_path / name).read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(content)
        found = shelf.find(keys_of(1, 2, 3))
        spoilt = shelf.clear(found.damaged())
        found = shelf.find(keys_of(1, 2, 3))
        if spoilt:  # else it is a bit that npy gives no meaning
            assert spoilt == 1
            assert found.known.tolist() == [False, False, True], "the other file is as it was"
            shelf.add(keys_of(1, 2), rows_of(1, 2))
            for path in tmp_path.glob("000002.*"):
                path.replace(path.with_name(path.name.replace("000002", "000000")))
            found = shelf.find(keys_of(1, 2, 3))
        np.testing.assert_array_equal(found.take(np.arange(3)), rows_of(1, 2, 3))
        (tmp_path / name).write_bytes(whole)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == size


def test_room_is_made_by_removing_what_was_not_used_for_longest(tmp_path):
    one, two = (Shelf(tmp_path / name, np.dtype(np.float32)) for name in "ab")
    for number in range(4):
        (one, two)[number % 2].add(keys_of(number), rows_of(number))
        path = sorted((one, two)[number % 2].folder.glob("*.keys.npy"))[-1]
        os.utime(path, (number, number))
    one.find(keys_of(0))  # used just now
    size = sum(path.stat().st_size for path in tmp_path.glob("*/0*.npy"))
    used = two.find(keys_of(1))
    os.utime(two.folder / "000000.keys.npy", (1, 1))
    make_room(tmp_path, 0, size, used)
    assert [shelf.find(keys_of(n)).known.all() for n, shelf in enumerate((one, two, one, two))] == [True] * 4
    os.utime(two.folder / "000000.keys.npy", (1, 1))  # the oldest, but needed
    os.utime(one.folder / "000001.keys.npy", (2, 2))
    make_room(tmp_path, 1, size, used)
    assert [shelf.find(keys_of(n)).known.all() for n, shelf in enumerate((one, two, one, two))] == [
        True,
        True,
        False,
        True,
    ]
    make_room(tmp_path, size, size, used)
    assert [path.parent.name for path in tmp_path.glob("*/*.keys.npy")] == ["b"]
