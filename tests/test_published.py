"""Published checkpoints as model files: converted from a file at hand, or fetched by name."""

import hashlib
import http.server
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import command, write_colours
from safetensors.numpy import load_file

import resnetv2
from resnetv2 import published
from resnetv2.config import ResNetV2Config, architecture
from resnetv2.conversion import write_checkpoint
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import write
from resnetv2.errors import ConfigError, ConvertError, Error, ModelFileError
from resnetv2.model import ResNetV2
from resnetv2.shapes import tensor_shapes
from resnetv2.weights.catalogue import card
from resnetv2.weights.location import Location
from resnetv2.weights.modelfile import read_model_file

SMALL = {"depths": (1, 1, 1, 1), "width_factor": 0.25}


def random_weights(config):
    generator = np.random.default_rng(0)
    return {
        name: generator.uniform(0.05, 0.1, shape).astype(np.float32) for name, shape in tensor_shapes(config).items()
    }


def write_npz(path, publisher, config):
    """Write random weights as a publisher's variables by name."""
    np.savez(path, **write(random_weights(config), PUBLISHERS[publisher].rules(config), config))
    return path


@pytest.fixture
def timm_file(tmp_path):
    config = ResNetV2Config(num_classes=3, **SMALL)
    path = tmp_path / "theirs" / "model.safetensors"
    write_checkpoint(path, config, random_weights(config), "timm")
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", train=1, val=1, test=2)


def test_a_converted_checkpoint_is_a_model_file_that_proves_itself_and_answers_as_its_network(timm_file, tmp_path):
    result = resnetv2.convert(timm_file, out=tmp_path / "model.safetensors")
    assert (result.source, result.num_classes) == ("timm", 3)
    assert "every tensor has the name and shape of timm" in result.reason
    assert resnetv2.verify(result.out, device="cpu").samples == 3
    header = resnetv2.info(result.out)
    assert header["classes"] == ["0", "1", "2"]
    assert header["provenance"]["sha256"] == hashlib.sha256(timm_file.read_bytes()).hexdigest()

    file = read_model_file(result.out)
    config = ResNetV2Config(num_classes=3, **SMALL)
    model = ResNetV2(config).eval()
    model.load_state_dict({n: torch.from_numpy(v) for n, v in random_weights(config).items()}, strict=False)
    pixels = file.header.preprocessing.decode(file.golden.pictures)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.inference_mode():
        expected = model(x).numpy()
    # the same float32 sums in another memory layout
    assert np.abs(file.golden.logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_model_file_is_written_back_as_the_publishers_own_with_the_same_bytes(timm_file, tmp_path):
    model = resnetv2.convert(timm_file, out=tmp_path / "model.safetensors").out
    again = resnetv2.convert(model, out=tmp_path / "again.safetensors", to="timm")
    assert again.source == "resnetv2"
    before, after = load_file(timm_file), load_file(again.out)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_without_its_head_a_network_answers_with_features_and_labels_nothing(timm_file, pictures, tmp_path):
    out = resnetv2.convert(timm_file, out=tmp_path / "features.safetensors", drop_head=True).out
    assert resnetv2.info(out)["classes"] == []
    assert resnetv2.verify(out, device="cpu").ok
    classifier = resnetv2.load(out, device="cpu")
    assert classifier.logits([next((pictures / "test").rglob("*.png"))]).shape == (1, 512)
    with pytest.raises(ConfigError, match="no head"):
        list(classifier.predict([next((pictures / "test").rglob("*.png"))]))
    with pytest.raises(ConfigError, match="no head"):
        resnetv2.evaluate(out, pictures, device="cpu")


@pytest.mark.parametrize("publisher", ["slim", "official"])
def test_the_background_class_of_tensorflow_goes_unless_it_is_asked_for(publisher, tmp_path):
    config = architecture("resnet50v2", publisher, num_classes=1001, **SMALL)
    path = write_npz(tmp_path / "x.npz", publisher, config)
    dropped = resnetv2.convert(path, out=tmp_path / "dropped.safetensors")
    kept = resnetv2.convert(path, out=tmp_path / "kept.safetensors", keep_background=True)
    assert (dropped.num_classes, kept.num_classes) == (1000, 1001)
    without, with_it = read_model_file(dropped.out), read_model_file(kept.out)
    assert without.header.classes == with_it.header.classes[1:]
    assert without.header.classes[0] == "tench"
    assert with_it.header.classes[0] == "background"
    np.testing.assert_array_equal(without.weights["head.fc.weight"], with_it.weights["head.fc.weight"][1:])
    # the same sums in a matrix product of another height
    scale = np.abs(with_it.golden.logits).max()
    assert np.abs(without.golden.logits - with_it.golden.logits[:, 1:]).max() <= 1e-5 * scale


def test_a_background_class_that_is_not_there_cannot_be_kept(timm_file, tmp_path):
    with pytest.raises(ConvertError, match="no background class to keep: it has 3 classes"):
        resnetv2.convert(timm_file, out=tmp_path / "x.safetensors", keep_background=True)


def test_keras_weights_have_a_second_variant_as_they_were_trained(tmp_path):
    pytest.importorskip("h5py")
    config = architecture("resnet50v2", "keras", num_classes=3, **SMALL)
    path = tmp_path / "keras.h5"
    write_checkpoint(path, config, random_weights(config), "keras")
    shipped = read_model_file(resnetv2.convert(path, out=tmp_path / "shipped.safetensors").out)
    trained = read_model_file(resnetv2.convert(path, out=tmp_path / "t.safetensors", variant="as-trained").out)
    assert shipped.header.architecture == config
    assert trained.header.architecture == replace(config, stem_pool="same", norm_eps=1e-5)
    assert trained.header.preprocessing.image_size == 299
    assert trained.header.provenance["variant"] == "as-trained"
    for name, value in shipped.weights.items():
        np.testing.assert_array_equal(value, trained.weights[name])


def test_where_there_is_one_variant_another_is_refused(timm_file, tmp_path):
    with pytest.raises(ConvertError, match="timm has no variant 'as-trained'"):
        resnetv2.convert(timm_file, out=tmp_path / "x.safetensors", variant="as-trained")
    with pytest.raises(ConvertError, match="unknown variant 'trained': did you mean 'as-trained'"):
        resnetv2.convert(timm_file, out=tmp_path / "x.safetensors", variant="trained")


def test_class_names_come_from_a_file_or_a_list_and_must_fit(timm_file, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n\nbird\n", encoding="utf-8")
    out = resnetv2.convert(timm_file, out=tmp_path / "a.safetensors", classes=names).out
    assert resnetv2.info(out)["classes"] == ["cat", "dog", "bird"]
    with pytest.raises(ConfigError, match="2 class names for 3 classes"):
        resnetv2.convert(timm_file, out=tmp_path / "b.safetensors", classes=["cat", "dog"])
    with pytest.raises(ConfigError, match="cannot read class names from"):
        resnetv2.convert(timm_file, out=tmp_path / "b.safetensors", classes=tmp_path / "absent.txt")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "to", "message"),
    [
        ("x.onnx", "model", r"a file of the format 'model' ends in \.safetensors"),
        ("x.safetensors", "bit", r"a file of the format 'bit' ends in \.npz"),
        ("x.safetensors", "tim", "unknown format 'tim': did you mean 'timm'"),
        ("there.safetensors", "timm", "exists: choose another --out"),
        ("x.h5", "keras", "Keras Applications has no such network|without a place|absent"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(out, to, message, timm_file, tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConvertError, match=message):
        resnetv2.convert(timm_file, out=tmp_path / out, to=to)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_the_command_says_what_it_took_the_file_for(timm_file, tmp_path):
    done = command("convert", timm_file, "--out", tmp_path / "a.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "a.safetensors")
    assert "timm: every tensor has the name and shape of timm" in done.stdout
    done = command("convert", tmp_path / "a.safetensors", "--to", "timm", "--out", tmp_path / "b.safetensors", "--json")
    assert json.loads(done.stdout)["source"] == "resnetv2"
    done = command("convert", timm_file, "--from", "keras", "--out", tmp_path / "c.safetensors")
    assert done.returncode == 2
    assert done.stderr.startswith("resnetv2 convert: error: ")
    assert "Traceback" not in done.stderr


# --- by name ----------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves one file and counts how often it was asked for."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked = content, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/model.safetensors"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def shelf(timm_file, tmp_path, monkeypatch):
    """A catalogue with one card, whose file a loopback server has, and an empty cache."""
    server = Server(timm_file.read_bytes())
    location = Location(url=server.url, digest="sha256:" + hashlib.sha256(server.content).hexdigest())
    made = replace(
        card("resnet50v2.a1h_in1k"),
        name="resnet50v2.tiny_cifar10",
        config=ResNetV2Config(num_classes=3, **SMALL),
        files=(location,),
        labels="",
    )
    monkeypatch.setattr(published, "cards", lambda pattern="*": [made] if pattern in ("*", made.name) else [])
    monkeypatch.setattr(published, "card", lambda name: made)
    monkeypatch.setenv("RESNETV2_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_published_weights_are_fetched_once_and_then_loaded_by_name(shelf, pictures, tmp_path):
    picture = next((pictures / "test").rglob("*.png"))
    first = resnetv2.load("resnet50v2.tiny_cifar10", device="cpu")
    assert shelf.asked == 1
    assert first.header.preprocessing == card("resnet50v2.a1h_in1k").preprocessing
    assert first.header.provenance["name"] == "resnet50v2.tiny_cifar10"
    again = resnetv2.load("resnet50v2.tiny_cifar10", device="cpu")
    assert shelf.asked == 1
    np.testing.assert_array_equal(first.logits([picture]), again.logits([picture]))
    assert resnetv2.fetch(["resnet50v2.tiny_cifar10"]) == [published.locate("resnet50v2.tiny_cifar10")]
    assert resnetv2.verify("resnet50v2.tiny_cifar10", device="cpu").ok


def test_a_pretrained_network_has_the_weights_and_says_when_its_head_is_new(shelf, capsys):
    model = resnetv2.create_model("resnet50v2.tiny_cifar10", pretrained=True)
    assert model.preprocessing == card("resnet50v2.a1h_in1k").preprocessing
    expected = random_weights(model.config)
    assert all(np.array_equal(model.state_dict()[name].numpy(), value) for name, value in expected.items())
    assert "head" not in capsys.readouterr().err
    other = resnetv2.create_model("resnet50v2.tiny_cifar10", pretrained=True, num_classes=7, drop_rate=0.5)
    assert other.num_classes == 7
    assert "its head for 3 classes gives way to a random one" in capsys.readouterr().err
    assert torch.equal(other.stem.conv.weight, model.stem.conv.weight)
    maps = resnetv2.create_model("resnet50v2.tiny_cifar10", pretrained=True, features_only=True)
    assert len(maps.eval()(torch.zeros(1, 3, 64, 64))) == 4
    with pytest.raises(ConfigError, match="pretrained weights fix stem"):
        resnetv2.create_model("resnet50v2.tiny_cifar10", pretrained=True, stem="3x3")


def test_what_was_fetched_must_be_what_the_catalogue_says(shelf, monkeypatch, tmp_path):
    made = replace(published.card(""), config=ResNetV2Config(num_classes=3, depths=(1, 1, 1, 2), width_factor=0.25))
    monkeypatch.setattr(published, "card", lambda name: made)
    with pytest.raises(ConvertError, match=r"is no resnet50v2\.tiny_cifar10"):
        resnetv2.load("resnet50v2.tiny_cifar10", device="cpu")
    assert not list((tmp_path / "cache").rglob("resnet50v2*.safetensors"))


def test_a_name_that_is_neither_file_nor_published_is_told_with_the_nearest():
    with pytest.raises(ModelFileError, match=r"no file 'resnet50v2\.a1h' here, and unknown published weights"):
        resnetv2.load("resnet50v2.a1h")
    with pytest.raises(ConfigError, match=r"names an architecture, not weights; published weights of it: .*a1h_in1k"):
        resnetv2.load("resnet50v2")
    with pytest.raises(Error, match="unknown"):
        resnetv2.fetch(["resnet50v2.nothing_in1k"])
    with pytest.raises(ConfigError, match="unknown architecture or published weights 'resnet50v3'"):
        resnetv2.create_model("resnet50v3")
    with pytest.raises(ConfigError, match="published weights of it"):
        resnetv2.create_model("resnet50v2", pretrained=True)


def test_a_published_name_without_pretrained_is_its_architecture_with_random_weights():
    model = resnetv2.create_model("resnet50v2.keras_in1k", num_classes=5)
    assert model.config == architecture("resnet50v2", "keras", num_classes=5)
    assert model.preprocessing is None
    with pytest.raises(ConfigError, match="fixes the dialect"):
        resnetv2.create_model("resnet50v2.keras_in1k", dialect="torch")
