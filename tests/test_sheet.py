"""The page of a check: everything in it, nothing that runs, whatever files and classes are called."""

import html.parser
import re
import shutil

import pytest
from pictures import noise, write_picture
from PIL import Image

import resnetv2

NASTY = ["<script>alert(1)", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "'; --", "&amp;", "\u202egnp.exe"]


class Page(html.parser.HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for c, label in enumerate(["cat", "dog"]):
        for i in range(30):
            write_picture(root / "train" / label / f"{i}.png", noise(40, 40, 100 * c + i))
            write_picture(root / "val" / label / f"{i}.png", noise(40, 40, 300 + 100 * c + i))
    return root


def page_of(data, tmp_path, **options):
    path = tmp_path / "page.html"
    resnetv2.check(data, html=path, **options)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_sound_data_says_so(data, tmp_path):
    text, page = page_of(data, tmp_path)
    assert "Nothing to mend." in text
    assert "img" not in page.tags


def test_names_of_files_and_classes_are_text_and_never_markup(data, tmp_path):
    for i, name in enumerate(NASTY):
        for j in range(2):
            write_picture(
                data / "train" / name.replace("/", "") / f"{name.replace('/', '')}{j}.png", noise(40, 40, 1900 + i)
            )
    text, page = page_of(data, tmp_path)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 2 * len(NASTY)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    words = "".join(page.words)
    for name in NASTY[:5]:
        assert name in words
    assert "49" not in re.findall(r"\b49\b", words)
    assert "\u202e" not in text
    assert "\\u202egnp.exe" in words


def test_nothing_is_fetched_and_nothing_may_run(data, tmp_path):
    (data / "train" / "cat" / "0.png").write_bytes(b"")
    text, page = page_of(data, tmp_path)
    assert not re.search(r"(https?:)?//\w", text)
    assert set(page.tags) & {"script", "iframe", "object", "embed", "form", "link"} == set()
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")


def test_a_finding_shows_so_many_pictures_and_counts_the_rest(data, tmp_path):
    for i in range(30):
        write_picture(data / "train" / "cat" / f"blank{i}.png", Image.new("RGB", (40, 40), (i, 0, 0)))
    text, page = page_of(data, tmp_path)
    assert page.tags.count("img") == 24
    assert "… and 6 more" in text


def test_a_group_is_shown_whole_or_not_at_all(data, tmp_path):
    for i in range(7):
        for j in range(5):
            write_picture(data / "train" / "cat" / f"copy{i}-{j}.png", noise(40, 40, 1500 + i))
    text, page = page_of(data, tmp_path)
    assert page.tags.count("img") == 20  # four groups of five; a fifth would pass 24
    assert "… and 15 more" in text


def test_a_group_larger_than_the_sheet_is_shown_in_part(data, tmp_path):
    for j in range(40):
        write_picture(data / "train" / "cat" / f"copy{j}.png", noise(40, 40, 1500))
    text, page = page_of(data, tmp_path)
    assert page.tags.count("img") == 24
    assert "… and 16 more" in text


def test_what_has_no_picture_is_listed_with_its_reason(data, tmp_path):
    (data / "train" / "cat" / "0.png").write_bytes(b"")
    text, page = page_of(data, tmp_path)
    assert "the file is empty" in "".join(page.words)
    assert "It needs mending." in text
    text, _ = page_of(data, tmp_path, on_bad_image="skip")
    assert "It can be trained on." in text


def test_packed_pictures_have_the_thumbnails_of_their_files(data, tmp_path):
    shutil.copy(data / "train" / "cat" / "3.png", data / "val" / "cat" / "copy.png")
    shutil.copy(data / "train" / "cat" / "4.png", data / "train" / "dog" / "copy.png")
    _, page = page_of(data, tmp_path)
    _, packed = page_of(resnetv2.pack(data, tmp_path / "packed").out, tmp_path)
    thumbnails = [[v for k, v in p.attributes if k == "src"] for p in (page, packed)]
    assert len(thumbnails[0]) == 4
    assert all(address.startswith("data:image/jpeg;base64,") for address in thumbnails[0])
    assert thumbnails[0] == thumbnails[1]


def test_a_name_that_is_no_utf8_is_written_escaped(data, tmp_path):
    import os

    for label in (b"cat", b"dog"):
        with open(os.fsencode(data / "train") + b"/" + label + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123  a name of bytes
            file.write((data / "train" / "cat" / "1.png").read_bytes())
    text, _ = page_of(data, tmp_path)
    assert "caf\\udce9.png" in text


def test_pictures_of_extreme_shapes_have_thumbnails(data, tmp_path):
    write_picture(data / "train" / "cat" / "line.png", noise(9000, 1))
    write_picture(data / "train" / "cat" / "dot.png", noise(1, 1))
    _, page = page_of(data, tmp_path)
    assert page.tags.count("img") == 4  # tiny: both; narrow: the line; blank: the dot
