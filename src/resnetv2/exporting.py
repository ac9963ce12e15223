"""Networks in a runtime's own format, written only after they have proved to answer as the model file does."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from resnetv2.console import Counter
from resnetv2.data.index import Samples, find_unlabelled, refuse_inside
from resnetv2.data.load import Loader
from resnetv2.errors import ConfigError, DataError, Error, MissingExtra, ModelFileError, unknown
from resnetv2.evaluation.answers import find_pictures
from resnetv2.files import rename_durably, require_space
from resnetv2.inference import GOLDEN_TOLERANCE, Classifier, compare_golden, read_model, same_labels, softmax
from resnetv2.preprocess import Readable
from resnetv2.repository.folder import SOURCES, from_pretrained, save_pretrained, write_folder
from resnetv2.runtime.artefact import RUNTIMES, Artefact, read_artefact, write_artefact
from resnetv2.runtime.choice import open_session
from resnetv2.runtime.graph import Graph, build_graph
from resnetv2.runtime.onnxmodel import encode_onnx, encode_texts
from resnetv2.runtime.openvino import openvino_core
from resnetv2.runtime.session import Session
from resnetv2.weights.modelfile import Golden, Header, ModelFile

MIN_AGREEMENT = 0.99
MAX_DROP = 0.005  # half a point of top-1
_CALIBRATION = (32, 300)  # pictures: the fewest that are taken, and the most, which is NNCF's default
_CHECKED = 1000  # pictures: the most of those to calibrate with that are kept to check on
_BATCH = 32
_DISTANCE_TOLERANCE = 0.01  # features are off by about 1e-6, and their least variance may be 1e-6 of the whole
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
    of PyTorch; of a calibrated model, also the distances from the training data within 1 %. In int8 it must agree with
    float32 on ``check``, of a calibrated model also on when to abstain.

    Args:
        model: a model file, or published weights by name.
        to: "onnx" (.onnx), "openvino" (.xml, with a .bin beside it) or "torch" (.pt2, of ``torch.export``); "timm" or
            "transformers" for the folder of ``save_pretrained``, read back before it is written.
        out: the new file, or folder.
        check: labelled pictures, as ``evaluate`` takes them, or pictures without labels: a folder without folders in
            it, or a CSV or Parquet file with the column image_path alone.
        split: of ``check``, where it has labels: "train", "val", "test" or "all".
        int8: 8-bit weights and activations, static, with a scale for each output channel; for "onnx" and "openvino".
        calibrate: pictures that tell how large activations get, with labels or without; at most 300 count, of labelled
            ones those of the training split. Without ``check``, every other one is kept to check on.
        min_agreement: the least share of ``check`` that int8 must answer as float32 does.
        max_drop: the most of top-1 on ``check`` that int8 may lose, where there are labels.
        progress: called with the pictures of ``check`` that are done and the total.

    Raises:
        ConvertError: timm or transformers has no such network.
        ModelFileError: the artefact answers something else, with the worst sample; or the model has no golden samples.
        ConfigError: an unknown format, another ending, or options that do not go together.
        DataError: fewer than 32 pictures to calibrate with (64 without ``check``), other classes than the model's, or
            an unreadable picture.
        MissingExtra: a package is not installed.
        Error: ``out`` exists, or the file system refused.
    """
    out = Path(out)
    if to in SOURCES:
        if int8 or calibrate is not None or check is not None:
            raise ConfigError(f"a folder for {to} holds the weights as they are: no int8, calibrate or check")
        return _export_folder(_read_source(model, int8), model, to, out)
    _check_options(out, to, int8, calibrate, (min_agreement, max_drop))
    for data in (calibrate, check):
        if data is not None:
            refuse_inside(out, Path(data))
    file = _read_source(model, int8)
    require_space(out.parent, _least_bytes(file, int8))
    pictures, check_on = _find(file, str(model), calibrate, check, split)
    save = _WRITERS[to](file, pictures)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            artefact = _begin(Path(folder, out.name), file, int8)
            write_artefact(artefact, save)
            if int8 and check_on is not None:
                report, golden = _prove_int8(artefact.path, file, to, check_on, (min_agreement, max_drop), progress)
            else:
                report, golden = _prove_float32(artefact.path, file, to, check_on, progress), file.golden
            write_artefact(replace(artefact, golden=golden, report=report), save)
            _check_whole(artefact.path)
            for part in _parts(artefact.path):  # the .xml last: it is what makes an artefact
                rename_durably(part, out.with_suffix(part.suffix), new=True)
    except OSError as error:
        raise Error(f"cannot write {out}: {error.strerror or error}") from error
    return Exported(out=out, to=to, precision=artefact.precision, report=report)


def _export_folder(file: ModelFile, model: str | Path, to: str, out: Path) -> Exported:
    """Write a folder that another library loads, if one read back gives the golden logits."""
    with TemporaryDirectory() as temporary:
        write_folder(file, Path(temporary, "folder"), to)
        classifier = from_pretrained(Path(temporary, "folder"), device="cpu")
        answers = classifier.logits(file.golden.pictures)
    found = _compare(answers, file.golden.logits, file.header.task, lambda i: f"golden sample {i}")
    require_space(out.parent, _least_bytes(file, int8=False))
    return Exported(out=save_pretrained(model, out, to=to), to=to, precision="float32", report={"golden": found})


def _check_options(out: Path, to: str, int8: bool, calibrate: object, bounds: tuple[float, float]) -> None:
    endings = {runtime: ending for ending, runtime in RUNTIMES.items()}
    if to not in endings:
        raise ConfigError(unknown("format", to, [*endings, *SOURCES]))
    if out.suffix != endings[to]:
        raise ConfigError(f"an artefact of the format {to!r} ends in {endings[to]}, got {out}")
    if int8 and to == "torch":
        raise ConfigError("int8 is for onnx and openvino: PyTorch has no such kernels for every processor")
    if int8 and calibrate is None:
        raise ConfigError("int8 needs pictures to calibrate with, with labels or without: calibrate")
    if not (0 <= bounds[0] <= 1 and -1 <= bounds[1] <= 1):
        raise ConfigError(f"min_agreement is a share from 0 to 1 and max_drop one from -1 to 1, got {bounds}")
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


def _least_bytes(file: ModelFile, int8: bool) -> int:
    """Return what an artefact's weights alone take."""
    return sum(value.nbytes for value in file.weights.values()) // (4 if int8 else 1)


def _read_source(model: str | Path, int8: bool) -> ModelFile:
    """Return the model file, if it can be exported like this."""
    file = read_model(model)
    if isinstance(file, Artefact):
        raise ConfigError(f"{model} is an artefact already: export the model file")
    if not file.golden.pictures:
        raise ModelFileError(f"{model} holds no golden samples: nothing would prove what is exported")
    if int8 and (not file.header.classes or file.header.task != "classification"):
        raise ConfigError("int8 is checked by its labels: the network must have a head, for one class of each picture")
    return file


def _begin(path: Path, file: ModelFile, int8: bool) -> Artefact:
    precision = "int8" if int8 else "float32"
    return Artefact(path=path, precision=precision, header=file.header, golden=file.golden, likeness=file.likeness)


def _find(
    file: ModelFile, model: str, calibrate: str | Path | None, check: str | Path | None, split: str
) -> tuple[np.ndarray | None, _Pictures | None]:
    """Return the pictures to calibrate with, uint8 (n, side, side, 3) RGB, and those to check on.

    Without ``check``, every other picture of ``calibrate`` calibrates, and the rest are checked on.
    """
    check_on = None if check is None else _look_up(file.header, model, check, split)
    if calibrate is None:
        return None, check_on
    try:
        found = _look_up(file.header, model, calibrate, "train")
    except DataError as error:
        raise DataError(f"{error}\n(labels are not needed to calibrate: pictures in one folder will do)") from error
    least, most = _CALIBRATION
    if check_on is None:
        check_on, found, least = found.take(slice(1, None, 2), _CHECKED), found.take(slice(0, None, 2)), 2 * least
    elif not set(map(_place, found.samples.paths)).isdisjoint(map(_place, check_on.samples.paths)):
        raise ConfigError(
            "int8 would be checked on pictures that it is calibrated with: of labelled ones take another --split, of "
            "others leave --check out, for a half each"
        )
    count = len(found.samples) + (len(check_on.samples) if check is None else 0)
    if count < least:
        what, half = ("training pictures" if found.labelled else "pictures"), "" if check else ", half of them to check"
        raise DataError(f"{calibrate} has {count} {what}; to calibrate, {least} are the least{half}, {most} good")
    batches = Loader(found.take(slice(None), most).samples, _BATCH, file.header.preprocessing).batches()
    return np.concatenate([batch.pictures for batch in batches]), check_on


@dataclass(frozen=True)
class _Pictures:
    """Pictures to calibrate with or to check on; where they have no labels, these are -1."""

    samples: Samples
    labelled: bool

    def take(self, part: slice, most: int | None = None) -> _Pictures:
        """Return a part of them, and of that at most so many, evenly taken."""
        places = np.arange(len(self.samples))[part]
        if most is not None and len(places) > most:
            places = places[np.linspace(0, len(places) - 1, most).round().astype(int)]
        paths = [self.samples.paths[int(place)] for place in places]
        return replace(self, samples=Samples(paths, self.samples.labels[places]))


def _place(picture: Readable) -> object:
    """Return what two names of one picture have in common."""
    return os.path.realpath(picture) if isinstance(picture, Path) else picture


def _look_up(header: Header, model: str, data: str | Path, split: str) -> _Pictures:
    paths = find_unlabelled(Path(data))
    if paths is not None:
        return _Pictures(Samples(paths, np.full(len(paths), -1)), labelled=False)
    return _Pictures(find_pictures(header, model, data, split).samples, labelled=True)


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
    path: Path, file: ModelFile, to: str, pictures: _Pictures | None, progress: Counter | None
) -> dict[str, Any]:
    """Compare with the golden logits, and on pictures with PyTorch; return the figures."""
    classifier, task, golden = _open(path), file.header.task, file.golden
    answers = classifier.logits(golden.pictures)
    report = {"golden": _compare(answers, golden.logits, task, lambda i: f"golden sample {i}")}
    if pictures is not None:
        peer = Classifier(file.header, open_session(file, "torch", "cpu"))
        samples = pictures.samples
        ours, theirs = _answers(Classifier.answer, (classifier, peer), samples, progress)
        report["check"] = _compare(ours, theirs, task, lambda i: str(samples.paths[i]))
    if file.likeness is not None:
        report["distances"] = _prove_distances(classifier, file, to)
    return report


def _open(path: Path) -> Classifier:
    """Read an artefact back from the disk."""
    return Classifier.from_file(read_artefact(path), "cpu")


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


def _prove_distances(classifier: Classifier, file: ModelFile, to: str) -> dict[str, Any]:
    """Return how far the golden pictures' distances from the training data are from the model's, and refuse others."""
    peer = Classifier(file.header, open_session(file, "torch" if find_spec("torch") else to, "cpu"), file.likeness)
    pixels = file.header.preprocessing.decode(file.golden.pictures)
    ours, theirs = (each.answer_with_distances(pixels)[1] for each in (classifier, peer))
    worst = float(np.abs(ours / theirs - 1).max())
    if not worst <= _DISTANCE_TOLERANCE:
        raise ModelFileError(
            f"nothing was written: the artefact is {worst:.1%} off in how far the golden samples are from the training "
            f"data (allowed {_DISTANCE_TOLERANCE:.0%}), so it would abstain otherwise"
        )
    return {"n": len(ours), "worst": worst}


def _answers(
    ask: Callable[[Classifier, np.ndarray], np.ndarray],
    pair: tuple[Classifier, Classifier],
    samples: Samples,
    progress: Counter | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is asked of two classifiers about the same samples, each (n, …)."""
    pairs = []
    done = 0
    for batch in Loader(samples, _BATCH, pair[0].header.preprocessing).batches():
        pairs.append((ask(pair[0], batch.pictures), ask(pair[1], batch.pictures)))
        done += len(batch.labels)
        if progress is not None:
            progress(done, len(samples))
    ours, theirs = zip(*pairs, strict=True)
    return np.concatenate(ours), np.concatenate(theirs)


def _prove_int8(
    path: Path,
    file: ModelFile,
    to: str,
    pictures: _Pictures,
    bounds: tuple[float, float],
    progress: Counter | None,
) -> tuple[dict[str, Any], Golden]:
    """Return agreement, accuracy, speed and size of int8 beside float32 in the same runtime, and its golden logits."""
    classifier, samples = _open(path), pictures.samples
    peer = Classifier(file.header, open_session(file, to, "cpu"), file.likeness)
    (ours, our_answers), (theirs, their_answers) = (
        found.T for found in _answers(_decide, (classifier, peer), samples, progress)
    )
    report: dict[str, Any] = {"n": len(samples), "agreement": float((our_answers == their_answers).mean())}
    if pictures.labelled:
        hits = {"int8": ours == samples.labels, "float32": theirs == samples.labels}
        report["top1"] = {precision: float(hit.mean()) for precision, hit in hits.items()}
    _check_int8(report, *bounds)
    rates = _rates([classifier.session, peer.session], file.header.preprocessing.image_size)
    report["pictures_per_second"] = {"int8": rates[0], "float32": rates[1]}
    report["bytes"] = {"int8": _size(path), "float32": sum(v.nbytes for v in file.weights.values())}
    return report, Golden(file.golden.pictures, classifier.logits(file.golden.pictures))


def _decide(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Return the label's number, and what is answered if it may abstain: that, -1 "not sure" or -2 "unlike"; (n, 2)."""
    calibration = classifier.header.calibration
    if calibration is None:
        labels = classifier.answer(pixels).argmax(axis=1)
        return np.stack([labels, labels], axis=1)
    logits, distances = classifier.answer_with_distances(pixels)
    labels = logits.argmax(axis=1)
    sure = softmax(calibration.scale(logits)).max(axis=1) >= calibration.threshold
    return np.stack([labels, np.where(distances > calibration.limit, -2, np.where(sure, labels, -1))], axis=1)


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
    top1 = report.get("top1", {"float32": 0.0, "int8": 0.0})  # not known without labels
    drop = top1["float32"] - top1["int8"]
    problems = []
    if report["agreement"] < min_agreement:
        problems.append(
            f"it gives {report['agreement']:.2%} of the answers of float32, at least {min_agreement:.2%} asked"
        )
    if drop > max_drop:
        problems.append(f"its top-1 is {drop:.2%} lower, at most {max_drop:.2%} allowed")
    if problems:
        raise ModelFileError(f"nothing was written: on {report['n']} pictures of int8, {'; '.join(problems)}")


# --- the formats ------------------------------------------------------------------------------------------------------


def _graph(file: ModelFile) -> Graph:
    return build_graph(file.header.architecture, file.header.preprocessing, file.weights)


def _onnx_writer(file: ModelFile, pictures: np.ndarray | None) -> Save:
    if pictures is None:
        model = encode_onnx(_graph(file))
    else:
        from resnetv2.runtime.quantization import quantize_onnx

        model = quantize_onnx(_graph(file), pictures)

    def save(path: Path, text: str) -> None:
        path.write_bytes(model + encode_texts({"resnetv2": text}))

    return save


def _openvino_writer(file: ModelFile, pictures: np.ndarray | None) -> Save:
    model = openvino_core().read_model(encode_onnx(_graph(file)), b"")
    if pictures is not None:
        from resnetv2.runtime.quantization import quantize_openvino

        model = quantize_openvino(model, pictures)

    def save(path: Path, text: str) -> None:
        import openvino

        model.set_rt_info(text, "resnetv2")
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # how OpenVINO reports a full disk, without saying so
            raise OSError(
                f"OpenVINO could not write it all; is the disk full? ({str(error).splitlines()[-1]})"
            ) from error

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
