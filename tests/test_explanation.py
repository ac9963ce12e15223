"""``explain``: heat where the evidence is, and nowhere in particular where the weights know nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import encode, noise, write_picture
from PIL import Image
from runs import command

import resnetv2
from resnetv2.config import architecture
from resnetv2.errors import ConfigError
from resnetv2.explanation import METHODS, check_method, count_cells, heat_map, overlay, quick_map, stretch
from resnetv2.inference import Classifier
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.attribution import _last_map
from resnetv2.runtime.pytorch import TorchSession, model_file
from resnetv2.weights.modelfile import Header, write_model_file

SIZE, PATCH = 40, 16
COLOURS = {"red": (230, 30, 30), "green": (30, 230, 30), "blue": (30, 30, 230), "yellow": (230, 230, 30)}
CONFIG = architecture("resnet18v2", stem="3x3", depths=(1, 1, 1, 1), width_factor=0.25, num_classes=len(COLOURS))
PICTURES = dict.fromkeys(METHODS, 20) | {"occlusion": 8, "integrated-gradients": 8}  # those take seconds each


def picture(rng, label):
    """Return noise with a patch somewhere, whose colour is the class, and where it is: (row, column)."""
    pixels = rng.integers(60, 120, (SIZE, SIZE, 3)).astype(np.uint8)
    top, left = rng.integers(0, SIZE - PATCH + 1, 2)
    pixels[top : top + PATCH, left : left + PATCH] = list(COLOURS.values())[label]
    return pixels, (int(top), int(left))


@pytest.fixture(scope="module")
def trained():
    """A classifier that has learnt which colour the patch has."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ResNetV2(CONFIG)
    preprocessing = Preprocessing(image_size=SIZE, resize=SIZE)
    session = TorchSession(model, preprocessing, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(100):
        labels = rng.integers(0, 4, 16)
        pixels = np.stack([picture(rng, label)[0] for label in labels])
        loss = torch.nn.functional.cross_entropy(
            model(session.normalize(torch.from_numpy(pixels))), torch.from_numpy(labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    header = Header(architecture=CONFIG, preprocessing=preprocessing, classes=tuple(COLOURS))
    classifier = Classifier(header, session)
    labels = rng.integers(0, 4, 50)
    pixels = np.stack([picture(rng, label)[0] for label in labels])
    assert (session(pixels).argmax(axis=1) == labels).mean() == 1, "it must know for its maps to say anything"
    return classifier


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    write_model_file(
        path, model_file(trained.session.model, trained.header, [encode(noise(9, 9))], torch.device("cpu"))
    )
    return path


@pytest.mark.parametrize("method", METHODS)
def test_the_heat_lies_on_the_patch_that_decides_and_random_weights_destroy_it(trained, method):
    """Adebayo et al. 2018 (arXiv 1810.03292): a map that outlives its weights explains nothing."""
    torch.manual_seed(1)
    session = TorchSession(ResNetV2(CONFIG), trained.header.preprocessing, torch.device("cpu"))
    untrained = Classifier(trained.header, session)
    rng = np.random.default_rng(1)
    inside, shares = 0, []
    for i in range(PICTURES[method]):
        pixels, (top, left) = picture(rng, i % 4)
        heats = [stretch(heat_map(model, pixels, i % 4, method), SIZE) for model in (trained, untrained)]
        row, column = np.unravel_index(heats[0].argmax(), heats[0].shape)
        inside += top <= row < top + PATCH and left <= column < left + PATCH
        patch = np.s_[top : top + PATCH, left : left + PATCH]
        shares.append([heat[patch].sum() / heat.sum() if heat.any() else 0.0 for heat in heats])
    assert inside >= 0.9 * PICTURES[method]
    right, random = np.median(shares, axis=0)
    assert right > 2 * (PATCH / SIZE) ** 2, "twice the patch's share of the area"
    # a patch in a strong colour moves any network's answer: the heat there does not fall to its share of the area
    assert random < 0.8 * right


def test_the_last_map_is_what_the_head_sees_after_the_final_norm_and_relu(trained):
    pixels, _ = picture(np.random.default_rng(2), 0)
    activation, gradient = _last_map(trained.session, pixels, 0)
    assert (activation >= 0).all()
    fc = trained.session.model.head.fc
    logit = (activation.mean(dim=(1, 2)) @ fc.weight[0] + fc.bias[0]).item()
    assert logit == pytest.approx(trained.session(pixels[None])[0, 0], rel=1e-4)  # float32
    # with a global average pool, each gradient is the head's weight over the cells
    expected = fc.weight[0] / activation[0].numel()
    torch.testing.assert_close(gradient.mean(dim=(1, 2)), expected)


def test_integrated_gradients_sum_to_what_the_logit_gains_over_the_mean_colour(trained):
    pixels, _ = picture(np.random.default_rng(3), 0)
    session = trained.session
    mean = np.full_like(pixels, 127)  # 127.5 is no pixel: the network sees ±0.004
    gain = session(pixels[None])[0, 0] - session(mean[None])[0, 0]
    x = session.normalize(torch.from_numpy(pixels[None]))
    signed = torch.zeros_like(x)
    for share in (torch.arange(32) + 0.5) / 32:
        between = (share * x).requires_grad_()
        signed += torch.autograd.grad(session.model(between)[0, 0], between)[0]
    total = (signed * x / 32).sum(dim=1)[0]
    np.testing.assert_allclose(
        heat_map(trained, pixels, 0, "integrated-gradients"), total.clamp(min=0).detach(), atol=1e-5
    )
    assert float(total.sum()) == pytest.approx(float(gain), rel=0.2, abs=0.2)  # 32 steps through ReLUs


def test_explain_answers_every_picture_and_writes_what_it_shows(file, tmp_path):
    rng = np.random.default_rng(4)
    for i, folder in enumerate(("a", "b")):
        write_picture(tmp_path / folder / "same.png", Image.fromarray(picture(rng, i)[0]))
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG")
    out = tmp_path / "out"
    answers = resnetv2.explain(file, [tmp_path / "a", tmp_path / "b"], out=out, device="cpu")
    assert [answer.error is None for answer in answers] == [False, True, True]
    assert [answer.label for answer in answers[1:]] == ["red", "green"]
    assert [answer.overlay.name for answer in answers[1:]] == ["same.png", "same-2.png"]
    for answer in answers[1:]:
        assert (answer.heat.max(), answer.heat.min() >= 0, answer.heat.shape) == (1, True, (SIZE, SIZE))
        np.testing.assert_array_equal(np.load(answer.array), answer.raw)
        assert Image.open(answer.overlay).size == (200, 200), "5 times as large, so that one sees it"
    assert {path.suffix for path in out.iterdir()} == {".png", ".npy"}


def test_a_picture_is_not_replaced_by_its_explanation(file, tmp_path):
    path = write_picture(tmp_path / "one.png", noise(40, 40))
    others = write_picture(tmp_path / "others" / "one.png", noise(40, 40))
    before = path.read_bytes(), others.read_bytes()
    for out in (tmp_path, others.parent):
        with pytest.raises(ConfigError, match=r"one\.png: there already, and would be lost"):
            resnetv2.explain(file, [path], out=out, device="cpu")
    assert (path.read_bytes(), others.read_bytes()) == before
    first, again = (resnetv2.explain(file, [path], out=tmp_path / "out", device="cpu") for _ in range(2))
    assert first[0].overlay == again[0].overlay, "its own files are written anew"


def test_the_explanation_of_another_picture_of_the_same_name_is_not_replaced(file, tmp_path):
    paths = [write_picture(tmp_path / name / "one.png", noise(40, 40, i)) for i, name in enumerate("ab")]
    (first,) = resnetv2.explain(file, paths[:1], out=tmp_path / "out", device="cpu")
    before = first.overlay.read_bytes(), first.array.read_bytes()
    with pytest.raises(ConfigError, match=r"one\.png, .*one\.npy: there already, and would be lost"):
        resnetv2.explain(file, paths[1:], out=tmp_path / "out", device="cpu")
    assert (first.overlay.read_bytes(), first.array.read_bytes()) == before


def test_what_was_stopped_while_it_wrote_a_picture_leaves_nothing_that_stops_the_next(file, tmp_path, monkeypatch):
    path = write_picture(tmp_path / "one.png", noise(40, 40))

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            resnetv2.explain(file, [path], out=tmp_path / "out", device="cpu")
    (done,) = resnetv2.explain(file, [path], out=tmp_path / "out", device="cpu")
    assert done.overlay.is_file()
    assert done.array.is_file()


def test_another_class_than_the_answer_can_be_asked_for(trained, file, tmp_path):
    pixels, _ = picture(np.random.default_rng(5), 0)
    path = write_picture(tmp_path / "one.png", Image.fromarray(pixels))
    (answer,) = resnetv2.explain(file, [path], label="green", device="cpu")
    assert answer.label == "green"
    np.testing.assert_array_equal(answer.raw, heat_map(trained, pixels, 1, "gradcam"))
    with pytest.raises(ConfigError, match="unknown class 'gren': did you mean 'green'"):
        resnetv2.explain(file, [path], label="gren", device="cpu")
    with pytest.raises(ConfigError, match="unknown method 'cam'"):
        resnetv2.explain(file, [path], method="cam", device="cpu")


def test_what_takes_gradients_says_so_where_there_are_none(trained, tmp_path):
    path = write_picture(tmp_path / "one.png", noise(8, 8))
    other = Classifier(trained.header, trained.session.__call__)
    with pytest.raises(ConfigError, match="runs on torch"):
        resnetv2.explain(other, [path])
    headless = replace(trained.header, architecture=replace(CONFIG, num_classes=0), classes=())
    with pytest.raises(ConfigError, match="has no head"):
        resnetv2.explain(Classifier(headless, trained.session), [path])
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(ConfigError, match=r"a model file; .*model\.onnx was exported for another runtime"):
        resnetv2.explain(tmp_path / "model.onnx", [path], device="cpu")


@pytest.mark.parametrize(
    ("size", "stem", "cells", "usual"),
    [(32, "7x7", 1, "occlusion"), (224, "7x7", 7, "gradcam"), (33, "3x3", 5, "gradcam")],
)
def test_a_map_of_one_cell_is_no_map(trained, size, stem, cells, usual):
    config = replace(CONFIG, stem=stem)
    header = replace(trained.header, architecture=config, preprocessing=Preprocessing(image_size=size, resize=size))
    assert ResNetV2(config).eval().forward_features(torch.zeros(1, 3, size, size)).shape[2:] == (cells, cells)
    assert count_cells(header) == cells
    assert check_method(header, None) == usual
    if cells == 1:
        with pytest.raises(ConfigError, match="makes a single one; choose occlusion or integrated-gradients"):
            check_method(header, "layercam")
        assert check_method(header, "occlusion") == "occlusion"


def test_cold_places_stay_grey_and_hot_ones_glow():
    pixels = np.full((4, 4, 3), (10, 200, 60), np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    shown = np.asarray(overlay(pixels, heat))
    assert np.ptp(shown[3, 3]) == 0
    assert shown[0, 0].tolist() != shown[3, 3].tolist()
    assert shown[0, 0, 0] > 200


def test_a_map_without_evidence_is_cold_everywhere():
    assert not stretch(np.zeros((2, 2), np.float32), 8).any()


def test_the_command_prints_each_file_and_exits_with_2_for_what_it_cannot_read(file, tmp_path):
    write_picture(tmp_path / "in" / "one.png", Image.fromarray(picture(np.random.default_rng(6), 1)[0]))
    (tmp_path / "in" / "two.png").write_bytes(b"")
    done = command("explain", file, tmp_path / "in", "--out", tmp_path / "out", "--method", "layercam", "--json")
    assert done.returncode == 2, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["label"] == "green"
    assert lines[0]["overlay"] == str(tmp_path / "out" / "one.png")
    assert lines[1]["error"] == "the file is empty"


def test_the_quick_map_is_gradcam_and_of_small_pictures_nearly_integrated_gradients(trained):
    pixels, _ = picture(np.random.default_rng(1), 2)
    assert np.array_equal(quick_map(trained, pixels, 2), heat_map(trained, pixels, 2, "gradcam"))
    small = replace(trained.header, preprocessing=Preprocessing(image_size=24, resize=24))
    classifier = Classifier(small, trained.session)
    cut = np.ascontiguousarray(pixels[8:32, 8:32])
    quick, whole = quick_map(classifier, cut, 2), heat_map(classifier, cut, 2, "integrated-gradients")
    # 12 steps in place of 32: 0.98 and more on networks trained on digits; another picture's map has about 0
    assert np.corrcoef(quick.ravel(), whole.ravel())[0, 1] > 0.9
