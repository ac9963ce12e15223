"""Indexes of pictures: what is found is what is most similar, and only the model that made an index may ask it."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from runs import SETTINGS, TINY, command, write_colours

import resnetv2
from resnetv2.embedding.index import read_index
from resnetv2.errors import ConfigError, DataError, Error, MissingExtra, ModelFileError
from resnetv2.weights.modelfile import Header, ModelFile, read_model_file, write_model_file
from resnetv2.weights.sealed import read_sealed, write_sealed

if find_spec("usearch") is None:
    pytest.skip("usearch is not installed", allow_module_level=True)

F16 = 2e-3  # features in an index are float16: 2^-11 of each, and of the cosine about as much


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", train=12, val=4, test=4)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(data, out=out, set=TINY, **SETTINGS).best


@pytest.fixture(scope="module")
def index(data, model):
    return resnetv2.embed(model, [data / "train"], out=model.with_name("train.index"), device="cpu").out


def test_what_is_found_is_what_has_the_largest_cosine_in_its_order(index, model, data):
    classifier = resnetv2.load(model, device="cpu")
    paths = sorted((data / "train").rglob("*.png"))
    rows = classifier.features(classifier.header.preprocessing.decode(paths), normalize=True)
    for name in ("red/000.png", "green/001.png", "blue/002.png"):
        asked = classifier.header.preprocessing.decode([data / "test" / name])
        cosines = rows @ classifier.features(asked, normalize=True)[0]
        found = resnetv2.search(index, data / "test" / name, top=5, device="cpu")
        assert [match.similarity for match in found] == pytest.approx(np.sort(cosines)[::-1][:5], abs=F16)
        assert [match.similarity for match in found] == sorted((m.similarity for m in found), reverse=True)
        for match in found:
            assert match.similarity == pytest.approx(cosines[[str(p) for p in paths].index(match.path)], abs=F16)


def test_a_picture_finds_itself_first_whatever_runtime_asks(index, data):
    for runtime in ("onnx", "torch"):
        picture = data / "train" / "green" / "007.png"
        first = resnetv2.search(index, picture, top=1, runtime=runtime, device="cpu")[0]
        assert (first.path, first.similarity) == (str(picture), pytest.approx(1, abs=F16))


def test_no_more_is_found_than_there_is_and_unreadable_pictures_are_not_in_an_index(model, data, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    pictures = [tmp_path / "bad.png", data / "test" / "red" / "000.png", data / "test" / "blue" / "000.png"]
    result = resnetv2.embed(model, pictures, out=tmp_path / "out" / "x.index", device="cpu")
    assert [one.path for one in result.unreadable] == [str(tmp_path / "bad.png")]
    found = resnetv2.search(result.out, pictures[2], top=99, device="cpu")
    assert [match.path for match in found] == [str(pictures[2]), str(pictures[1])]
    empty = resnetv2.embed(model, pictures[:1], out=tmp_path / "out" / "empty.index", device="cpu").out
    assert resnetv2.search(empty, pictures[1], device="cpu") == []


def test_an_index_of_another_layer_is_asked_by_that_layer(model, data, tmp_path):
    out = resnetv2.embed(model, [data / "test"], out=tmp_path / "x.index", layer="stage2", device="cpu").out
    assert read_index(out).graph.ndim == 32
    picture = data / "test" / "red" / "002.png"
    assert resnetv2.search(out, picture, top=1, device="cpu")[0].path == str(picture)


def test_a_page_is_not_written_over_or_among_what_is_only_read(model, data, tmp_path):
    picture = data / "test" / "red" / "000.png"
    asked = shutil.copy(picture, tmp_path / "asked.png")
    out = resnetv2.embed(model, [data / "test"], out=tmp_path / "x.index", device="cpu").out
    (tmp_path / "link.html").symlink_to(picture)
    before = {path: path.read_bytes() for folder in (data, tmp_path) for path in folder.rglob("*.*")}
    for page in (asked, out, picture, tmp_path / "link.html"):
        with pytest.raises(ConfigError, match=r"is no page of resnetv2|a page ends in \.html"):
            resnetv2.search(out, asked, html=page, device="cpu")
    shutil.copy(out, tmp_path / "index.html")
    with pytest.raises(ConfigError, match="is no page of resnetv2"):
        resnetv2.search(tmp_path / "index.html", asked, html=tmp_path / "index.html", device="cpu")
    (tmp_path / "index.html").unlink()
    with pytest.raises(ConfigError, match="lies among the pictures of the index"):
        resnetv2.search(out, asked, html=picture.with_name("page.html"), device="cpu")
    assert before == {path: path.read_bytes() for folder in (data, tmp_path) for path in folder.rglob("*.*")}
    for _ in range(2):  # a page of ours gives way
        resnetv2.search(out, asked, html=tmp_path / "page.html", device="cpu")
    assert (tmp_path / "page.html").is_file()


def test_the_same_pictures_give_the_same_index(index, model, data, tmp_path):
    again = resnetv2.embed(model, [data / "train"], out=tmp_path / "again.index", device="cpu").out
    assert again.read_bytes() == index.read_bytes()


def test_the_model_may_move_and_be_told_but_another_one_is_refused(index, model, data, tmp_path):
    picture = data / "test" / "red" / "000.png"
    moved = tmp_path / "moved.safetensors"
    out = resnetv2.embed(shutil.copy(model, moved), [picture], out=tmp_path / "x.index", device="cpu").out
    moved.unlink()
    with pytest.raises(ModelFileError, match=r"made by a model that is not where it was: no such file.*Say --model"):
        resnetv2.search(out, picture, device="cpu")
    assert resnetv2.search(out, picture, model=model, device="cpu")[0].path == str(picture)
    file = read_model_file(model)
    told = Header(**{**vars(file.header), "metrics": {}})  # figures do not make another model
    write_model_file(moved, ModelFile(told, file.weights, file.golden))
    assert resnetv2.search(out, picture, device="cpu")[0].path == str(picture)
    changed = {**file.weights, "norm.bias": file.weights["norm.bias"] + np.float32(1e-3)}
    write_model_file(moved, ModelFile(file.header, changed, file.golden))
    with pytest.raises(ModelFileError, match=r"was made by another model than .*: its SHA-256 is"):
        resnetv2.search(out, picture, device="cpu")
    with pytest.raises(ModelFileError, match="no such file"):
        resnetv2.search(index, picture, model=tmp_path / "no.safetensors")


def rewrite(source, path, tensors=None, **told):
    """Write an index that is whole in itself and says something else."""
    header, old = read_sealed(source)
    write_sealed(path, {**header, **told}, {**old, **(tensors or {})})
    return path


def test_files_that_are_no_index_are_told_from_damaged_and_newer_ones(index, model, data, tmp_path):
    picture = data / "test" / "red" / "000.png"
    path = tmp_path / "x.index"
    short = np.frombuffer(b'["a.png"]', np.uint8)
    cases = {
        "is no index but a 'model'": lambda: shutil.copy(model, path),
        "has schema version 2 and this resnetv2 reads up to 1": lambda: rewrite(index, path, schema_version=2),
        "schema version None": lambda: rewrite(index, path, schema_version=None),
        "is damaged: wrong or absent: layer": lambda: rewrite(index, path, layer=5),
        "36 × 128 features, expected 1 × 128": lambda: rewrite(index, path, {"paths": short}),
        "36 × 128 features, expected 36 × 5": lambda: rewrite(index, path, width=5),
        "no readable model file": lambda: path.write_bytes(index.read_bytes()[:500]),
        "changed after it was written": lambda: path.write_bytes(index.read_bytes()[:-1] + b"\xff"),
    }
    for words, make in cases.items():
        make()
        with pytest.raises(ModelFileError, match=words):
            resnetv2.search(path, picture, device="cpu")
    with pytest.raises(ModelFileError, match="no such file"):
        resnetv2.search(tmp_path / "no.index", picture)


def test_what_cannot_be_asked_is_refused(index, data, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="top must be at least 1, got 0"):
        resnetv2.search(index, data / "test" / "red" / "000.png", top=0)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot read .*bad\.png: not a picture"):
        resnetv2.search(index, tmp_path / "bad.png", device="cpu")
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtra, match=r'pip install "resnetv2\[search\]"'):
        resnetv2.search(index, data / "test" / "red" / "000.png", device="cpu")


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_every_runtime_still_loads_after_an_index_was_written(runtime, model, data, tmp_path):
    code = (
        f"import resnetv2; resnetv2.embed({str(model)!r}, [{str(data / 'test')!r}], out={str(tmp_path / 'x.index')!r}, "
        f"runtime={runtime!r}); resnetv2.load({str(model)!r}, runtime='onnx')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # usearch before onnxruntime was a segmentation fault


def test_a_write_that_fails_leaves_no_index(model, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtra):
        resnetv2.embed(model, [data / "test"], out=tmp_path / "x.index", device="cpu")
    assert not list(tmp_path.iterdir())


def test_the_page_shows_what_was_found_and_fetches_nothing(model, data, tmp_path):
    folder = shutil.copytree(data / "test" / "red", tmp_path / "<b>red")
    out = resnetv2.embed(model, [folder], out=tmp_path / "x.index", device="cpu").out
    (folder / "003.png").unlink()
    page = tmp_path / "page.html"
    resnetv2.search(out, folder / "001.png", html=page, device="cpu")
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 4  # the picture, and those three that are still there
    assert text.count("no longer there") == 1
    assert "<b>red" not in text
    assert "&lt;b&gt;red" in text
    assert "http" not in text.replace("http-equiv", "")
    with pytest.raises(Error, match="cannot write"):
        resnetv2.search(out, folder / "001.png", html=folder / "000.png" / "page.html", device="cpu")


def test_search_from_the_shell(index, data, tmp_path):
    picture = data / "train" / "blue" / "003.png"
    done = command("search", index, picture, "--top", "2", "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if ".png" in line]
    assert rows[0] == ["1.000", str(picture)]
    assert len(rows) == 2
    assert (tmp_path / "page.html").exists()
    lines = command("search", index, picture, "--json").stdout.splitlines()
    assert len(lines) == 10
    assert set(json.loads(lines[0])) == {"path", "similarity"}
    done = command("search", index, tmp_path / "no.png")
    assert done.returncode == 2
    assert "cannot read" in done.stderr
