"""Folders for timm and transformers: loaded by the real libraries, they answer as the model file does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from peers import import_timm, randomise
from pictures import noise, write_picture
from runs import SETTINGS, TINY, write_colours
from servers import COMMIT, serving

import resnetv2
from resnetv2.config import ResNetV2Config, architecture
from resnetv2.errors import ConvertError, DownloadError, Error, ModelFileError
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.repository import timm as timms
from resnetv2.runtime.pytorch import model_file
from resnetv2.weights.catalogue import card
from resnetv2.weights.golden import golden_pictures
from resnetv2.weights.labels import class_names
from resnetv2.weights.modelfile import Header, read_header, write_model_file

FLOAT32 = 1e-5  # of the largest logit: other orders of float32 sums
CLASSES = ("cat", "dog", "große Kuh")
PIXELS = Preprocessing(image_size=64, resize=75, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
BIT = {"dialect": "bit", "depths": (1, 1, 2, 1), "width_factor": 0.5, "weight_std_eps": 1e-8}


def write(path, config, pixels=PIXELS, classes=CLASSES, **told):
    """Write a model file with random weights, and return its path."""
    model = randomise(ResNetV2(config))
    header = Header(architecture=config, preprocessing=pixels, classes=classes[: config.num_classes], **told)
    file = model_file(model.eval(), header, golden_pictures(pixels.image_size), torch.device("cpu"))
    write_model_file(path, file)
    return path


@pytest.fixture
def picture(tmp_path):
    return write_picture(tmp_path / "pictures" / "x.png", noise(110, 93).resize((330, 280)))


def by_timm(folder, picture):
    """Return what timm answers to a picture file in float64, and the pixels it gives its network, in 0 … 255."""
    timm = import_timm()
    from PIL import Image

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().double()
    data = timm.data.resolve_model_data_config(model)
    x = timm.data.create_transform(**data, is_training=False)(Image.open(picture).convert("RGB"))[None]
    mean, std = (np.array(data[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        return model(x.double()).numpy(), 255 * (x[0].numpy() * std + mean)


NETWORKS = {
    "resnetv2_18": architecture("resnet18v2", num_classes=3),
    "resnetv2_50": architecture("resnet50v2", num_classes=3),
    "resnetv2_50d": architecture("resnet50v2d", num_classes=3),
    "resnetv2_50d_gn": architecture("resnet50v2d", num_classes=3, norm="group"),
    "resnetv2_50d_evos": architecture("resnet50v2d", num_classes=3, norm="evonorm"),
    "resnetv2_50x1_bit": architecture("resnet50v2", "bit", num_classes=3, weight_std_eps=1e-8),  # timm's
    "narrow and of other depths": architecture("resnet50v2", num_classes=3, depths=(1, 2, 1, 1), width_factor=0.25),
    "narrow, basic, deep": architecture("resnet18v2d", num_classes=3, width_factor=0.5),
    "three stages": ResNetV2Config(num_classes=3, depths=(1, 1, 1), stage_strides=(1, 2, 2), width_factor=0.25),
    "without a head": architecture("resnet18v2", num_classes=0, width_factor=0.25),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_timm_loads_the_folder_and_answers_the_same_from_the_picture_file_on(name, picture, tmp_path):
    model = write(tmp_path / "model.safetensors", NETWORKS[name])
    folder = resnetv2.save_pretrained(model, tmp_path / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if name.startswith("resnetv2"):
        assert (config["architecture"], "model_args" in config) == (name, False)
    logits, pixels = by_timm(folder, picture)
    classifier = resnetv2.load(model, device="cpu", runtime="torch")
    ours = classifier.header.preprocessing.decode([picture])
    assert np.abs(pixels - ours[0].transpose(2, 0, 1)).max() <= 1e-4  # both are Pillow's; float32 there and back
    with torch.no_grad():  # in float64: rounding of BiT's standardised kernels alone is 2e-5 in float32
        expected = classifier.session.model.double()(
            classifier.session.normalize(torch.from_numpy(ours)).double()
        ).numpy()
    assert np.abs(logits - expected).max() <= FLOAT32 * np.abs(expected).max()  # of pixels that are float32


@pytest.mark.parametrize("resize", [64, 65, 70, 73, 75, 83, 91, 224])
@pytest.mark.parametrize("fit", ["shortest", "squash"])
def test_timm_prepares_pictures_alike_at_every_size(resize, fit, picture, tmp_path):
    pixels = Preprocessing(image_size=64, resize=resize, fit=fit, interpolation="bilinear")
    config = architecture("resnet18v2", num_classes=3, width_factor=0.25)
    folder = resnetv2.save_pretrained(write(tmp_path / "model.safetensors", config, pixels), tmp_path / "folder")
    theirs = by_timm(folder, picture)[1]
    assert np.abs(theirs - pixels.decode([picture])[0].transpose(2, 0, 1)).max() <= 1e-4  # as above


def test_crop_pct_comes_back_to_every_size_by_timms_rule():
    for size in (32, 224, 299, 448):
        for resize in range(size, size + 200):
            pixels = Preprocessing(image_size=size, resize=resize)
            header = Header(
                architecture=architecture("resnet50v2", num_classes=3), preprocessing=pixels, classes=CLASSES
            )
            assert timms.read_preprocessing(timms.write_config(header)) == pixels


def huggingface():
    import_timm()  # transformers imports torchvision, too
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.peers
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_transformers_loads_the_folder_and_answers_the_same(task, picture, tmp_path):
    transformers = huggingface()
    from PIL import Image

    config = architecture("resnet50v2", num_classes=3, **BIT)
    pixels = Preprocessing(image_size=64, resize=76, interpolation="bilinear", crop_offset="floor")
    model = write(tmp_path / "model.safetensors", config, pixels, task=task)
    folder = resnetv2.save_pretrained(model, tmp_path / "folder", to="transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "BitForImageClassification"
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    seen = processor(Image.open(picture), return_tensors="pt")["pixel_values"]
    classifier = resnetv2.load(model, device="cpu", runtime="torch")
    ours = classifier.header.preprocessing.decode([picture])
    back = seen[0].numpy() * 127.5 + 127.5
    assert (
        np.abs(back - ours[0].transpose(2, 0, 1)).max() <= 1.01
    )  # torchvision's resize rounds otherwise than Pillow's
    x = (torch.from_numpy(ours).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.no_grad():
        logits = theirs(x).logits.numpy()
    expected = classifier.session(ours)
    assert np.abs(logits - expected).max() <= FLOAT32 * np.abs(expected).max()


@pytest.mark.peers
def test_transformers_loads_timms_folder_through_its_wrapper_with_the_class_names(picture, tmp_path):
    transformers = huggingface()
    from PIL import Image

    config = architecture("resnet50v2", num_classes=3, depths=(1, 2, 1, 1), width_factor=0.25)
    model = write(tmp_path / "model.safetensors", config)
    folder = resnetv2.save_pretrained(model, tmp_path / "folder")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = theirs(**processor(Image.open(picture).convert("RGB"), return_tensors="pt")).logits.numpy()
    expected = resnetv2.load(model, device="cpu", runtime="torch").logits([picture])
    assert np.abs(logits - expected).max() <= FLOAT32 * np.abs(expected).max()


@pytest.mark.peers
def test_what_transformers_wrote_is_loaded(picture, tmp_path):
    transformers = huggingface()
    sizes = {"embedding_size": 32, "hidden_sizes": [128, 256, 512, 1024], "depths": [1, 1, 2, 1]}
    config = transformers.BitConfig(**sizes, id2label=dict(enumerate(CLASSES)))
    theirs = randomise(transformers.BitForImageClassification(config)).eval()
    theirs.save_pretrained(tmp_path / "folder")
    transformers.BitImageProcessor(size={"shortest_edge": 76}, crop_size={"height": 64, "width": 64}).save_pretrained(
        tmp_path / "folder"
    )
    classifier = resnetv2.from_pretrained(tmp_path / "folder", device="cpu", runtime="torch")
    assert classifier.classes == CLASSES
    pixels = classifier.header.preprocessing
    assert (pixels.image_size, pixels.resize, pixels.interpolation) == (64, 76, "bicubic")
    ours = pixels.decode([picture])
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (pixels.mean, pixels.std))
    with torch.no_grad():
        logits = theirs((torch.from_numpy(ours).permute(0, 3, 1, 2).float() - mean) / std).logits.numpy()
    assert np.abs(classifier.session(ours) - logits).max() <= FLOAT32 * np.abs(logits).max()


def test_what_timm_wrote_is_loaded_with_its_preprocessing_and_class_names(picture, tmp_path):
    timm = import_timm()
    theirs = randomise(timm.create_model("resnetv2_18", num_classes=3)).eval()
    config = {"label_names": list(CLASSES), "num_classes": 3}
    timm.models.save_for_hf(theirs, str(tmp_path / "folder"), model_config=config, safe_serialization="both")
    (tmp_path / "folder" / "pytorch_model.bin").unlink()
    classifier = resnetv2.from_pretrained(tmp_path / "folder", device="cpu", runtime="onnx")
    assert classifier.classes == CLASSES
    logits, _ = by_timm(tmp_path / "folder", picture)
    expected = classifier.logits([picture])
    assert np.abs(logits - expected).max() <= FLOAT32 * np.abs(expected).max()


@pytest.mark.parametrize("nested", [True, False])  # False: as older configs are
def test_timms_published_config_gives_the_catalogues_preprocessing_and_imagenets_names(nested, tmp_path):
    config = architecture("resnet18v2", width_factor=0.25)
    model = write(tmp_path / "model.safetensors", config, classes=tuple(map(str, range(1000))))
    folder = resnetv2.save_pretrained(model, tmp_path / "folder")
    pixels = {  # of timm/resnetv2_50.a1h_in1k
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "crop_mode": "center",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
    }
    told = {"architecture": "resnetv2_18", "num_classes": 1000, "num_features": 128, "global_pool": "avg"}
    (folder / "config.json").write_text(json.dumps({**told, **({"pretrained_cfg": pixels} if nested else pixels)}))
    header = resnetv2.from_pretrained(folder, device="cpu").header
    assert header.classes == class_names("in1k")
    assert header.preprocessing == card("resnet50v2.a1h_in1k").preprocessing


@pytest.mark.parametrize("to", ["timm", "transformers"])
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_folder_brings_back_all_that_the_model_file_says(to, task, picture, tmp_path):
    told = {"task": task, "provenance": {"licence": "CC0-1.0"}, "metrics": {"top1": {"value": 0.5, "n": 6}}}
    config = architecture("resnet50v2", num_classes=1 if task == "regression" else 3, **BIT)
    config = (
        config
        if to == "transformers"
        else architecture("resnet18v2", num_classes=config.num_classes, width_factor=0.25)
    )
    model = write(tmp_path / "model.safetensors", config, **told)
    folder = resnetv2.save_pretrained(model, tmp_path / "folder", to=to, repo="me/network")
    classifier = resnetv2.from_pretrained(folder, device="cpu", runtime="torch")
    assert classifier.header == read_header(model)
    expected = resnetv2.load(model, device="cpu", runtime="torch").logits([picture])
    assert np.array_equal(classifier.logits([picture]), expected)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "licence: CC0-1.0" in card
    assert f'library_name: "{to}"' in card
    assert "me/network" in card


def test_a_trained_network_goes_through_a_folder_without_torch(tmp_path):
    data = write_colours(tmp_path / "data", train=4, val=2, test=2)
    model = resnetv2.train(data, out=tmp_path / "run", set=TINY, **{**SETTINGS, "epochs": 1}).best
    code = (
        "import sys, resnetv2; sys.modules['torch'] = None;"
        f"resnetv2.save_pretrained({str(model)!r}, {str(tmp_path / 'folder')!r});"
        f"print([a.label for a in resnetv2.from_pretrained({str(tmp_path / 'folder')!r}, runtime='onnx')"
        f".predict({[str(path) for path in sorted((data / 'test').rglob('*.png'))]!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(
        [answer.label for answer in resnetv2.predict(model, [data / "test"], device="cpu")]
    )


REFUSED = {
    "stem is '3x3'": ("timm", architecture("resnet18v2", num_classes=3, stem="3x3", width_factor=0.25), PIXELS),
    "stem_pool is 'zero' instead of 'ignore'": ("timm", architecture("resnet50v2", "keras", num_classes=3), PIXELS),
    "no BiT of depths": ("timm", architecture("resnet50v2", num_classes=3, **BIT), PIXELS),
    "multiples of 8, and the stem has 4": (
        "timm",
        architecture("resnet18v2", num_classes=3, width_factor=1 / 16),
        PIXELS,
    ),
    "fit 'square', central_fraction 0.875, sampling 'half_pixel'": (
        "timm",
        architecture("resnet18v2", num_classes=3, width_factor=0.25),
        Preprocessing(image_size=64, resize=64, fit="square", central_fraction=0.875, sampling="half_pixel"),
    ),
    "norm is 'batch' instead of 'group'": ("transformers", architecture("resnet50v2", num_classes=3), PIXELS),
    "this network has none": ("transformers", architecture("resnet50v2", **{**BIT, "num_classes": 0}), PIXELS),
    "unknown library 'keras'": ("keras", architecture("resnet18v2", num_classes=3, width_factor=0.25), PIXELS),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_a_library_cannot_express_is_refused_by_name_and_leaves_nothing(words, tmp_path):
    to, config, pixels = REFUSED[words]
    model = write(tmp_path / "model.safetensors", config, pixels)
    with pytest.raises(ConvertError, match=words):
        resnetv2.save_pretrained(model, tmp_path / "folder", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return write(folder / "model.safetensors", architecture("resnet18v2", num_classes=3, width_factor=0.25))


def test_folders_and_artefacts_that_are_in_the_way_are_told(small, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").write_text("x")
    with pytest.raises(Error, match="exists and is not an empty folder"):
        resnetv2.save_pretrained(small, tmp_path / "full")
    artefact = resnetv2.export(small, to="onnx", out=tmp_path / "model.onnx").out
    with pytest.raises(ModelFileError, match="is an artefact, which has no weights by name"):
        resnetv2.save_pretrained(artefact, tmp_path / "folder")


def test_a_folder_that_no_longer_agrees_with_itself_is_refused(small, tmp_path):
    folder = resnetv2.save_pretrained(small, tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["label_names"] = ["dog", "cat", "große Kuh"]
    config["pretrained_cfg"]["crop_pct"] = 1.0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConvertError, match="label_names, pretrained_cfg no longer agree with its part 'resnetv2'"):
        resnetv2.from_pretrained(folder)
    del config["resnetv2"]
    (folder / "config.json").write_text(json.dumps(config))
    classifier = resnetv2.from_pretrained(folder, device="cpu")
    assert classifier.classes == ("dog", "cat", "große Kuh")
    assert classifier.header.preprocessing.resize == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no file .*config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{}"), "does not say how it is used: KeyError"),
        (lambda folder: (folder / "config.json").write_text('{"resnetv2": []}'), "its part 'resnetv2' cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"resnetv2": {"kind": "run"}}'), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors"),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_the_file(change, words, small, tmp_path):
    folder = resnetv2.save_pretrained(small, tmp_path / "folder")
    change(folder)
    with pytest.raises(ConvertError, match=words):
        resnetv2.from_pretrained(folder)


def test_a_name_that_is_neither_a_folder_nor_a_repository_is_an_error(tmp_path):
    for name in ("nowhere", tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(ConvertError, match=r"no folder .* and it is no repository"):
            resnetv2.from_pretrained(name)


# --- the hub ----------------------------------------------------------------------------------------------------------


def python(code, server, folder, **environment):
    hub = {"HF_ENDPOINT": server.url(), "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **hub, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_write", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=False, capture_output=True, text=True, timeout=120
    )


def test_a_push_is_one_commit_that_comes_back_by_name(small, picture, tmp_path):
    with serving() as server:
        server.token = "hf_write"
        done = python(f"import resnetv2; print(resnetv2.push_to_hub({str(small)!r}, 'me/network'))", server, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == server.url(f"/me/network/commit/{COMMIT}")
        names = {path.rpartition("/")[2] for path in server.files}
        assert names == {"README.md", "config.json", "model.safetensors"}
        code = "import resnetv2, pathlib; c = resnetv2.from_pretrained('me/network', device='cpu', runtime='torch');"
        code += f"print(c.logits([pathlib.Path({str(picture)!r})]).tolist())"
        done = python(code, server, tmp_path)
        assert done.returncode == 0, done.stderr
    expected = resnetv2.load(small, device="cpu", runtime="torch").logits([picture])
    assert json.loads(done.stdout) == expected.tolist()


def test_without_the_right_to_write_nothing_is_pushed_and_it_is_told(small, tmp_path):
    code = (
        f"import resnetv2\ntry: resnetv2.push_to_hub({str(small)!r}, 'me/network')\n"
        "except resnetv2.Error as error: print(error)"
    )
    with serving() as server:
        server.token = "hf_other"
        done = python(code, server, tmp_path)
        assert not server.files
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot push to me/network: ")
    assert "log in with `hf auth login`" in done.stdout


def test_a_repository_that_is_not_there_is_a_download_error(tmp_path):
    code = "import resnetv2\ntry: resnetv2.from_pretrained('me/nothing')\nexcept resnetv2.DownloadError as e: print(e)"
    with serving() as server:
        server.absent = {"X-Error-Code": "RepoNotFound"}
        done = python(code, server, tmp_path)
    assert "no such repository" in done.stdout, done.stderr
    assert DownloadError.__mro__[1] is Error
