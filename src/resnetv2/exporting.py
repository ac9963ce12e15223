"""Networks in a runtime's own format, written only after they have proved to answer as the model file does."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.index import Samples
from resnetv2.data.load import Loader
from resnetv2.errors import ConfigError, DataError, Error, MissingExtra, ModelFileError, unknown
from resnetv2.evaluation.answers import find_pictures
from resnetv2.files import rename_durably
from resnetv2.inference import GOLDEN_TOLERANCE, Classifier, compare_golden, read_model, same_labels
from resnetv2.runtime.artefact import RUNTIMES, Artefact, read_artefact, write_artefact
from resnetv2.runtime.choice import open_session
from resnetv2.runtime.graph import build_graph
from resnetv2.runtime.onnxmodel import encode_onnx, encode_texts
from resnetv2.runtime.openvino import openvino_core
from resnetv2.runtime.session import Session
from resnetv2.weights.modelfile import Golden, Header, ModelFile

MIN_AGREEMENT = 0.99
MAX_DROP = 0.005  # half a point of top-1
_CALIBRATION = (32, 300)  # pictures: the fewest that are taken, and the most, which is NNCF's default
_BATCH = 32
_TIMED, _TURNS = 16, 3  # pictures of one timed batch, and how many batches of each side

Save = Callable[[Path, str], None]  # writes the network to a path, with a text inside


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What ``export`` wrote, and what it measured before."""

    out: Path
    to: str
    precision: str
    report: Mapping[str, Any] = field(default_factory=dict)


def export(
    model: str | Path,
    *,
    to: str,
    out: str | Path,
    check: str | Path | None = None,
    split: str = "test",
    int8: bool = False,
    calibrate: str | Path | None = None,
    min_agreement: float = MIN_AGREEMENT,
    max_drop: float = MAX_DROP,
    progress: Counter | None = None,
) -> Exported:
    """Write a network as an artefact: one that its runtime alone can load, with the model file's header inside.

    ``out`` appears only if the artefact, loaded from the disk, answers as it must from picture bytes to labels. In
    float32 it must give the golden samples' logits within 1e-4 of the largest and their labels, and on ``check`` those
    of PyTorch. In int8 it must agree with float32 on ``check``.

    Args:
        model: a model file, or published weights by name.
        to: "onnx" (.onnx), "openvino" (.xml, with a .bin beside it) or "torch" (.pt2, of ``torch.export``).
        out: the new file.
        check: labelled pictures, as ``evaluate`` takes them.
        split: of ``check``: "train", "val", "test" or "all".
        int8: 8-bit weights and activations, static, with a scale for each output channel; for "onnx" and "openvino".
        calibrate: labelled pictures that tell how large activations get; at most 300 of their training split count.
        min_agreement: the least share of ``check`` that int8 must label as float32 does.
        max_drop: the most of top-1 on ``check`` that int8 may lose.
        progress: called with the pictures of ``check`` that are done and the total.

    Raises:
        ModelFileError: the artefact answers something else, with the worst sample; or the model has no golden samples.
        ConfigError: an unknown format, another ending, or options that do not go together.
        DataError: fewer than 32 pictures to calibrate with, other classes than the model's, or an unreadable picture.
        MissingExtra: a package is not installed.
        Error: ``out`` exists, or the file system refused.
    """
    out = Path(out)
    _check_options(out, to, int8, calibrate, check)
    file = read_model(model)
    if isinstance(file, Artefact):
        raise ConfigError(f"{model} is an artefact already: export the model file")
    if not file.golden.pictures:
        raise ModelFileError(f"{model} holds no golden samples: nothing would prove what is exported")
    if int8 and (not file.header.classes or file.header.task != "classification"):
        raise ConfigError("int8 is checked by its labels: the network must have a head, for one class of each picture")
    if int8 and file.header.calibration is not None:
        raise ConfigError(
            f"{model} is calibrated, and its temperature, threshold and limit are those of float32: export it without "
            "int8, or the model file that it was made from"
        )
    pictures = None if calibrate is None else _calibration(file.header, str(model), calibrate)
    samples = None if check is None else _samples(file.header, str(model), check, split)
    save = _WRITERS[to](file, pictures)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            path = Path(folder, out.name)
            artefact = Artefact(
                path=path,
                precision="int8" if int8 else "float32",
                header=file.header,
                golden=file.golden,
                likeness=file.likeness,
            )
            write_artefact(artefact, save)
            classifier = Classifier.from_file(read_artefact(path), "cpu")
            if int8 and samples is not None:
                report = _prove_int8(classifier, file, to, samples, progress)
                report["bytes"] = {"int8": _size(path), "float32": sum(v.nbytes for v in file.weights.values())}
                _check_int8(report, min_agreement, max_drop)
                golden = Golden(file.golden.pictures, classifier.logits(file.golden.pictures))
            else:
                report = _prove_float32(classifier, file, samples, progress)
                golden = file.golden
            artefact = replace(artefact, golden=golden, report=report)
            write_artefact(artefact, save)
            _check_whole(path)
            for part in _parts(path):  # the .xml last: it is what makes an artefact
                rename_durably(part, out.with_suffix(part.suffix))
    except OSError as error:
        raise Error(f"cannot write {out}: {error.strerror or error}") from error
    return Exported(out=out, to=to, precision=artefact.precision, report=report)


def _check_options(out: Path, to: str, int8: bool, calibrate: object, check: object) -> None:
    endings = {runtime: ending for ending, runtime in RUNTIMES.items()}
    if to not in endings:
        raise ConfigError(unknown("format", to, endings))
    if out.suffix != endings[to]:
        raise ConfigError(f"an artefact of the format {to!r} ends in {endings[to]}, got {out}")
    if int8 and to == "torch":
        raise ConfigError("int8 is for onnx and openvino: PyTorch has no such kernels for every processor")
    if int8 and (calibrate is None or check is None):
        raise ConfigError("int8 needs pictures to calibrate with, and others to check what it costs: calibrate, check")
    if calibrate is not None and not int8:
        raise ConfigError("calibrate is for int8")
    for part in _parts(out):
        if os.path.lexists(part):
            raise Error(f"{part} exists: choose another --out")


def _parts(path: Path) -> list[Path]:
    """Return the files of an artefact; the one that makes it one is the last."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in _parts(path))


def _samples(header: Header, model: str, data: str | Path, split: str) -> Samples:
    return find_pictures(header, model, data, split).samples


def _calibration(header: Header, model: str, data: str | Path) -> np.ndarray:
    """Return pictures, evenly taken from the training split: uint8 (n, side, side, 3) RGB."""
    samples = _samples(header, model, data, "train")
    least, most = _CALIBRATION
    if len(samples) < least:
        raise DataError(
            f"{data} has {len(samples)} training pictures; to calibrate, {least} are the least, {most} good"
        )
    chosen = np.unique(np.linspace(0, len(samples) - 1, most).round().astype(int))
    return header.preprocessing.decode([samples.paths[int(i)] for i in chosen])


def _check_whole(path: Path) -> None:
    """Refuse what does not give what it says, now that it is complete."""
    artefact = read_artefact(path)
    proof = compare_golden(str(path), Classifier.from_file(artefact, "cpu"), artefact.golden)
    if not proof.ok:
        raise ModelFileError(
            f"nothing was written: the artefact gives other answers the second time ({proof.worst:.1e})"
        )


# --- the gates --------------------------------------------------------------------------------------------------------


def _prove_float32(
    classifier: Classifier, file: ModelFile, samples: Samples | None, progress: Counter | None
) -> dict[str, Any]:
    """Compare with the golden logits, and on samples with PyTorch; return the figures."""
    task, golden = file.header.task, file.golden
    answers = classifier.logits(golden.pictures)
    report = {"golden": _compare(answers, golden.logits, task, lambda i: f"golden sample {i}")}
    if samples is not None:
        peer = Classifier(file.header, open_session(file, "torch", "cpu"))
        ours, theirs = _answers(classifier, peer, samples, progress)
        report["check"] = _compare(ours, theirs, task, lambda i: str(samples.paths[i]))
    return report


def _compare(ours: np.ndarray, expected: np.ndarray, task: str, name: Callable[[int], str]) -> dict[str, Any]:
    """Return how far logits (n, K) are from what is expected, and refuse those that are too far."""
    far = np.abs(ours - expected).max(axis=1) / (float(np.abs(expected).max()) or 1.0)
    others = ~same_labels(ours, expected, task)
    worst = int(np.argmax(far + others * (1 + far.max())))  # another label is worse than any distance
    if others.any() or far.max() > GOLDEN_TOLERANCE:
        raise ModelFileError(
            f"nothing was written: the artefact answers otherwise. The worst of {len(far)} is {name(worst)}: "
            f"{far[worst]:.1e} of the largest logit (allowed {GOLDEN_TOLERANCE:.0e}), "
            f"{'another' if others[worst] else 'the same'} label; other labels in all: {int(others.sum())}"
        )
    return {"n": len(far), "worst": float(far.max())}


def _answers(
    first: Classifier, second: Classifier, samples: Samples, progress: Counter | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of two classifiers for the same samples, each (n, K)."""
    pairs = []
    done = 0
    for batch in Loader(samples, _BATCH, first.header.preprocessing).batches():
        pairs.append((first.answer(batch.pictures), second.answer(batch.pictures)))
        done += len(batch.labels)
        if progress is not None:
            progress(done, len(samples))
    ours, theirs = zip(*pairs, strict=True)
    return np.concatenate(ours), np.concatenate(theirs)


def _prove_int8(
    classifier: Classifier, file: ModelFile, to: str, samples: Samples, progress: Counter | None
) -> dict[str, Any]:
    """Return agreement, accuracy, speed and size of int8 beside float32 in the same runtime."""
    peer = Classifier(file.header, open_session(file, to, "cpu"))
    ours, theirs = (logits.argmax(axis=1) for logits in _answers(classifier, peer, samples, progress))
    rates = _rates([classifier.session, peer.session], file.header.preprocessing.image_size)
    return {
        "n": len(samples),
        "agreement": float((ours == theirs).mean()),
        "top1": {"int8": float((ours == samples.labels).mean()), "float32": float((theirs == samples.labels).mean())},
        "pictures_per_second": {"int8": rates[0], "float32": rates[1]},
    }


def _rates(sessions: list[Session], side: int) -> list[float]:
    """Return pictures a second of sessions that take turns."""
    pictures = np.random.default_rng(0).integers(0, 256, (_TIMED, side, side, 3), np.uint8)
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(1 + _TURNS):
        for session, measured in zip(sessions, seconds, strict=True):
            began = time.perf_counter()
            session(pictures)
            measured.append(time.perf_counter() - began)
    return [_TIMED / statistics.median(measured[1:]) for measured in seconds]


def _check_int8(report: Mapping[str, Any], min_agreement: float, max_drop: float) -> None:
    drop = report["top1"]["float32"] - report["top1"]["int8"]
    problems = []
    if report["agreement"] < min_agreement:
        problems.append(
            f"it gives {report['agreement']:.2%} of the labels of float32, at least {min_agreement:.2%} asked"
        )
    if drop > max_drop:
        problems.append(f"its top-1 is {drop:.2%} lower, at most {max_drop:.2%} allowed")
    if problems:
        raise ModelFileError(f"nothing was written: on {report['n']} pictures of int8, {'; '.join(problems)}")


# --- the formats ------------------------------------------------------------------------------------------------------


def _onnx_model(file: ModelFile) -> bytes:
    return encode_onnx(build_graph(file.header.architecture, file.header.preprocessing, file.weights))


def _onnx_writer(file: ModelFile, pictures: np.ndarray | None) -> Save:
    model = _onnx_model(file)
    if pictures is not None:
        from resnetv2.runtime.quantization import quantize_onnx

        model = quantize_onnx(model, pictures)

    def save(path: Path, text: str) -> None:
        path.write_bytes(model + encode_texts({"resnetv2": text}))

    return save


def _openvino_writer(file: ModelFile, pictures: np.ndarray | None) -> Save:
    model = openvino_core().read_model(_onnx_model(file), b"")
    if pictures is not None:
        from resnetv2.runtime.quantization import quantize_openvino

        model = quantize_openvino(model, pictures)

    def save(path: Path, text: str) -> None:
        import openvino

        model.set_rt_info(text, "resnetv2")
        openvino.save_model(model, path, compress_to_fp16=False)

    return save


def _torch_writer(file: ModelFile, _pictures: np.ndarray | None) -> Save:
    try:
        from resnetv2.runtime.exported import export_program, save_program
        from resnetv2.runtime.pytorch import build_model
    except ModuleNotFoundError as error:
        raise MissingExtra("exporting to torch", "train") from error
    program = export_program(build_model(file.header.architecture, file.weights), file.header.preprocessing)
    return lambda path, text: save_program(path, program, text)


_WRITERS: dict[str, Callable[[ModelFile, np.ndarray | None], Save]] = {
    "onnx": _onnx_writer,
    "openvino": _openvino_writer,
    "torch": _torch_writer,
}
