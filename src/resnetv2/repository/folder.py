"""``save_pretrained``, ``from_pretrained`` and ``push_to_hub``: a network as a folder that timm or transformers loads.

``config.json`` has the model file's header under "resnetv2", so that nothing is lost on the way back. What timm and
transformers read is made of that header, and a folder in which the two no longer agree is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import resnetv2
from resnetv2.console import talk
from resnetv2.conversion.checkpoints import Checkpoint, read_checkpoint
from resnetv2.conversion.writers import write_checkpoint
from resnetv2.errors import ConvertError, Error, ModelFileError, unknown
from resnetv2.files import new_folder, write_json
from resnetv2.inference import Classifier, read_model
from resnetv2.published import name_classes
from resnetv2.repository import timm, transformers
from resnetv2.repository.card import write_card
from resnetv2.runtime.artefact import Artefact
from resnetv2.runtime.choice import AUTO
from resnetv2.weights.hub import fetch_from_hub
from resnetv2.weights.location import Location
from resnetv2.weights.modelfile import Golden, Header, ModelFile, parse_header

SOURCES = {"timm": "timm", "transformers": "huggingface"}  # library: whose names its weights have
_CONFIG, _PIXELS, _WEIGHTS, _CARD = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
_OURS = "resnetv2"  # in config.json: the header
_TIMEOUT = 10.0  # seconds for the hub's answer


def save_pretrained(model: str | Path, folder: str | Path, *, to: str = "timm", repo: str = "") -> Path:
    """Write a network as a folder that another library loads: config, weights, preprocessing and card.

    Of a calibrated model, the library applies no temperature and never abstains, which is said on stderr and in the
    card. ``from_pretrained`` gives the temperature back; when to abstain is in the model file alone.

    Args:
        model: a model file, or published weights by name.
        folder: new, or empty.
        to: "timm", for ``timm.create_model("local-dir:…")`` and transformers' ``AutoModelForImageClassification``
            beside timm; "transformers" for its own ``BitForImageClassification``, which has BiT's networks alone.
        repo: where it will be on the hub, for the card.

    Returns:
        The folder.

    Raises:
        ConvertError: the library has no such network, or cannot prepare pictures like this.
        ModelFileError: see ``Classifier.load``; an artefact, which has no weights by name.
        Error: the folder is there already and not empty, or the file system refused.
    """
    if to not in SOURCES:
        raise ConvertError(unknown("library", to, SOURCES))
    file = read_model(model)
    if isinstance(file, Artefact):
        raise ModelFileError(f"{model} is an artefact, which has no weights by name: take the model file")
    write_folder(file, Path(folder), to, repo)
    if file.header.calibration is not None:
        talk().print(
            f"note: {to} does not know of calibration: its probabilities are without the temperature, and it never "
            f"abstains; {_CARD} in the folder says so",
            soft_wrap=True,
        )
    return Path(folder)


def write_folder(file: ModelFile, folder: Path, to: str, repo: str = "") -> None:
    """Write what was read as ``save_pretrained`` does; raises as it does."""
    configs = _configs(file.header, to)
    with new_folder(folder) as temporary:
        write_checkpoint(temporary / _WEIGHTS, file.header.architecture, file.weights, SOURCES[to])
        for name, values in configs.items():
            write_json(temporary / name, values)
        card = write_card(file.header, to, repo)
        (temporary / _CARD).write_text(card, encoding="utf-8", errors="backslashreplace")


def from_pretrained(source: str | Path, *, revision: str = "", device: str = "auto", runtime: str = AUTO) -> Classifier:
    """Load a folder, or a repository of the hub, that timm or transformers wrote or that ``save_pretrained`` did.

    Args:
        source: a folder with ``config.json`` and ``model.safetensors``, or a repository such as
            "timm/resnetv2_50.a1h_in1k", whose files the hub's own cache keeps.
        revision: of the repository: a branch, tag or commit.
        device, runtime: see ``Classifier.load``.

    Raises:
        DownloadError: no such repository, revision or file; no access; no connection.
        ConvertError: it is no network of ours, or what it says of itself cannot be, or no longer agrees.
        ConfigError, MissingExtra: see ``Classifier.load``.
    """
    folder = Path(source)
    is_folder = folder.is_dir()
    if not is_folder and (folder.is_absolute() or str(source).count("/") != 1):
        raise ConvertError(f"no folder {source}, and it is no repository of the hub, which is named owner/name")

    def find(name: str) -> Path:
        if is_folder:
            return folder / name
        return fetch_from_hub(
            Location(repo=str(source), revision=revision, filename=name), folder / name, timeout=_TIMEOUT
        )

    config = _read_json(find(_CONFIG))
    to = "transformers" if config.get("model_type") == "bit" else "timm"
    given = {_CONFIG: config}
    if to == "transformers":
        given[_PIXELS] = _read_json(find(_PIXELS))
    checkpoint = read_checkpoint(find(_WEIGHTS), SOURCES[to])
    header = _own_header(find(_CONFIG), given, to) if _OURS in config else _their_header(source, given, to, checkpoint)
    golden = Golden((), np.zeros((0, header.num_outputs), np.float32))
    weights = {name: value.astype(np.float32, copy=False) for name, value in checkpoint.weights.items()}
    return Classifier.from_file(ModelFile(header, weights, golden), device, runtime)


def push_to_hub(
    model: str | Path, repo: str, *, to: str = "timm", private: bool = False, message: str = "Upload model"
) -> str:
    """Write a network as ``save_pretrained`` does, and make it a commit of a repository on the hub.

    The hub's own settings hold: HF_TOKEN or ``hf auth login``, HF_ENDPOINT.

    Args:
        model: a model file, or published weights by name.
        repo: "owner/name"; made if it is not there.
        to: "timm" or "transformers".
        private: whether a new repository is.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ConvertError, ModelFileError: see ``save_pretrained``.
        Error: no access, no connection, or a name that cannot be.
    """
    import huggingface_hub
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that the hub uses

    with TemporaryDirectory() as temporary:
        folder = save_pretrained(model, Path(temporary, "repository"), to=to, repo=repo)
        api = huggingface_hub.HfApi(library_name="resnetv2", library_version=resnetv2.__version__)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: what hf-xet raises
            reason = f"{error}".strip().partition("\n")[0].rstrip(".") or type(error).__name__
            login = "log in with `hf auth login` or the variable HF_TOKEN, with the right to write"
            raise Error(f"cannot push to {repo}: {reason}. If that is about access, {login}") from error
    return str(commit.commit_url)


def _configs(header: Header, to: str) -> dict[str, dict[str, Any]]:
    """Return the JSON files of a folder by name."""
    told = {_OURS: header.to_dict()}
    if to == "timm":
        return {_CONFIG: {**timm.write_config(header), **told}}
    pixels = transformers.write_preprocessor(header.preprocessing)
    return {_CONFIG: {**transformers.write_config(header), **told}, _PIXELS: pixels}


def _own_header(path: Path, given: Mapping[str, Any], to: str) -> Header:
    """Return the header of a folder that we wrote, if the rest still says what it says."""
    try:
        header = parse_header(path, given[_CONFIG][_OURS])
    except (ModelFileError, AttributeError) as error:
        raise ConvertError(f"{path}: its part {_OURS!r} cannot be read: {error}") from error
    written = json.loads(json.dumps(_configs(header, to)))
    changed = [
        key
        for name, values in given.items()
        for key in {**values, **written[name]}
        if values.get(key) != written[name].get(key)
    ]
    if changed:
        raise ConvertError(
            f"{path} was changed: {', '.join(changed)} no longer agree with its part {_OURS!r}. Take that part out to "
            "have the rest believed"
        )
    return header


def _their_header(source: str | Path, given: Mapping[str, Any], to: str, checkpoint: Checkpoint) -> Header:
    """Return a header from what timm or transformers wrote."""
    config = given[_CONFIG]
    try:
        if to == "timm":
            preprocessing = timm.read_preprocessing(config)
            names = config.get("label_names") or config.get("labels") or ()
        else:
            preprocessing = transformers.read_preprocessing(given[_PIXELS])
            names = [config["id2label"][str(number)] for number in range(len(config.get("id2label", ())))]
        task = transformers.TASKS[config.get("problem_type") or "single_label_classification"]
        classes, _ = name_classes(checkpoint, tuple(names))
        return Header(
            architecture=checkpoint.config,
            preprocessing=preprocessing,
            classes=classes,
            task=task,
            provenance={**checkpoint.provenance, "repository": str(source)},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{source} does not say how it is used: {type(error).__name__}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises on a name too long
        raise ConvertError(f"no file {path}: a folder that timm or transformers loads has {_CONFIG} and {_WEIGHTS}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConvertError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConvertError(f"{path} cannot be read: it is no JSON object")
    return values
