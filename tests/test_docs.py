"""What the documents say is executed: Python blocks as they stand, ``resnetv2`` lines with a short run's flags.

Lines that would download end, without a network, where the address is known.
"""

import fnmatch
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import command

import resnetv2.digits
from resnetv2 import list_models
from resnetv2.cli import COMMANDS
from resnetv2.config import DIALECTS, architecture
from resnetv2.conversion import write_checkpoint
from resnetv2.conversion.recognition import PUBLISHERS
from resnetv2.conversion.rules import write
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.recipes import TrainConfig
from resnetv2.shapes import tensor_shapes

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
SHORT = ["--epochs", "1", "--image-size", "32"]  # what a test adds to `resnetv2 train` where a line says none of it
NARROW = ["--set", "model.width_factor=0.25"]  # and to each that starts without weights


def blocks(document, language):
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the documents assume it: pictures/ with a split, new-pictures/, and a run/."""
    place = tmp_path_factory.mktemp("docs")
    resnetv2.digits.write_digits(place / "all")
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(10):
            names = sorted((place / "all" / split / str(number)).iterdir())[:count]
            folder = place / "pictures" / split / str(number)
            folder.mkdir(parents=True)
            for path in names:
                path.rename(folder / path.name)
    (place / "new-pictures").mkdir()
    source = next((place / "pictures" / "test" / "0").iterdir())
    (place / "new-pictures" / "one.png").write_bytes(source.read_bytes())
    return place


@pytest.fixture(scope="module")
def run(place):
    settings = {"out": place / "run", "epochs": 1, "image_size": 32, "device": "cpu"}
    return resnetv2.train(place / "pictures", set={"model": {"width_factor": 0.5}}, **settings)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_run(document, place, run, monkeypatch, tmp_path):
    (tmp_path / "pictures").symlink_to(place / "pictures")
    text = "\n".join(blocks(document, "python"))
    if "resnetv2.train(" not in text:
        (tmp_path / "run").symlink_to(run.out)
    monkeypatch.chdir(tmp_path)
    exec(compile(text, document, "exec"), {"__name__": "document"})


def write_published(folder):
    """Write small random networks as the publishers' files that the documents name."""

    def network(dialect):
        config = architecture("resnet50v2", dialect, depths=(1, 1, 1, 1), width_factor=0.25)
        generator = np.random.default_rng(0)
        shapes = tensor_shapes(config).items()
        return config, {name: generator.uniform(0.05, 0.1, shape).astype(np.float32) for name, shape in shapes}

    write_checkpoint(folder / "resnet50v2_weights_tf_dim_ordering_tf_kernels.h5", *network("keras"), target="keras")
    for name in ("pytorchcv", "pytorchcv-b"):
        config, weights = network(name)
        theirs = write(weights, PUBLISHERS["pytorchcv"].rules(config), config)
        tensors = {key: torch.from_numpy(value) for key, value in theirs.items()}
        torch.save(tensors, folder / f"preresnet50{'b' * name.endswith('-b')}.pth")


def names_published_weights(words):
    return any(fnmatch.filter(list_models(pretrained=True), word) for word in words)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_shell_blocks_run(document, place, run, tmp_path):
    for name in ("pictures", "new-pictures"):
        (tmp_path / name).symlink_to(place / name)
    if "resnetv2 train" not in "".join(blocks(document, "sh")):
        (tmp_path / "run").symlink_to(run.out)
    if "resnetv2 convert" in "".join(blocks(document, "sh")):
        pytest.importorskip("h5py")
        write_published(tmp_path)
    for line in "".join(blocks(document, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["resnetv2"]:
            assert words[:1] in (["make"], ["pip"], []), f"a command that no test runs: {line}"
            continue
        scratch = words[1] == "train" and "--weights" not in words
        added = [*NARROW * scratch, *SHORT * (scratch and "--epochs" not in words)]
        if words[1] != "models" and names_published_weights(words):
            offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": tmp_path / "hub", "RESNETV2_CACHE": tmp_path / "cache"}
            done = command(*words[1:], cwd=tmp_path, **offline)
            assert done.returncode == 2, done.stderr
            assert "put the file there by hand" in done.stderr
            continue
        done = command(*words[1:], *added, cwd=tmp_path)
        if "--error-rate" in words:  # such a promise takes more pictures than the documents' folder has
            assert (done.returncode, "pictures to show and there are" in done.stderr) == (2, True), done.stderr
            continue
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md", *DOCUMENTS[1:]])
def test_links_to_files_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("https://"):
            assert ((ROOT / document).parent / target).exists(), target


def test_the_file_tree_in_the_readme_names_what_exists():
    tree = next(block for block in blocks("README.md", "text") if "src/resnetv2" in block)
    there = {p.name for p in (ROOT / "src" / "resnetv2").iterdir() if not p.name.startswith("__")} - {"py.typed"}
    named = set(re.findall(r"[\w]+(?:\.py|/)", tree.split("src/resnetv2/")[1].split("tests/")[0]))
    assert named >= {name if name.endswith(".py") else f"{name}/" for name in there}
    assert all((ROOT / "src" / "resnetv2" / name).exists() for name in named)


def test_the_documents_name_every_command_and_every_dialect():
    everything = "\n".join((ROOT / document).read_text(encoding="utf-8") for document in [*DOCUMENTS, "CHANGELOG.md"])
    for module in COMMANDS:
        assert f"resnetv2 {module.__name__.rsplit('.', 1)[-1].replace('_', '-')}" in everything
    for dialect in DIALECTS:
        assert f"| `{dialect}` |" in (ROOT / "docs" / "dialects.md").read_text(encoding="utf-8")


def test_the_training_guide_states_the_recipe_in_force():
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    config = TrainConfig().fitted("classification", ("cat", "dog"))
    assert f"momentum {config.momentum}" in text
    assert f"label smoothing {config.label_smoothing}" in text
    assert "weight decay 5e-4" in text
    assert config.weight_decay == 5e-4
    assert TrainConfig(batch_size=256).peak_lr == 0.2
    for name, recipe in IMAGENET_RECIPES.items():
        assert f"| `{name}` | {recipe.source} | {recipe.published}; {recipe.cost} | {recipe.differs} |" in text
