"""How fast trainings were here: the best guess of how long the next one takes."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from chats.errors import UserError
from training.config import TrainingConfig
from training.hardware import Place
from training.remembered import Remembered
from training.run import RunDirectory

_MAX_RUNS_LOOKED_AT = 50
_SAME_WORK = attrgetter(
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


class RunSummary(Protocol):
    """What a list of runs says of one."""

    id: str
    num_processes: int
    devices: tuple[str, ...]


class Console(Protocol):
    """The queue of trainings, as far as speeds are asked."""

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


class Speeds:
    """Speeds of the newest runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._measured = Remembered(lambda: tuple(self._look()))

    def like(self, config: TrainingConfig, place: Place) -> Speed | None:
        """Return that of the newest run that did the same work in such a place, if there is one."""
        wanted = (*_SAME_WORK(config), place.engine.num_processes, _kinds(place.devices))
        return next((speed for work, speed in self._measured.get() if work == wanted), None)

    def _look(self) -> Iterator[tuple[tuple, Speed]]:
        for run in self._console.list()[:_MAX_RUNS_LOOKED_AT]:
            with contextlib.suppress(UserError):  # damaged, or deleted meanwhile
                lines = self._console.directory(run.id).read_metrics()
                rate = lines[-1].get("pairs_per_second") if lines else None
                if rate:
                    work = _SAME_WORK(self._console.config(run.id))
                    yield (
                        (*work, run.num_processes, _kinds(run.devices)),
                        Speed(rate, run.id),
                    )


def _kinds(devices: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.partition(":")[0] for name in devices)
