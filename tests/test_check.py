import re

import pytest
from pictures import encode, noise, write_picture

from resnetv2.data.check import check_pictures
from resnetv2.errors import DataError


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 133])
def test_good_pictures_pass_and_are_counted_after_every_64(tmp_path, count):
    picture = write_picture(tmp_path / "x.png")
    seen = []
    check_pictures([picture] * count, lambda done, total: seen.append((done, total)))
    assert seen == [(done, count) for done in [*range(64, count, 64), count]]


def test_no_pictures_pass():
    check_pictures([])


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_every_bad_picture_is_named_with_its_reason_in_order(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("resnetv2.data.check._AT_ONCE", at_once)
    jpeg = encode(noise(100, 100), "JPEG")
    contents = {
        "truncated.jpg": jpeg[:5000],
        "empty.png": b"",
        "text.gif": b"hello",
        "ppm.png": encode(noise(4, 4), "PPM"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    good = [write_picture(tmp_path / f"{i}.png") for i in range(3)]
    paths = [good[0], *(tmp_path / name for name in contents), good[1], tmp_path / "gone.png", good[2]]
    counted = []
    with pytest.raises(DataError) as caught:
        check_pictures(paths, lambda done, _: counted.append(done))
    first, *lines = str(caught.value).splitlines()
    assert first == "5 of 8 pictures cannot be read:"
    reasons = ["damaged picture: ", "the file is empty", "not a picture in", "not a picture in", "No such file"]
    for line, name, reason in zip(lines, [*contents, "gone.png"], reasons, strict=True):
        assert line.startswith(f"  {tmp_path / name}: {reason}")
    assert counted == [*range(at_once, 8, at_once), 8]  # all were looked at


@pytest.mark.parametrize("count", [20, 21, 45])
def test_beyond_twenty_bad_pictures_are_counted(tmp_path, count):
    paths = [tmp_path / f"{i:02}.png" for i in range(count)]
    for path in paths:
        path.touch()
    with pytest.raises(DataError) as caught:
        check_pictures([write_picture(tmp_path / "good.png"), *paths])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{count} of {count + 1} pictures cannot be read:"
    assert [re.search(r"(\d\d)\.png: the file is empty$", line)[1] for line in lines[1:21]] == [
        f"{i:02}" for i in range(20)
    ]
    assert lines[21:] == ([f"  … and {count - 20} more"] if count > 20 else [])
