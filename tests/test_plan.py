"""Which settings a run has: pure functions of pictures, weights, machine and time."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnetv2.config import architecture
from resnetv2.errors import ConfigError
from resnetv2.imagenet_recipes import IMAGENET_RECIPES
from resnetv2.preprocess import Preprocessing
from resnetv2.recipes import PRETRAINED, TrainConfig, peak_rate
from resnetv2.training.plan import (
    Facts,
    choose_strategy,
    finetune_settings,
    fitting_strategies,
    make_config,
    resolve_recipe,
    say_seconds,
)
from resnetv2.weights.modelfile import Header

START = Header(
    architecture=architecture("resnet50v2", num_classes=2), preprocessing=Preprocessing(), classes=("cat", "dog")
)
FACTS = Facts(pictures=1_000, classes=10, area=500 * 375, start=START, device="cpu")
SCRATCH = replace(FACTS, start=None)


def test_weights_make_the_difference_between_scratch_and_auto_unless_a_recipe_is_named():
    assert resolve_recipe({}) == "scratch"
    assert resolve_recipe({"weights": "x.safetensors"}) == "auto"
    assert resolve_recipe({"weights": "x.safetensors", "recipe": "probe"}) == "probe"


@pytest.mark.parametrize("name", IMAGENET_RECIPES)
def test_an_imagenet_recipe_is_its_settings_and_what_was_chosen_beside_them(name):
    recipe = IMAGENET_RECIPES[name]
    assert set(recipe.settings) <= {field.name for field in fields(TrainConfig)}
    config = make_config(name, {"seed": 3, "epochs": 2}, SCRATCH)
    assert (config.recipe, config.seed, config.epochs) == (name, 3, 2)
    same = {key: value for key, value in recipe.settings.items() if key != "epochs"}
    assert {key: getattr(config, key) for key in same} == same
    assert all((recipe.source, recipe.published, recipe.cost, recipe.differs))


@pytest.mark.parametrize("recipe", [name for name in PRETRAINED if name != "auto"])
@pytest.mark.parametrize(("area", "size"), [(500 * 375, 224), (28 * 28, 128)])
def test_small_pictures_are_not_enlarged_to_the_full_size(recipe, area, size):
    settings = {"weights": "x.safetensors"}
    assert make_config(recipe, settings, replace(FACTS, area=area)).image_size == size
    assert make_config(recipe, {**settings, "image_size": 64}, replace(FACTS, area=area)).image_size == 64


@given(st.integers(2, 10**7), st.integers(2, 10**7))
def test_more_pictures_are_passed_over_less_often_but_never_seen_less_in_all(one, other):
    few, many = sorted((one, other))
    shorter, longer = (finetune_settings(replace(FACTS, pictures=n))["epochs"] for n in (many, few))
    assert 1 <= shorter <= longer <= 20
    assert (shorter + 0.5) * many >= (longer - 0.5) * few or longer == 20  # epochs are rounded


def test_an_architecture_beside_weights_is_refused():
    with pytest.raises(ConfigError, match="leave out arch, model"):
        make_config("finetune", {"weights": "x", "arch": "resnet18v2", "model": {"stem": "3x3"}}, FACTS)


@pytest.mark.parametrize(
    ("pictures", "seconds", "budget", "choice"),
    [
        (1_000, 0.05, None, "lp-ft"),  # 170 s, where fine-tuning takes 50 minutes
        (1_000, 0.001, None, "finetune"),
        (1_000, 0.05, 100, "probe"),
        (1_000, 0.05, 7_200, "finetune"),
        (99, 0.001, None, "probe"),  # fewer than ten a class
        (1_000_000, 1, 60, "probe"),  # nothing keeps it
    ],
)
def test_auto_takes_the_most_that_the_time_allows(pictures, seconds, budget, choice):
    name, why = choose_strategy(replace(FACTS, pictures=pictures), seconds, budget)
    assert name == choice
    assert why
    if pictures == 1_000_000:
        assert "none keeps" in why


def test_auto_counts_the_epochs_and_views_that_were_chosen():
    facts = replace(FACTS, pictures=1_000)
    assert choose_strategy(facts, 0.001, 100)[0] == "finetune"
    assert choose_strategy(facts, 0.001, 100, settings={"epochs": 200})[0] != "finetune"
    assert choose_strategy(facts, 0.05, 150, ("lp-ft", "probe"))[0] == "lp-ft"
    assert choose_strategy(facts, 0.05, 150, ("lp-ft", "probe"), {"views": 3})[0] == "probe"


def test_auto_leaves_out_what_several_processes_cannot_share():
    assert fitting_strategies({"weights": "x", "recipe": "auto"}, 0.0, ("probe", "lp-ft")) == ("finetune",)


def test_each_optimizer_has_a_rate_of_its_own_and_fine_tuning_one_as_far_below():
    assert peak_rate("sgd", 256) == pytest.approx(0.2)
    assert peak_rate("adamw", 256) == pytest.approx(1e-3)
    assert peak_rate("lamb", 2048) == pytest.approx(5e-3)
    for optimizer in ("sgd", "adamw", "lamb"):
        assert TrainConfig(optimizer=optimizer, batch_size=64).peak_lr == peak_rate(optimizer, 64)
        config = make_config("finetune", {"optimizer": optimizer, "weights": "x"}, FACTS)
        assert config.lr / peak_rate(optimizer, 32) == pytest.approx(0.4)


def test_scratch_takes_no_weights_and_no_settings_of_kept_features():
    with pytest.raises(ConfigError, match="starts from random weights: leave out --weights"):
        make_config("scratch", {"weights": "x"}, FACTS)
    for recipe in ("scratch", "rsb-a2"):
        with pytest.raises(ConfigError, match=f"'{recipe}' has no use for views"):
            make_config(recipe, {"views": 4}, replace(FACTS, start=None))


def test_a_gpu_has_more_patience():
    facts = replace(FACTS, pictures=10_000)
    assert choose_strategy(facts, 0.002, None)[0] == "lp-ft"
    assert choose_strategy(replace(facts, device="cuda"), 0.002, None)[0] == "finetune"


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_times_are_said_in_words(seconds, words):
    assert say_seconds(seconds) == words
