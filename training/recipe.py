"""Recipes: settings of a training without its data and its output, as files and as flags; no torch.

A recipe file holds only what it decides; its first line says what it is for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from chats.errors import UserError, explain_validation
from training.config import TrainingConfig

RECIPES = Path(__file__).parent / "recipes"
OWN_TO_A_RUN = (("data", "path"), ("data", "cache"), ("run", "output"))
"""Where a training reads and writes: no part of a recipe."""

Settings = Mapping[str, Mapping[str, Any]]
"""Some settings of a training, by group and name."""


@dataclass(frozen=True)
class Recipe:
    """Settings to start from.

    Attributes:
        name: Of its file, without the ending.
        summary: What it is for.
        settings: What it decides; the rest is as `TrainingConfig` says.
        path: Its file, where it is one of ours.
    """

    name: str
    summary: str
    settings: Settings
    path: Path | None = None


def list_recipes() -> tuple[Recipe, ...]:
    """Return our recipes by name."""
    return tuple(_read(path) for path in sorted(RECIPES.glob("*.yaml")))


def make_recipe(content: Any, *, name: str) -> tuple[Recipe, tuple[str, ...]]:
    """Make a recipe of what a YAML file holds, such as the config.yaml of a run.

    Returns:
        The recipe, and the settings that were left out since they belong to one run.

    Raises:
        UserError: It holds no settings, or one line for each setting that is wrong.
    """
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{name} must map groups of settings to their settings, as a recipe does.")
    settings = {
        str(group): dict(values) if isinstance(values, Mapping) else values
        for group, values in content.items()
    }
    left_out = []
    for group, setting in OWN_TO_A_RUN:
        if isinstance(settings.get(group), dict) and setting in settings[group]:
            del settings[group][setting]
            left_out.append(f"{group}.{setting}")
    recipe = Recipe(name=name, summary="", settings=settings)
    complete(recipe)
    return recipe, tuple(left_out)


def complete(recipe: Recipe) -> TrainingConfig:
    """Return the training that a recipe describes, with data and output that are nowhere.

    Raises:
        UserError: One line for each setting that is wrong.
    """
    settings: dict[str, Any] = dict(recipe.settings)
    for group, setting in (("data", "path"), ("run", "output")):
        values = settings.get(group, {})
        if isinstance(values, Mapping):
            settings[group] = {**values, setting: "unset"}
    try:
        return TrainingConfig.model_validate(settings)
    except ValidationError as error:
        raise explain_validation(error) from None


def write_recipe(config: TrainingConfig) -> str:
    """Return the YAML of a training's recipe, with every setting."""
    settings = config.model_dump(mode="json")
    for group, setting in OWN_TO_A_RUN:
        settings[group].pop(setting)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def command_arguments(config: TrainingConfig, recipe: Recipe | None) -> list[str]:
    """Return the arguments of `python -m training` that give a config, from a recipe on.

    Args:
        config: The training's settings.
        recipe: What the flags go over; none, or one without a file, means over the defaults.
    """
    path = recipe.path if recipe else None
    start = complete(recipe) if recipe and path else complete(Recipe("", "", {}))
    here = Path.cwd()
    arguments = []
    if path:
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        arguments = ["--config", str(shown)]
    return [*arguments, *flags(config, start)]


def flags(given: BaseModel, start: BaseModel, *, prefix: str = "") -> Iterator[str]:
    """Yield the flags that lead from settings to others of the same model."""
    for name, field in type(given).model_fields.items():
        value, before = getattr(given, name), getattr(start, name)
        if isinstance(value, BaseModel):
            yield from flags(value, before, prefix=f"{prefix}{name}.")
        elif value != before or field.is_required():
            yield from _flag(f"{prefix}{name}".replace("_", "-"), value)


def _flag(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        group, _, setting = name.rpartition(".")
        yield f"--{name}" if value else f"--{group}.no-{setting}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from (f"--{name}", *map(str, value))
    else:
        yield from (f"--{name}", str(value))


def _read(path: Path) -> Recipe:
    text = path.read_text("utf-8")
    first = re.match(r"# (.+)", text)
    return Recipe(path.stem, first[1] if first else "", yaml.safe_load(text), path)
