"""scikit-learn's estimators: its own checks, its tools, and the answers of the network behind them."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from runs import SETTINGS, TINY, write_colours
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_array, validate_data

import resnetv2
from resnetv2.errors import ConfigError, DataError, ModelFileError
from resnetv2.estimators import ResNetV2Classifier, ResNetV2Features
from resnetv2.training.probe import fit_classes
from resnetv2.weights.modelfile import ModelFile, read_model_file, write_model_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data") / "colours", train=8, val=2, test=4)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return resnetv2.train(data, out=out, set=TINY, **SETTINGS).best


def samples(data, split):
    paths = sorted((data / split).rglob("*.png"))
    return list(map(str, paths)), np.array([path.parent.name for path in paths])


# --- scikit-learn's checks --------------------------------------------------------------------------------------------


def paint(X):  # noqa: N803  scikit-learn's name
    """Return rows of numbers as pictures uint8 (N, 32, 32, 3): a stripe for each number, its grey by its size."""
    greys = np.rint(255 / (1 + np.exp(-X.astype(np.float64) / 4))).astype(np.uint8)
    stripes = greys[:, np.arange(32) * X.shape[1] // 32]
    return np.repeat(np.repeat(stripes[:, :, None, None], 32, axis=2), 3, axis=3)


class Painted:
    """Before an estimator: takes rows of numbers, which the checks are made of, and paints them."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string, tags.no_validation = True, False, False
        return tags

    def _features(self, X, reset):  # noqa: N803
        X = validate_data(self, X, reset=reset, dtype=np.float64)  # noqa: N806
        return super()._features(paint(X), reset)


class PaintedClassifier(Painted, ResNetV2Classifier):
    """The classifier of painted numbers."""


class PaintedFeatures(Painted, ResNetV2Features):
    """The features of painted numbers; its ``fit`` looks at them as the checks want it."""

    def fit(self, X, y=None):  # noqa: N803
        validate_data(self, X, dtype=np.float64)
        return super().fit(list(paint(check_array(X))), y)


NOT_OURS = {  # check: why it does not apply
    PaintedClassifier: {
        "check_class_weight_classifiers": "class_weight is None or 'balanced', not a weight for each class",
    },
    PaintedFeatures: {},
}


def make(kind, path):
    more = {"random_state": 0} if issubclass(kind, ResNetV2Classifier) else {}
    return kind(str(path), runtime="onnx", device="cpu", **more)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # of pictures, most checks do not apply
@pytest.mark.parametrize("kind", [ResNetV2Classifier, ResNetV2Features])
def test_scikit_learn_accepts_the_estimators_as_they_are(kind, model):
    check_estimator(make(kind, model))


@pytest.mark.parametrize("kind", [PaintedClassifier, PaintedFeatures])
def test_of_painted_numbers_scikit_learns_own_checks_pass_but_for_those_listed(kind, model):
    results = check_estimator(make(kind, model), expected_failed_checks=NOT_OURS[kind], on_skip=None, on_fail=None)
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    assert not failed
    assert {one["check_name"] for one in results if one["status"] == "xfail"} == set(NOT_OURS[kind])
    assert sum(one["status"] == "passed" for one in results) >= 35  # 53 and 45 with scikit-learn 1.9


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_features_are_those_of_embed_for_paths_and_for_pixels(model, data):
    paths, _ = samples(data, "test")
    classifier = resnetv2.load(model, device="cpu", runtime="onnx")
    expected = np.stack([one.features for one in classifier.embed(paths, "stage2", normalize=True)])
    features = ResNetV2Features(model, layer="stage2", normalize=True, runtime="onnx").fit(paths)
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    for pictures in (paths, np.array(paths), np.array(paths, object)[:, None], pixels, np.stack(pixels)):
        got = features.transform(pictures)
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() <= 1e-5  # of rows of length 1: float32 sums in another order
    assert features.get_feature_names_out()[:2].tolist() == ["resnetv2features0", "resnetv2features1"]
    assert len(features.get_feature_names_out()) == features.n_features_out_ == expected.shape[1]


def test_the_classifier_is_the_probe_of_training_and_its_probabilities_are_softmax(model, data):
    paths, labels = samples(data, "train")
    fitted = ResNetV2Classifier(model, random_state=3, runtime="onnx").fit(paths, labels)
    features = ResNetV2Features(model, runtime="onnx").fit_transform(paths)
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    probe = fit_classes(features[None], np.unique(labels, return_inverse=True)[1], 3, seed=seed)
    assert np.array_equal(fitted.coef_, probe.weight)
    assert fitted.strength_ == probe.strength
    test, truth = samples(data, "test")
    assert fitted.score(test, truth) >= 0.9  # three colours
    probabilities = fitted.predict_proba(test)
    assert np.abs(probabilities.sum(axis=1) - 1).max() <= 1e-12  # float64
    assert np.array_equal(fitted.classes_[probabilities.argmax(axis=1)], fitted.predict(test))
    logits = fitted.decision_function(test)
    assert np.array_equal(logits.argmax(axis=1), probabilities.argmax(axis=1))


def test_of_two_classes_the_decision_is_one_number(model, data):
    paths, labels = samples(data, "train")
    two = labels != "blue"
    fitted = ResNetV2Classifier(model, class_weight="balanced", runtime="onnx")
    fitted.fit([path for path, one in zip(paths, two, strict=True) if one], labels[two])
    decision = fitted.decision_function(paths)
    assert decision.shape == (len(paths),)
    assert np.array_equal(fitted.predict(paths) == "red", decision > 0)


def test_pipelines_searches_and_processes_of_scikit_learn_take_them(model, data, monkeypatch):
    paths, labels = samples(data, "train")
    pipeline = make_pipeline(ResNetV2Features(str(model), runtime="onnx"), StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"resnetv2features__layer": ["stage1", "pooled"]}, cv=2).fit(paths, labels)
    assert search.best_score_ >= 0.9  # three colours
    scores = cross_val_score(
        ResNetV2Classifier(str(model), runtime="onnx", random_state=0), paths, labels, cv=2, n_jobs=2
    )
    assert scores.mean() >= 0.9  # likewise


def test_a_pickle_holds_no_network_and_answers_the_same(model, data):
    paths, labels = samples(data, "train")
    fitted = ResNetV2Classifier(str(model), runtime="onnx").fit(paths, labels)
    text = pickle.dumps(fitted)
    assert len(text) < 20_000  # the model file has two hundred thousand
    again = pickle.loads(text)
    assert np.array_equal(again.predict_proba(paths), fitted.predict_proba(paths))
    assert clone(fitted).get_params() == fitted.get_params()


def test_a_model_that_changed_since_fit_is_refused_until_it_is_fitted_again(model, data, tmp_path):
    paths, labels = samples(data, "train")
    path = tmp_path / "model.safetensors"
    shutil.copy(model, path)
    fitted = ResNetV2Classifier(str(path), runtime="onnx").fit(paths, labels)
    text = pickle.dumps(fitted)
    file = read_model_file(model)
    changed = {**file.weights, "norm.bias": file.weights["norm.bias"] + np.float32(1e-3)}
    write_model_file(path, ModelFile(file.header, changed, file.golden))
    again = pickle.loads(text)
    with pytest.raises(ModelFileError, match="is not the model that this estimator was fitted with"):
        again.predict(paths)
    assert again.fit(paths, labels).predict(paths).shape == (len(paths),)


def test_an_estimator_that_is_set_to_another_layer_or_model_uses_it(model, data):
    paths, _ = samples(data, "test")
    features = ResNetV2Features(model, runtime="onnx").fit(paths)
    pooled = features.transform(paths)
    features.set_params(runtime="torch", device="cpu")
    other = features.transform(paths)
    assert np.abs(other - pooled).max() <= 1e-5 * np.abs(pooled).max()  # runtimes sum float32 in other orders
    assert features.set_params(layer="stage1").fit(paths).transform(paths).shape == (len(paths), 16)


def test_every_picture_that_cannot_be_read_is_named_at_once(model, data, tmp_path):
    paths, _ = samples(data, "train")
    (tmp_path / "bad.png").write_bytes(b"")
    mixed = [
        *paths[:2],
        str(tmp_path / "bad.png"),
        tmp_path / "no.png",
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        7,
    ]
    features = ResNetV2Features(model, runtime="onnx").fit(paths)
    with pytest.raises(DataError) as error:
        features.transform(mixed)
    for words in (
        "bad.png: the file is empty",
        "no.png: No such file",
        "number 4 is neither a path nor pixels uint8 (H, W, 3): uint8 (4, 4)",
        "number 5 is neither a path nor pixels uint8 (H, W, 3): float64 (4, 4, 3)",
        "number 6 is neither a path nor pixels uint8 (H, W, 3): 7",
    ):
        assert words in str(error.value)
    with pytest.raises(DataError, match=r"… \(20 in all\)"):
        features.transform([f"{number}.png" for number in range(20)])


def test_what_cannot_be_fitted_is_refused(model, data):
    paths, labels = samples(data, "train")
    with pytest.raises(DataError, match="got none"):
        ResNetV2Features(model).fit([])
    with pytest.raises(DataError, match=r"got 'x\.png' alone"):
        ResNetV2Features(model).fit("x.png")
    with pytest.raises(ConfigError, match="no layer 'stage9'"):
        ResNetV2Features(model, layer="stage9", device="cpu").fit(paths)
    with pytest.raises(ConfigError, match="class_weight must be None or 'balanced', got 'heavy'"):
        ResNetV2Classifier(model, class_weight="heavy").fit(paths, labels)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[24, 23\]"):
        ResNetV2Classifier(model, device="cpu").fit(paths, labels[1:])
    with pytest.raises(ValueError, match="at least 2 classes are needed"):
        ResNetV2Classifier(model, device="cpu").fit(paths[:8], labels[:8])
    with pytest.raises(ModelFileError, match="no such file"):
        ResNetV2Classifier("no.safetensors").fit(paths, labels)


def test_scikit_learn_is_imported_for_the_estimators_alone_and_its_absence_is_told():
    code = (
        "import sys, resnetv2; resnetv2.embed; resnetv2.load; assert 'sklearn' not in sys.modules\n"
        "sys.modules['sklearn'] = None\n"
        "try: resnetv2.ResNetV2Features\nexcept resnetv2.MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 'pip install "resnetv2[train]"' in done.stdout
