"""Where trainings are prepared and handed in: what there is to train, what it would cost; no torch.

Whoever asks gives ids of lists, never paths; the places a training reads and writes are set here.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from chats.errors import UserError
from training.config import TrainingConfig
from training.hardware import HardwareSettings, Place
from training.jobs.devices import choose_devices
from training.jobs.speeds import Console as KnowsSpeeds
from training.jobs.speeds import RunSummary, Speed, Speeds
from training.launch import find_engine
from training.planning.counting import MemoryCounts
from training.planning.estimate import MemoryReport
from training.recipe import Recipe, command_arguments, flags, list_recipes
from training.remembered import Remembered

NO_DATA = "the-data-set"
"""Stands in a command where no data set is chosen."""

CPU_ALONE = {"cpu": "the CPU"}
_MIN_PAIRS = 2


class DataSetSummary(Protocol):
    """What a list of data sets says of one."""

    id: str
    name: str
    num_pairs: int


class DataSet(Protocol):
    """A data set."""

    folder: Path


class DataSets(Protocol):
    """The data sets of a workspace."""

    def summaries(self) -> Sequence[DataSetSummary]:
        """List them, the newest first."""

    def open(self, dataset_id: str) -> DataSet:
        """Return one by its id, or raise UserError."""


class PlacedRun(RunSummary, Protocol):
    """A run, and how its processes are started."""

    engine: str | None


class Console(KnowsSpeeds, Protocol):
    """The queue of trainings."""

    def submit(
        self,
        config: TrainingConfig,
        *,
        engine: str | None,
        num_processes: int | None,
        device: str | None,
    ) -> str:
        """Put a training into the queue and return its run's id, or raise UserError."""

    def get(self, run_id: str) -> PlacedRun:
        """Return a run, or raise UserError."""


@dataclass(frozen=True)
class Rerun:
    """What a run did, to be done again.

    Attributes:
        config: Its settings.
        hardware: Where it ran.
        data: Id of its data set; none if that is not here.
    """

    config: TrainingConfig
    hardware: HardwareSettings
    data: str | None


class TrainingDesk:
    """Prepares trainings for people who may not name a path.

    Attributes:
        refusal: Why nobody may start a training here; empty if they may.
        bases: The base models on offer, as (title, name).
        recipes: The recipes on offer.
        devices: Titles of the devices on offer, by name.
    """

    def __init__(
        self,
        *,
        data_sets: DataSets,
        console: Console,
        workspace: Path,
        models: Sequence[tuple[str, str]] = (),
        devices: Mapping[str, str] = CPU_ALONE,
        refusal: str = "",
        open_libraries: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the workspace, its data sets and its queue.

        Args:
            data_sets: The data sets.
            console: The queue.
            workspace: Folder of all of it.
            models: Base models to offer beside those of the recipes, as (title, name).
            devices: What this machine has, as titles by name.
            refusal: Why nobody may start a training here; empty if they may.
            open_libraries: Imports torch and what stands on it, where other threads may do so too.
        """
        self.refusal = refusal
        self.recipes = list_recipes()
        self.devices = devices
        named = dict.fromkeys(str(each.settings["model"]["base"]) for each in self.recipes)
        given = {name: title for title, name in models}
        offered = {**given, **{name: given.get(name, name) for name in named}}
        self.bases = tuple((title, name) for name, title in offered.items())
        self._data_sets = data_sets
        self._console = console
        self._workspace = workspace
        self._memory = MemoryCounts(open_libraries)
        self._speeds = Speeds(console)
        self._listed = Remembered(lambda: tuple(self._data_sets.summaries()))

    def data_sets(self) -> tuple[DataSetSummary, ...]:
        """List the data sets, the newest first."""
        return self._listed.renewed()

    def find_data(self, dataset_id: str) -> DataSetSummary:
        """Return a data set that can be trained on.

        Raises:
            UserError: There is no such data set, or it holds too little.
        """
        listed = self._listed.get()
        if dataset_id not in [each.id for each in listed]:
            listed = self._listed.renewed()
        for each in listed:
            if each.id == dataset_id:
                if each.num_pairs < _MIN_PAIRS:
                    raise UserError(
                        f"{each.name} holds {each.num_pairs} preference pairs; a training needs "
                        f"at least {_MIN_PAIRS}."
                    )
                return each
        raise UserError("Choose a data set." if not dataset_id else "This data set is gone.")

    def find_recipe(self, name: str) -> Recipe:
        """Return a recipe by its name.

        Raises:
            UserError: There is none.
        """
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        known = ", ".join(each.name for each in self.recipes)
        raise UserError(f"There is no recipe {str(name)[:60]!r}; the recipes are {known}.")

    def find_rerun(self, run_id: str) -> Rerun:
        """Return what a run did, to be changed and done again.

        Raises:
            UserError: There is no such run, or its settings can't be read.
        """
        config, run = self._console.config(run_id), self._console.get(run_id)
        hardware = HardwareSettings(
            engine=run.engine, num_processes=run.num_processes if run.engine else None
        )
        usual = self.find_place(hardware).devices
        if run.devices and run.devices != usual and len(run.devices) == 1:
            hardware = hardware.model_copy(update={"device": run.devices[0]})
        return Rerun(config=config, hardware=hardware, data=self._data_set_at(config.data.path))

    def find_place(self, hardware: HardwareSettings) -> Place:
        """Return what a training would get to run on if nothing else ran.

        Raises:
            UserError: The machine does not have it.
        """
        engine = find_engine(hardware.engine, num_processes=hardware.num_processes)
        devices = choose_devices(engine, wanted=hardware.device, available=self.devices, load={})
        return Place(replace(engine, on_cpu="cpu" in devices), devices)

    def places(self, dataset_id: str | None) -> Mapping[str, Mapping[str, Any]]:
        """Return where a training on a data set reads and writes, as settings by group.

        Raises:
            UserError: There is no such data set.
        """
        path = self._data_sets.open(dataset_id).folder if dataset_id else Path(NO_DATA)
        return {
            "data": {"path": str(path), "cache": str(self._workspace / "encoded")},
            "run": {"output": str(self._workspace / "runs")},
        }

    def command(
        self, config: TrainingConfig, recipe: Recipe | None, hardware: HardwareSettings
    ) -> list[str]:
        """Return the command that does what `submit` does."""
        here = {"output": self._workspace}
        placed = config.model_copy(update={"run": config.run.model_copy(update=here)})
        words = command_arguments(placed, recipe)
        at = words.index("--run.output")
        own = ["python", "-m", "training", "submit", "--workspace", str(self._workspace)]
        return [*own, *flags(hardware, HardwareSettings()), *words[:at], *words[at + 2 :]]

    def submit(self, config: TrainingConfig, hardware: HardwareSettings) -> str:
        """Start a training, or have it wait for its turn, and return its run's id.

        Raises:
            UserError: Trainings are not started here, or the queue refuses this one.
        """
        if self.refusal:
            raise UserError(self.refusal)
        return self._console.submit(config, **hardware.model_dump())

    def speed(self, config: TrainingConfig, place: Place) -> Speed | None:
        """Return the speed of the newest run that did the same work, if there is one."""
        return self._speeds.like(config, place)

    def estimate(
        self, config: TrainingConfig, place: Place, cancel: threading.Event
    ) -> MemoryReport:
        """Count what each process of a training would hold; see `MemoryCounts.report`."""
        return self._memory.report(config, place.engine, cancel)

    def _data_set_at(self, path: Path) -> str | None:
        try:
            folder = self._data_sets.open(path.name).folder
        except UserError:
            return None
        return path.name if folder.resolve() == path.expanduser().resolve() else None
