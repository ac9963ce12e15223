import json
import re
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.config import architecture
from resnetv2.errors import ConfigError
from resnetv2.recipes import TrainConfig, parse_settings

NAN, INF = float("nan"), float("inf")
NUMBERS = st.floats(0, 0.999)
CONFIGS = st.builds(
    TrainConfig,
    arch=st.sampled_from(["resnet18v2", "resnet50v2"]),
    dialect=st.sampled_from(["torch", "keras", "bit"]),
    model=st.sampled_from([{}, {"stem": "3x3"}, {"depths": (1, 1, 1, 1), "out_bias": True}]),
    epochs=st.integers(1, 1000),
    lr=st.none() | st.floats(1e-6, 10),
    momentum=NUMBERS,
    hflip=st.none() | st.floats(0, 1),
    crop_scale=st.none() | st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 4)),
    seed=st.integers(0, 2**63 - 1),
)

ALLOWED = {
    "arch": ["resnet18v2", "resnet152v2d"],
    "dialect": ["keras", "haiku"],
    "model": [{"stem": "3x3"}, {"depths": (1, 2, 3, 4)}],
    "image_size": [32, 225],
    "epochs": [1, 90],
    "batch_size": [2, 1000],
    "lr": [None, 1e-9, 3],
    "momentum": [0, 0.999],
    "weight_decay": [0, 2],
    "warmup_epochs": [0, 0.5],
    "label_smoothing": [None, 0, 0.999],
    "ema_decay": [0, 0.999],
    "ema_every": [1, 100],
    "drop_rate": [0, 0.999],
    "drop_path_rate": [0, 0.999],
    "zero_init_last": [True, False],
    "memory": ["saved", "recompute"],
    "kernels": ["auto", "plain", "fused"],
    "hflip": [None, 0, 1],
    "crop_scale": [None, (0.1, 1), (1, 1), (0.7, 4)],
    "crop_ratio": [(1, 1), (0.01, 100)],
    "auto_augment": ["none", "trivial", "rand", "rand-m0", "rand-m10"],
    "random_erasing": [0, 0.25, 1],
    "mixup": [0, 0.2, 1],
    "cutmix": [0, 1.0],
    "dct_scaling": [True, False],
    "seed": [0, 2**63 - 1],
    "device": ["auto", "cpu", "cuda:1"],
    "workers": [None, 1, 100],
    "worker_type": ["threads", "processes"],
    "cache_mb": [0, 4096],
    "save_minutes": [0, 0.1],
    "peer_timeout_s": [0.5, 600],
    "class_weights": ["none", "balanced", "effective"],
    "sampling": ["natural", "balanced", "repeated"],
    "group_by": [None, "patient", r"^(\d+)-"],
    "on_bad_image": ["error", "skip"],
    "recipe": ["scratch", "rsb-a1", "ffcv-16"],
    "weights": [None, "model.safetensors"],
    "task": [None, "classification", "multilabel", "regression"],
    "start_image_size": [None, 32, 224],
    "resize_ramp": [(0, 1), (0.5, 0.5)],
    "val_image_size": [None, 32, 480],
    "crop_pct": [None, 0.875, 1],
    "grad_accum_steps": [1, 16],
    "optimizer": ["sgd", "adamw", "lamb"],
    "schedule": ["cosine", "linear", "step", "constant"],
    "layer_decay": [0.5, 1],
    "l2_sp": [0],
    "clip_grad": [None, 0.1, 5],
    "loss": [None, "cross_entropy", "bce", "mse", "smooth_l1"],
    "bn": ["train", "frozen", "recalibrate"],
    "sync_bn": [True, False],
    "amp": ["off", "bf16", "fp16"],
    "compile": [True, False],
    "views": [1, 8],
    "features_gb": [0, 0.5],
    "track": ["auto", "none", "tensorboard", "wandb", "mlflow"],
}
REFUSED = {
    "arch": ["resnet5v2", 5, None, ["resnet50v2"], True],
    "dialect": ["kera", 5, None, ["torch"]],
    "model": ["x", 5, None, ["stem"], {"stem": 5}, {"stem": ["3x3"]}, {"steam": "3x3"}, {"depths": "abcd"}, {1: 2}],
    "image_size": [31, 0, -224, 224.0, "224", None, True, NAN],
    "epochs": [0, -1, 1.5, "abc", None, True],
    "batch_size": [1, 0, "32", 32.0],
    "lr": [0, -0.1, "fast", NAN, INF, True, (0.1,)],
    "momentum": [1, -0.1, "x", NAN, None],
    "weight_decay": [-1e-9, "x", NAN, INF, None],
    "warmup_epochs": [-1, "x", INF, None],
    "label_smoothing": [1, -0.1, "x"],
    "ema_decay": [1, 1.5, -0.1, "x"],
    "ema_every": [0, 0.5, "x", None],
    "drop_rate": [1, -0.1, "x"],
    "drop_path_rate": [1, -0.1, "x"],
    "zero_init_last": [1, 0, "true", None],
    "memory": ["save", None, 5, ["saved"]],
    "kernels": ["fast", None, 5, ["plain"]],
    "hflip": [-0.1, 1.1, "x", True, NAN],
    "crop_scale": [0.5, (0.5,), (0, 1), (0.9, 0.1), (0.5, 4.1), (0.1, 0.2, 0.3), "ab", ("a", "b"), (NAN, 1)],
    "crop_ratio": [None, 1, (0, 1), (2, 1), (1, 101), (1, NAN), "ab"],
    "auto_augment": ["randaugment", None, True, ["rand"], "rand-m11", "trivial-m3", "rand-m"],
    "random_erasing": [-0.1, 1.1, "x", None, NAN],
    "mixup": [-0.1, "x", None, NAN, INF, True],
    "cutmix": [-0.1, "x", None, NAN, INF, True],
    "dct_scaling": [1, 0, "true", None],
    "seed": [-1, 0.5, "x", None, 2**63],
    "device": [3, None, ["cpu"]],
    "workers": [0, -1, 1.5, "x", True],
    "worker_type": ["fibres", None, 1],
    "cache_mb": [-1, 0.5, "x", None, True],
    "save_minutes": [-1, "x", NAN, INF, None],
    "peer_timeout_s": [0, -1, "x", NAN, INF, None],
    "class_weights": ["uniform", True, None],
    "sampling": ["random", 1, None],
    "group_by": ["", 3, True],
    "on_bad_image": ["ignore", True, None],
    "recipe": [5, None, ["scratch"]],
    "weights": [5, True],
    "task": ["detection", 5],
    "start_image_size": [31, 64.0, "64"],
    "resize_ramp": [0.5, (0.5,), (0.8, 0.4), (-0.1, 1), (0, 1.1), None],
    "val_image_size": [31, 64.0, "64"],
    "crop_pct": [0, 1.1, "x", True],
    "grad_accum_steps": [0, 1.5, None, True],
    "optimizer": ["adam", None, 5],
    "schedule": ["poly", None, 5],
    "layer_decay": [0, 1.1, "x", None],
    "l2_sp": [-0.1, "x", None, NAN],
    "clip_grad": [0, -1, "x", INF],
    "loss": ["focal", 5],
    "bn": ["freeze", None, True],
    "sync_bn": [1, None],
    "amp": ["fp8", True, None],
    "compile": [1, None],
    "views": [0, 1.5, None],
    "features_gb": [-1, "x", None, NAN],
    "track": ["all", None, True],
}


def test_the_ranges_of_all_settings_are_tested():
    names = {field.name for field in fields(TrainConfig)}
    assert set(ALLOWED) == names
    assert set(REFUSED) == names


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in ALLOWED for value in ALLOWED[name]])
def test_a_value_in_range_is_taken(name, value):
    assert getattr(TrainConfig(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_a_value_out_of_range_or_of_another_type_is_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{name: value})
    words = {"arch": "arch", "dialect": "dialect", "model": "model|stem|steam|depths|field"}.get(
        name, f"{name} must be"
    )
    assert any(word in str(caught.value) for word in words.split("|"))


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(epochs=0, lr=-1, momentum=2, memory="x", workers=0, arch="resnet5v2")
    for word in ("epochs", "lr", "momentum", "memory", "workers", "resnet5v2"):
        assert word in str(caught.value)
    assert str(caught.value).count(";") == 5


def test_an_unknown_setting_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"^unknown setting 'batchsize': did you mean 'batch_size'\?$"):
        TrainConfig.from_dict({"batchsize": 3})


@given(CONFIGS)
def test_a_config_survives_json(config):
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_peak_rate_is_in_proportion_to_the_batch_unless_given():
    assert TrainConfig(batch_size=256).peak_lr == 0.2
    assert TrainConfig(batch_size=64).peak_lr == 0.05  # exact: a quarter, a power of two
    assert TrainConfig(batch_size=64, lr=0.3).peak_lr == 0.3


def test_the_architecture_is_the_named_one_in_its_dialect_with_fields_replaced():
    config = TrainConfig(arch="resnet18v2", dialect="keras", model={"stem": "3x3", "depths": (1, 1, 1, 1)})
    expected = architecture("resnet18v2", "keras", stem="3x3", depths=(1, 1, 1, 1), num_classes=7)
    assert config.architecture(7) == expected


@pytest.mark.parametrize("name", ["num_classes", "in_chans"])
def test_what_the_data_says_cannot_be_chosen(name):
    with pytest.raises(ConfigError, match=f"model.{name} is set by the data"):
        TrainConfig(model={name: 3})


@pytest.mark.parametrize("name", ["name", "dialect"])
def test_a_model_field_that_is_a_setting_elsewhere_is_unknown(name):
    with pytest.raises(ConfigError, match=f"unknown architecture field '{name}'"):
        TrainConfig(model={name: "keras"})


@pytest.mark.parametrize("classes", [list("0123456789"), ["A", "b"], ["AB", "7"], ["é", "日本"]])
def test_characters_are_neither_mirrored_nor_cropped_hard(classes):
    fitted = TrainConfig().fitted("classification", classes)
    assert fitted.hflip == 0
    assert fitted.crop_scale == (0.7, 1.3)


@pytest.mark.parametrize("classes", [["cat", "dog"], ["7", "cat"], ["10", "100"]])
def test_photographs_are_mirrored_and_cropped_hard(classes):
    fitted = TrainConfig().fitted("classification", classes)
    assert fitted.hflip == 0.5
    assert fitted.crop_scale == (0.35, 1.0)


@pytest.mark.parametrize("classes", [["0", "1"], ["cat", "dog"]])
def test_what_was_chosen_stays(classes):
    config = TrainConfig(lr=0.3, hflip=0.25, crop_scale=(0.5, 0.6), loss="bce", label_smoothing=0.2)
    assert config.fitted("classification", classes) == replace(config, task="classification")


@pytest.mark.parametrize("classes", [["0", "1"], ["cat", "dog"]])
@pytest.mark.parametrize("config", [TrainConfig(batch_size=64), TrainConfig(batch_size=64, lr=0.3)])
def test_a_fitted_config_names_its_peak_rate(config, classes):
    fitted = config.fitted("classification", classes)
    assert fitted.lr == fitted.peak_lr == (config.lr or 0.05)


def test_a_fitted_config_stays_fitted_for_any_classes():
    fitted = TrainConfig(epochs=3).fitted("classification", ["cat", "dog"])
    assert fitted.fitted("classification", ["0", "1"]) == fitted
    assert fitted.epochs == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"recipe": "rsb-a4"}, "unknown recipe 'rsb-a4': did you mean 'rsb-a"),
        ({"recipe": "lp-ft"}, "starts from weights"),
        ({"l2_sp": 0.1}, "starting weights"),
        ({"start_image_size": 256}, "at most image_size 224"),
        ({"batch_size": 6, "grad_accum_steps": 4}, "parts of two or more"),
        ({"class_weights": "effective", "sampling": "balanced"}, "count twice"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        TrainConfig(**settings)


def test_a_task_brings_its_loss_and_what_is_done_to_pictures():
    several = TrainConfig().fitted("multilabel", ["0", "1"])
    assert (several.loss, several.label_smoothing, several.hflip) == ("bce", 0, 0.5)
    number = TrainConfig().fitted("regression", ["target"])
    assert (number.loss, number.label_smoothing, number.hflip, number.crop_scale) == ("mse", 0, 0, (0.8, 1.0))
    one = TrainConfig(loss="bce").fitted("classification", ["cat", "dog"])
    assert (one.loss, one.label_smoothing) == ("bce", 0)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("zero_init_last=true", "zero_init_last", True),
        ("epochs=3", "epochs", 3),
        ("lr=1e-3", "lr", 1e-3),
        ("lr=null", "lr", None),
        ("hflip=.5", "hflip", 0.5),
        ("hflip=-.5", "hflip", -0.5),
        ("hflip=+.25", "hflip", 0.25),
        ("hflip=.", "hflip", "."),
        ("crop_scale=.5,1", "crop_scale", (0.5, 1)),
        ("crop_scale=0.5,1", "crop_scale", (0.5, 1)),
        ("crop_scale=[0.5,1]", "crop_scale", (0.5, 1)),
        ("device=cuda:1", "device", "cuda:1"),
        ("device=a=b", "device", "a=b"),
        ("device=", "device", ""),
        ('device="a,b"', "device", "a,b"),
        ("model.stem=3x3", "model", {"stem": "3x3"}),
        ("model.depths=1,1,1,1", "model", {"depths": (1, 1, 1, 1)}),
        ('model={"stem":"3x3","out_bias":true}', "model", {"stem": "3x3", "out_bias": True}),
        ("seed=" + "9" * 5000, "seed", "9" * 5000),  # longer than Python turns into a number: text, refused as such
    ],
)
def test_a_word_becomes_a_setting_of_its_type(word, key, value):
    found = parse_settings([word])
    assert found == {key: value}
    assert type(found[key]) is type(value)


def test_fields_of_the_model_are_collected():
    words = ["epochs=3", "model.stem=3x3", "model.out_bias=true", "model.stem=deep"]
    assert parse_settings(words) == {"epochs": 3, "model": {"stem": "deep", "out_bias": True}}


@pytest.mark.parametrize("words", [["epochs"], ["=3"], [""], ["model=5", "model.stem=3x3"]])
def test_a_word_that_sets_nothing_is_refused(words):
    with pytest.raises(ConfigError, match="--set"):
        parse_settings(words)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.booleans() | st.integers() | st.floats(allow_nan=False)))
def test_settings_written_as_json_are_read_as_they_were(settings):
    assert parse_settings([f"{key}={json.dumps(value)}" for key, value in settings.items()]) == settings


@given(st.sampled_from([*(f.name for f in fields(TrainConfig)), "model.stem", "model.depths", "model.x"]), st.text())
def test_any_text_given_for_any_setting_is_taken_or_refused_as_a_setting(name, text):
    try:
        config = TrainConfig.from_dict(parse_settings([f"{name}={text}"]))
    except ConfigError:
        return
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
