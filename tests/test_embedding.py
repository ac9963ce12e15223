"""Features of pictures: the numbers that the network's layers give, in tables that others' libraries read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from pictures import write_picture
from runs import SETTINGS, TINY, command, write_colours

import resnetv2
from resnetv2.embedding import run as running
from resnetv2.embedding.run import identify
from resnetv2.errors import ConfigError, DataError, Error, MissingExtra, ModelFileError
from resnetv2.inference import Classifier, read_model
from resnetv2.weights.modelfile import Golden, Header, ModelFile, read_model_file, write_model_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", train=4, val=2, test=4)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(data, out=out, set=TINY, **{**SETTINGS, "epochs": 1}).best


@pytest.fixture(scope="module")
def artefact(model):
    return resnetv2.export(model, to="onnx", out=model.with_name("model.onnx")).out


def read(path):
    """Return paths, features (NaN where there are none), errors and header of a table, by other libraries than ours."""
    if path.suffix == ".npz":
        with np.load(path) as table:
            arrays = {name: table[name] for name in table.files}
        return (
            arrays["paths"].tolist(),
            arrays["features"],
            arrays["errors"].tolist(),
            json.loads(str(arrays["header"])),
        )
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(path)
    rows = table["features"].to_pylist()
    width = table.schema.field("features").type.list_size
    features = np.array([[np.nan] * width if row is None else row for row in rows], np.float32)
    errors = [error or "" for error in table["error"].to_pylist()]
    return table["path"].to_pylist(), features, errors, json.loads(table.schema.metadata[b"resnetv2"])


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_the_rows_are_the_pooled_features_of_the_pictures_in_order(ending, model, data, tmp_path):
    result = resnetv2.embed(model, [data / "test", data / "val" / "red"], out=tmp_path / f"x.{ending}", device="cpu")
    paths, features, errors, header = read(result.out)
    expected = [*sorted((data / "test").rglob("*.png")), *sorted((data / "val" / "red").rglob("*.png"))]
    assert paths == list(map(str, expected))
    assert errors == [""] * 14
    assert (result.pictures, result.width, features.shape, features.dtype) == (14, 128, (14, 128), np.float32)
    classifier = resnetv2.load(model, device="cpu")
    ours = classifier.session.features(classifier.header.preprocessing.decode(expected))
    assert np.abs(features - ours).max() <= 1e-5 * np.abs(ours).max()  # float32 sums in another order in other batches
    head = read_model_file(model).weights
    logits = features @ head["head.fc.weight"].T + head["head.fc.bias"]
    theirs = classifier.logits(expected)
    assert np.abs(logits - theirs).max() <= 1e-5 * np.abs(theirs).max()  # likewise
    assert header == {
        "kind": "embeddings",
        "schema_version": 1,
        "model": {"name": str(model), "sha256": identify(read_model(model))},
        "layer": "pooled",
        "normalize": False,
        "preprocessing": classifier.header.preprocessing.to_dict(),
    }


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_picture_that_cannot_be_read_has_its_error_in_its_row_and_the_others_are_answered(
    ending, model, data, tmp_path
):
    bad, good = tmp_path / "bad.png", data / "test" / "red" / "000.png"
    bad.write_bytes(good.read_bytes()[:60])
    result = resnetv2.embed(
        model, [good, bad, tmp_path / "absent.png", good], out=tmp_path / "out" / f"x.{ending}", device="cpu"
    )
    paths, features, errors, _ = read(result.out)
    assert paths == list(map(str, [good, bad, tmp_path / "absent.png", good]))
    assert np.isnan(features).all(axis=1).tolist() == [False, True, True, False]
    assert np.array_equal(features[0], features[3])
    assert [one.path for one in result.unreadable] == [str(bad), str(tmp_path / "absent.png")]
    assert [error for error in errors if error] == [one.error for one in result.unreadable]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_table_of_unreadable_pictures_alone_and_of_paths_that_are_no_utf8_is_whole(ending, model, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    result = resnetv2.embed(model, [path], out=tmp_path / "out" / f"x.{ending}", device="cpu")
    paths, features, errors, _ = read(result.out)
    assert paths == [f"{tmp_path}/caf\\udce9.png"]
    assert np.isnan(features).all()
    assert "No such file" in errors[0]


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize("layer", ["stage1", "stage3", "stage4"])
def test_of_a_map_the_mean_over_its_places_is_taken(runtime, layer, model, data, tmp_path):
    result = resnetv2.embed(model, [data / "test"], out=tmp_path / "x.npz", layer=layer, runtime=runtime, device="cpu")
    classifier = resnetv2.load(model, device="cpu", runtime="torch")
    pixels = classifier.header.preprocessing.decode(sorted((data / "test").rglob("*.png")))
    expected = classifier.session.features(pixels, layer).mean(axis=(2, 3))
    got = read(result.out)[1]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()  # runtimes sum float32 in other orders


def test_normalized_rows_have_length_one_and_the_same_direction(model, data, tmp_path):
    plain = read(resnetv2.embed(model, [data / "test"], out=tmp_path / "a.npz", device="cpu").out)[1]
    result = resnetv2.embed(model, [data / "test"], out=tmp_path / "b.npz", normalize=True, device="cpu")
    rows = read(result.out)[1]
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() <= 1e-6  # float32's rounding of 128 squares
    np.testing.assert_allclose(rows, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)


def test_features_that_are_all_zero_stay_zero_when_they_are_normalized(model):
    classifier = Classifier(resnetv2.load(model, device="cpu").header, Still())
    assert not classifier.features(np.zeros((2, 32, 32, 3), np.uint8), normalize=True).any()


class Still:
    """A session that sees nothing, and has memory for ``most`` pictures."""

    runtime = "still"

    def __init__(self, most=1000):
        self.most, self.sizes = most, []

    def features(self, pictures, layer):
        self.sizes.append(len(pictures))
        if len(pictures) > self.most:
            raise MemoryError("Cannot allocate memory")
        return np.zeros((len(pictures), 5), np.float32)


def test_a_batch_that_does_not_fit_into_memory_is_halved(model, data):
    session = Still(most=3)
    classifier = Classifier(resnetv2.load(model, device="cpu").header, session)
    rows = list(classifier.embed(sorted((data / "test").rglob("*.png"))))
    assert [row.features.shape for row in rows] == [(5,)] * 12
    assert session.sizes[:3] == [12, 6, 3]


def test_an_artefact_gives_the_features_of_its_model_without_torch(artefact, model, data, tmp_path):
    code = (
        "import sys, resnetv2; sys.modules['torch'] = None;"
        f"resnetv2.embed({str(artefact)!r}, [{str(data / 'test')!r}], out={str(tmp_path / 'a.npz')!r}, layer='stage2')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    _, features, _, header = read(tmp_path / "a.npz")
    result = resnetv2.embed(model, [data / "test"], out=tmp_path / "b.npz", layer="stage2", device="cpu")
    expected = read(result.out)[1]
    assert np.abs(features - expected).max() <= 1e-5 * np.abs(expected).max()  # runtimes sum float32 in other orders
    assert header["model"] == {"name": str(artefact), "sha256": identify(read_model(artefact))}


def test_the_identity_is_of_what_decides_features_and_of_nothing_else(model, artefact, tmp_path):
    file = read_model_file(model)
    told = Header(**{**vars(file.header), "metrics": {"top1": 1}, "classes": ("a", "b", "c")})
    bare = ModelFile(told, file.weights, Golden((), np.zeros((0, 3), np.float32)))
    write_model_file(tmp_path / "told.safetensors", bare)
    assert identify(read_model(tmp_path / "told.safetensors")) == identify(file)
    changed = {**file.weights, "norm.bias": file.weights["norm.bias"] + np.float32(1e-6)}
    assert identify(ModelFile(file.header, changed, file.golden)) != identify(file)
    assert len(identify(read_model(artefact))) == 64


def test_the_same_pictures_give_the_same_bytes(model, data, tmp_path):
    for ending in ("npz", "parquet"):
        files = [resnetv2.embed(model, [data], out=tmp_path / f"{n}.{ending}", device="cpu").out for n in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_many_pictures_are_written_in_parts_and_progress_is_told(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_ROWS", 5)
    told = []
    for ending in ("npz", "parquet"):
        resnetv2.embed(
            model, [data / "test"], out=tmp_path / f"x.{ending}", device="cpu", progress=lambda *n: told.append(n)
        )
    assert told == 2 * [(n, 12) for n in range(1, 13)]
    np.testing.assert_array_equal(read(tmp_path / "x.npz")[1], read(tmp_path / "x.parquet")[1])


def test_what_cannot_be_is_refused_and_leaves_no_file(model, data, tmp_path, monkeypatch):
    out = tmp_path / "x.npz"
    with pytest.raises(ConfigError, match=r"features are written as \.parquet, \.npz, \.index, got x\.csv"):
        resnetv2.embed(model, [data], out="x.csv")
    with pytest.raises(ConfigError, match="no layer 'stage9' here: choose from pooled, stage1"):
        resnetv2.embed(model, [data], out=out, layer="stage9", device="cpu")
    with pytest.raises(ModelFileError, match="no such file"):
        resnetv2.embed(tmp_path / "no.safetensors", [data], out=out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in"):
        resnetv2.embed(model, [tmp_path / "empty"], out=out)
    file = read_model_file(model)
    spoilt = {**file.weights, "norm.bias": np.full_like(file.weights["norm.bias"], np.inf)}
    write_model_file(tmp_path / "spoilt.safetensors", ModelFile(file.header, spoilt, file.golden))
    with pytest.raises(ModelFileError, match="NaN or infinity"):
        resnetv2.embed(tmp_path / "spoilt.safetensors", [data], out=out, device="cpu")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'pip install "resnetv2\[parquet\]"'):
        resnetv2.embed(model, [data], out=tmp_path / "x.parquet", device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "spoilt.safetensors"]
    out.write_bytes(b"theirs")
    with pytest.raises(Error, match="exists: choose another --out"):
        resnetv2.embed(model, [data], out=out)
    assert out.read_bytes() == b"theirs"


def test_a_table_is_not_written_among_the_pictures_by_whatever_way_they_are_reached(model, data, tmp_path):
    folder, picture = data / "test" / "red", data / "test" / "red" / "000.png"
    (tmp_path / "folder").symlink_to(folder)
    (tmp_path / "picture.png").symlink_to(picture)
    for asked, out in (
        (picture, folder / "x.npz"),
        (tmp_path / "folder" / "000.png", folder / "x.npz"),
        (picture, tmp_path / "folder" / "x.npz"),
        (tmp_path / "picture.png", folder / "x.npz"),
    ):
        with pytest.raises(ConfigError, match=r"lies among the pictures, which are only read"):
            resnetv2.embed(model, [asked], out=out, device="cpu")
        assert not (folder / "x.npz").exists()


def test_embed_from_the_shell_lists_unreadable_pictures_and_exits_with_2_for_them(model, data, tmp_path):
    done = command("embed", model, data / "test", "--out", tmp_path / "x.npz")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'x.npz'}: 12 pictures, 128 features each\n")
    bad = write_picture(tmp_path / "bad" / "bad\nname.png")
    bad.write_bytes(b"")
    done = command("embed", model, bad, data / "test", "--out", tmp_path / "y.npz", "--normalize", "--layer", "stage2")
    assert done.returncode == 2
    assert done.stdout.splitlines()[1] == f"{tmp_path}/bad/bad\\nname.png: error: the file is empty"
    done = command("embed", model, bad, "--out", tmp_path / "z.npz", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["errors"] == [{"path": str(bad), "error": "the file is empty"}]


def test_features_are_not_written_into_a_folder_of_pictures(model, data):
    with pytest.raises(ConfigError, match="which is only read"):
        resnetv2.embed(model, [data / "test"], out=data / "test" / "x.npz", device="cpu")
    assert not (data / "test" / "x.npz").exists()
