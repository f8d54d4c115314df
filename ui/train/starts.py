"""What the Train form starts from: a recipe, a file, a run, or what a browser kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chats.errors import UserError, explain_validation
from training.config import TrainingConfig
from training.desk import TrainingDesk
from training.hardware import HardwareSettings, PlacedTraining
from training.recipe import Recipe, complete, make_recipe
from ui.train.preparing import BASE
from ui.train.untrusted_yaml import MAX_BYTES, read_untrusted_yaml

OF_THE_SOURCE = (
    "data.prompt_column",
    "data.preferred_column",
    "data.dispreferred_column",
    "data.label_columns",
    "data.split",
    "data.streaming",
    "data.shuffle_buffer",
)
"""How a source is read: not asked, since the data sets here have one layout."""


@dataclass(frozen=True)
class Start:
    """A recipe, and where it runs."""

    recipe: Recipe
    hardware: HardwareSettings = field(default_factory=HardwareSettings)

    def settings(self) -> PlacedTraining:
        """Return all that the form shows at first."""
        return PlacedTraining.of(complete(self.recipe), self.hardware)

    def kept(self) -> dict[str, Any]:
        """Return what the browser keeps: a recipe of ours by its name, another one whole."""
        recipe = self.recipe
        return {
            "name": recipe.name,
            "settings": None if recipe.path is not None else recipe.settings,
            "hardware": self.hardware.model_dump(mode="json"),
        }


def start_of_file(path: Path, desk: TrainingDesk) -> tuple[Start, tuple[str, ...]]:
    """Read an uploaded recipe, or the config.yaml of a run.

    Returns:
        What it says, and the settings that are not taken over.

    Raises:
        UserError: It is no recipe, or its base is not on offer.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path.name} is longer than settings can be.")
    content = read_untrusted_yaml(path.read_bytes())
    recipe, left_out = make_recipe(content, name=path.name)
    _check_offered(complete(recipe), desk)
    return Start(recipe), (*left_out, *_of_the_source(recipe))


def start_of_run(run_id: Any, desk: TrainingDesk) -> tuple[Start, str | None]:
    """Return what a run did, and the id of its data set; none if that is not here any more.

    Raises:
        UserError: There is no such run, or its base is not on offer.
    """
    found = desk.find_rerun(run_id)
    _check_offered(found.config, desk)
    recipe, _ = make_recipe(found.config.model_dump(mode="json"), name=f"run {run_id}")
    return Start(recipe, found.hardware), found.data


def start_of_browser(kept: Any, desk: TrainingDesk) -> tuple[Start, str | None]:
    """Return what a browser kept, which is not trusted, and the name of the recipe if it is ours.

    Raises:
        UserError: It is nothing of that kind.
    """
    if not isinstance(kept, Mapping):
        raise UserError("Nothing was kept.")
    try:
        hardware = HardwareSettings.model_validate(kept.get("hardware") or {})
    except ValidationError as error:
        raise explain_validation(error) from None
    if kept.get("settings") is None:
        recipe = desk.find_recipe(kept.get("name"))
        return Start(recipe, hardware), recipe.name
    recipe, _ = make_recipe(kept["settings"], name=str(kept.get("name"))[:200])
    return Start(recipe, hardware), None


def _check_offered(config: TrainingConfig, desk: TrainingDesk) -> None:
    offered = [name for _, name in desk.bases]
    if config.model.base not in offered:
        raise UserError(
            f"{BASE}: {config.model.base!r:.80} is not on offer here. There is: "
            f"{', '.join(offered)}."
        )


def _of_the_source(recipe: Recipe) -> tuple[str, ...]:
    given = {f"{group}.{name}" for group, values in recipe.settings.items() for name in values}
    return tuple(name for name in OF_THE_SOURCE if name in given)
