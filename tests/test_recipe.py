"""Recipes as files, as untrusted content, and as flags of the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chats.errors import UserError
from training.config import TrainingConfig, parse_command_line
from training.recipe import (
    Recipe,
    command_arguments,
    complete,
    list_recipes,
    make_recipe,
    write_recipe,
)

ROOT = Path(__file__).parents[1]
RUN = {"data": {"path": "pairs"}, "run": {"output": "out"}}


def test_our_recipes_say_what_they_are_for():
    names = [recipe.name for recipe in list_recipes()]
    assert names == sorted(path.stem for path in (ROOT / "training" / "recipes").glob("*.yaml"))
    assert all(recipe.summary for recipe in list_recipes())


@pytest.mark.parametrize("content", [None, [], "text", {}, 7])
def test_what_holds_no_settings_is_refused(content):
    with pytest.raises(UserError, match=r"mine\.yaml must map groups"):
        make_recipe(content, name="mine.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"learning_rate": -1}}, r"optimizer\.learning_rate: .*\(given: -1\)"),
        ({"optimiser": {}}, r"optimiser: Extra inputs"),
        ({"optimizer": 3}, r"optimizer: .*\(given: 3\)"),
        ({"data": "everything"}, r"data: .*\(given: 'everything'\)"),
        ({1: {2: 3}}, "1: Extra inputs"),
    ],
)
def test_a_recipe_that_is_wrong_says_where(content, message):
    with pytest.raises(UserError, match=message):
        make_recipe(content, name="mine.yaml")


def test_the_places_of_a_run_are_left_out_and_told():
    recipe, left_out = make_recipe(
        {"data": {"path": "/etc", "cache": "/root"}, "run": {"output": "/boot", "seed": 3}},
        name="config.yaml",
    )
    assert left_out == ("data.path", "data.cache", "run.output")
    assert "/" not in str(recipe.settings)
    assert complete(recipe).run.seed == 3


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_a_recipe_survives_yaml(recipe):
    text = write_recipe(complete(recipe))
    again, left_out = make_recipe(yaml.safe_load(text), name=recipe.name)
    assert (complete(again), left_out) == (complete(recipe), ())


@pytest.mark.parametrize("recipe", [None, *list_recipes()], ids=lambda each: each and each.name)
def test_the_flags_give_the_same_training(recipe):
    """Over a recipe and over nothing; false over true, none over a number, tuples, signs."""
    settings = {
        "data": {"path": "pairs", "label_columns": ["a b", "c"], "buckets": True},
        "run": {"output": "out"},
        "model": {"targets": ["to_q", "to_k"]},
        "noise": {"logit_mean": -1.5},
        "optimizer": {"betas": [0.8, 0.99], "learning_rate": 3e-9, "num_steps": 200},
    }
    config = TrainingConfig.model_validate(settings)
    arguments = command_arguments(config, recipe)
    assert ("--config" in arguments) == (recipe is not None)
    assert parse_command_line(arguments) == config


def test_a_recipe_as_it_is_needs_only_its_places():
    recipe = next(each for each in list_recipes() if each.name == "shapes_demo")
    config = TrainingConfig.model_validate(
        {
            group: {**recipe.settings.get(group, {}), **RUN.get(group, {})}
            for group in recipe.settings
        }
        | {"data": RUN["data"]}
    )
    words = command_arguments(config, recipe)[2:]
    assert words == ["--data.path", "pairs", "--run.output", "out"]


def test_an_uploaded_recipe_is_given_as_flags():
    recipe, _ = make_recipe({"model": {"rank": 4}}, name="mine")
    config = TrainingConfig.model_validate({**RUN, "model": {"rank": 4}})
    assert "--model.rank" in command_arguments(config, recipe)
    assert Recipe("mine", "", recipe.settings) == recipe


def test_recipes_open_without_torch():
    program = "import sys, training.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
