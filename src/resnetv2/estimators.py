"""scikit-learn's estimators: pictures to features, and a classifier on them, for its pipelines and searches.

They take what ``fit`` and ``predict`` of scikit-learn take, but that a sample is a picture: a path, or pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from resnetv2.embedding.run import identify
from resnetv2.errors import ConfigError, DataError, MissingExtra, ModelFileError
from resnetv2.inference import Classifier, read_model, softmax
from resnetv2.runtime.choice import AUTO
from resnetv2.runtime.session import POOLED

_BATCH = 32
_MOST_NAMED = 12  # pictures in one message


class _Pictures(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """What both estimators do: ask a network for features.

    The network is loaded when it is first asked, and not pickled: a copy in another process loads it from ``model``
    again, and refuses one that has changed since.
    """

    model: str | Path
    layer: str
    normalize: bool
    device: str
    runtime: str

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True  # in scikit-learn's sense, of numbers in columns
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_loaded"}

    def _load(self) -> Classifier:
        """Return the network, loaded anew if the parameters are others by now."""
        asked = (str(self.model), self.device, self.runtime)
        kept = self.__dict__.get("_loaded")
        if kept is None or kept[0] != asked:
            file = read_model(self.model)
            kept = (asked, identify(file), Classifier.from_file(file, self.device, self.runtime))
            self._loaded = kept
        if getattr(self, "model_sha256_", kept[1]) != kept[1]:
            raise ModelFileError(f"{self.model} is not the model that this estimator was fitted with: fit it again")
        return kept[2]

    def _learn_network(self) -> Classifier:
        """Load the network as the one to be fitted with, and forget another one."""
        self.__dict__.pop("model_sha256_", None)
        classifier = self._load()
        self.model_sha256_ = self._loaded[1]
        return classifier

    def _features(self, X: Any, reset: bool) -> np.ndarray:  # noqa: ARG002, N803
        """Return features float32 (N, D) of pictures.

        Args:
            X: paths, or pixels uint8 (H, W, 3) RGB, N of them; a table of one column is its column.
            reset: whether this is ``fit``.

        Raises:
            DataError: none, or pictures that cannot be read, each with its reason.
        """
        pictures = _list(X)
        classifier = self._load()
        rows: list[np.ndarray] = []
        problems: list[str] = []
        for low in range(0, len(pictures), _BATCH):
            read = list(_read(classifier, pictures[low : low + _BATCH], low))
            problems += [row for row in read if isinstance(row, str)]
            batch = [row for row in read if isinstance(row, np.ndarray)]
            if batch and not problems:
                rows.append(classifier.features(np.stack(batch), self.layer, self.normalize))
        if problems:
            more = f" … ({len(problems)} in all)" if len(problems) > _MOST_NAMED else ""
            raise DataError(f"pictures that cannot be read: {'; '.join(problems[:_MOST_NAMED])}{more}")
        return np.concatenate(rows)


class ResNetV2Features(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Pictures):  # type: ignore[misc]
    """Pictures to features: a transformer that learns nothing.

    Args:
        model: a model file, an artefact, or published weights by name.
        layer: "pooled" is what the network's head classifies; of "stage1", "stage2" … the mean over the map's places.
        normalize: scale every row to length 1.
        device: "auto", "cpu", "cuda", "mps".
        runtime: see ``Classifier.load``.

    Attributes:
        n_features_out_: D.
        model_sha256_: of what decides the features; see ``embed``.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        layer: str = POOLED,
        normalize: bool = False,
        device: str = "auto",
        runtime: str = AUTO,
    ) -> None:
        self.model = model
        self.layer = layer
        self.normalize = normalize
        self.device = device
        self.runtime = runtime

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # features are float32, whatever pictures are
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002, N803
        """Load the network, and see that it has the layer; of the pictures nothing is learned, and none is read.

        Raises:
            ModelFileError, ConfigError, MissingExtra: see ``Classifier.load``.
            DataError: no pictures.
        """
        _list(X)
        classifier = self._learn_network()
        side = classifier.header.preprocessing.image_size
        self.n_features_out_ = classifier.features(np.zeros((1, side, side, 3), np.uint8), self.layer).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return features float32 (N, D) of pictures: paths, or pixels uint8 (H, W, 3) RGB of any size.

        Raises:
            DataError: pictures that cannot be read, each with its reason.
            ModelFileError: the model has changed since ``fit``.
        """
        check_is_fitted(self)
        return self._features(X, reset=False)

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_out_)


class ResNetV2Classifier(ClassifierMixin, _Pictures):  # type: ignore[misc]
    """A class for each picture: logistic regression on the features of a network that stays as it is.

    Its strength is chosen by cross-validation, as ``train --recipe probe`` does it.

    Args:
        model: a model file, an artefact, or published weights by name.
        layer: as for ``ResNetV2Features``.
        class_weight: None, or "balanced" for a loss in which every class counts the same.
        random_state: of the folds: a number, a generator, or None for any.
        device, runtime: as for ``ResNetV2Features``.

    Attributes:
        classes_: in order of the columns of ``predict_proba``.
        coef_, intercept_: float32 (K, D) and (K,), on features as they come.
        strength_: the chosen one.
        held_out_score_: the share of right answers on pictures that were held out, with that strength.
        model_sha256_: of what decides the features; see ``embed``.
    """

    normalize = False

    def __init__(
        self,
        model: str | Path,
        *,
        layer: str = POOLED,
        class_weight: str | None = None,
        random_state: Any = None,
        device: str = "auto",
        runtime: str = AUTO,
    ) -> None:
        self.model = model
        self.layer = layer
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.runtime = runtime

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Learn from pictures, as ``transform`` takes them, and their classes (N,).

        Raises:
            DataError: pictures that cannot be read, each with its reason; fewer than two.
            ConfigError: an unknown ``class_weight``.
            ValueError: no classes, only one, or another number of them than of pictures.
            MissingExtra: torch is not installed.
        """
        try:
            from resnetv2.training.probe import fit_classes
        except ModuleNotFoundError as error:
            raise MissingExtra("fitting a classifier", "train") from error
        if self.class_weight not in (None, "balanced"):
            raise ConfigError(f"class_weight must be None or 'balanced', got {self.class_weight!r}")
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        self._learn_network()
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        check_consistent_length(X, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) == 1:
            raise ValueError(f"at least 2 classes are needed, got 1 class: {self.classes_[0]!r}")
        features = self._features(X, reset=True)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        probe = fit_classes(
            features[None], labels, len(self.classes_), class_weights=self.class_weight or "none", seed=seed
        )
        self.coef_, self.intercept_ = probe.weight, probe.bias
        self.strength_ = probe.strength
        self.held_out_score_ = probe.scores[probe.strengths.index(probe.strength)]
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return logits float64 (N, K); of two classes, (N,) the second's minus the first's."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the most probable class of each picture, (N,)."""
        best = self._logits(X).argmax(axis=1)
        answers: np.ndarray = self.classes_[best]
        return answers

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return probabilities float64 (N, K), each row summing to 1."""
        return softmax(self._logits(X))

    def _logits(self, X: Any) -> np.ndarray:  # noqa: N803
        check_is_fitted(self)
        features = self._features(X, reset=False).astype(np.float64)
        logits: np.ndarray = features @ self.coef_.T.astype(np.float64) + self.intercept_
        return logits


def _list(X: Any) -> Sequence[Any]:  # noqa: N803
    """Return pictures one by one; a table of one column is its column.

    Raises:
        DataError: there are none.
    """
    if isinstance(X, str | bytes | Path):
        raise DataError(f"pictures are a list of paths or of pixels, got {X!r} alone")
    if hasattr(X, "to_numpy"):  # a column of pandas or polars
        X = X.to_numpy()  # noqa: N806
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]  # noqa: N806
    pictures = list(X)
    if len(pictures) == 0:
        raise DataError("pictures are a list of paths or of pixels, got none")
    return pictures


def _read(classifier: Classifier, pictures: Sequence[Any], first: int) -> Iterator[np.ndarray | str]:
    """Yield pixels uint8 (side, side, 3), or what is wrong with a picture; ``first`` is the number of the first."""
    preprocessing = classifier.header.preprocessing
    for number, picture in enumerate(pictures, first):
        if isinstance(picture, str | Path):
            try:
                yield preprocessing.decode([Path(picture)])[0]
            except DataError as error:
                yield f"{picture}: {error}"
        elif (
            isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,) and picture.size
        ):
            yield preprocessing(Image.fromarray(picture))
        else:
            told = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else f"{picture!r:.60}"
            yield f"number {number} is neither a path nor pixels uint8 (H, W, 3): {told}"
