"""Where trainings are prepared and handed in: what there is to train, what it would cost; no torch.

Whoever asks gives ids of lists, never paths; the places a training reads and writes are set here.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from chats.errors import UserError
from training.config import TrainingConfig
from training.planning.estimate import MemoryReport
from training.recipe import Recipe, command_arguments, list_recipes
from training.run import RunDirectory

NO_DATA = "the-data-set"
"""Stands in a command where no data set is chosen."""

_MIN_PAIRS = 2
_MAX_RUNS_LOOKED_AT = 50
_SAME_SPEED = (
    "data.resolution",
    "model.base",
    "model.kind",
    "model.rank",
    "objective.name",
    "optimizer.batch_size",
    "optimizer.gradient_checkpointing",
    "run.mixed_precision",
)
"""Settings that a measured speed belongs to."""

_REMEMBERED_SECONDS = 5.0
Answer = TypeVar("Answer")


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


class RunSummary(Protocol):
    """What a list of runs says of one."""

    id: str


class Console(Protocol):
    """The queue of trainings."""

    def submit(self, config: TrainingConfig) -> str:
        """Put a training into the queue and return its run's id, or raise UserError."""

    def list(self) -> Sequence[RunSummary]:
        """List the runs, the newest first."""

    def config(self, run_id: str) -> TrainingConfig:
        """Return a run's settings, or raise UserError."""

    def directory(self, run_id: str) -> RunDirectory:
        """Return a run's directory, or raise UserError."""


@dataclass(frozen=True)
class Speed:
    """How fast a training like the one that is asked about was."""

    pairs_per_second: float
    run_id: str


class EstimateSupersededError(Exception):
    """Nobody waits for this estimate any more."""


class TrainingDesk:
    """Prepares trainings for people who may not name a path.

    Attributes:
        refusal: Why nobody may start a training here; empty if they may.
        bases: The base models on offer, as (title, name).
        recipes: The recipes on offer.
    """

    def __init__(
        self,
        *,
        data_sets: DataSets,
        console: Console,
        workspace: Path,
        models: Sequence[tuple[str, str]] = (),
        refusal: str = "",
        open_libraries: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the workspace, its data sets and its queue.

        Args:
            data_sets: The data sets.
            console: The queue.
            workspace: Folder of all of it.
            models: Base models to offer beside those of the recipes, as (title, name).
            refusal: Why nobody may start a training here; empty if they may.
            open_libraries: Imports torch and what stands on it, where other threads may do so too.
        """
        self.refusal = refusal
        self.recipes = list_recipes()
        named = dict.fromkeys(str(each.settings["model"]["base"]) for each in self.recipes)
        given = {name: title for title, name in models}
        offered = {**given, **{name: given.get(name, name) for name in named}}
        self.bases = tuple((title, name) for name, title in offered.items())
        self._data_sets = data_sets
        self._console = console
        self._workspace = workspace
        self._open_libraries = open_libraries
        self._estimating = threading.Lock()
        self._known: dict[str, MemoryReport] = {}
        self._listed = _Remembered(lambda: tuple(self._data_sets.summaries()))
        self._measured = _Remembered(lambda: tuple(self._speeds()))

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

    def command(self, config: TrainingConfig, recipe: Recipe | None) -> list[str]:
        """Return the command that does what `submit` does."""
        here = {"output": self._workspace}
        placed = config.model_copy(update={"run": config.run.model_copy(update=here)})
        words = command_arguments(placed, recipe)
        at = words.index("--run.output")
        own = ["python", "-m", "training", "submit", "--workspace", str(self._workspace)]
        return [*own, *words[:at], *words[at + 2 :]]

    def submit(self, config: TrainingConfig) -> str:
        """Start a training, or have it wait for its turn, and return its run's id.

        Raises:
            UserError: Trainings are not started here, or the queue refuses this one.
        """
        if self.refusal:
            raise UserError(self.refusal)
        return self._console.submit(config)

    def speed(self, config: TrainingConfig) -> Speed | None:
        """Return the speed of the newest run that did the same work, if there is one."""
        wanted = _values(config)
        return next((speed for values, speed in self._measured.get() if values == wanted), None)

    def estimate(self, config: TrainingConfig, cancel: threading.Event) -> MemoryReport:
        """Count what a training would hold; torch is imported with the first use.

        One is counted at a time. It ends soon after `cancel` is set.

        Raises:
            UserError: The base model is not there, or can't be trained with these settings.
            EstimateSupersededError: `cancel` was set.
        """
        key = config.model_dump_json(exclude={"data": {"path", "cache"}, "run": {"output"}})
        with self._turn(cancel):
            if key not in self._known:
                self._open_libraries()
                from training.launch import find_engine
                from training.planning.dry_run import memory_report
                from training.planning.stopping import StoppedError, stopped_by

                try:
                    with stopped_by(cancel):
                        found = memory_report(config, find_engine(None, num_processes=None))
                except StoppedError:
                    raise EstimateSupersededError from None
                if len(self._known) >= 100:
                    self._known.clear()
                self._known[key] = found
            return self._known[key]

    def _speeds(self) -> Iterator[tuple[list[Any], Speed]]:
        for run in self._console.list()[:_MAX_RUNS_LOOKED_AT]:
            with contextlib.suppress(UserError):  # damaged, or deleted meanwhile
                lines = self._console.directory(run.id).read_metrics()
                rate = lines[-1].get("pairs_per_second") if lines else None
                if rate:
                    yield _values(self._console.config(run.id)), Speed(rate, run.id)

    @contextlib.contextmanager
    def _turn(self, cancel: threading.Event) -> Iterator[None]:
        while not self._estimating.acquire(timeout=0.1):
            if cancel.is_set():
                raise EstimateSupersededError
        try:
            if cancel.is_set():
                raise EstimateSupersededError
            yield
        finally:
            self._estimating.release()


class _Remembered(Generic[Answer]):
    """An answer that is asked for with every key that is pressed, and costs a look at the disk."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._kept: tuple[float, Answer] | None = None

    def get(self) -> Answer:
        """Return it as it was some seconds ago at most."""
        kept = self._kept
        is_old = kept is None or time.monotonic() - kept[0] > _REMEMBERED_SECONDS
        return self.renewed() if is_old else kept[1]

    def renewed(self) -> Answer:
        """Return it as it is now."""
        answer = self._ask()
        self._kept = (time.monotonic(), answer)
        return answer


def _values(config: TrainingConfig) -> list[Any]:
    return [getattr(getattr(config, group), name) for group, name in map(_split, _SAME_SPEED)]


def _split(name: str) -> tuple[str, str]:
    group, _, setting = name.partition(".")
    return group, setting
