"""What of a sweep a browser shows: the sweep, one prompt and seed of it, and one cell."""

from dataclasses import dataclass
from typing import Any

from chats.sweeps.config import SweepConfig
from chats.sweeps.folder import Call, SweepFolder
from chats.sweeps.plan import Cell, cells
from chats.sweeps.results import Results, results


@dataclass(frozen=True)
class Shown:
    """A sweep as it is on the disk now, and where a person looks."""

    folder: SweepFolder
    calls: tuple[Call, ...]
    results: Results
    prompt: int
    seed: int
    cell: int | None
    """The chosen cell; none if none was chosen and none is best."""

    @property
    def config(self) -> SweepConfig:
        """The sweep's settings."""
        return self.folder.config

    @property
    def num_done(self) -> int:
        """Pictures that are made."""
        return sum(call.count for call in self.calls)

    @property
    def chosen(self) -> Cell | None:
        """The chosen cell."""
        return None if self.cell is None else cells(self.config)[self.cell]


def look_at(folder: SweepFolder, *, prompt: Any = 0, seed: Any = 0, cell: Any = None) -> Shown:
    """Read a sweep; what a browser says of places that are not there is the first one.

    Without a chosen cell the best one is shown.
    """
    calls = tuple(folder.calls())
    found = results(folder.config, calls)
    chosen = _place(cell, folder.config.num_cells)
    return Shown(
        folder=folder,
        calls=calls,
        results=found,
        prompt=_place(prompt, len(folder.config.prompts)) or 0,
        seed=_place(seed, len(folder.config.seeds)) or 0,
        cell=found.best if chosen is None else chosen,
    )


def _place(given: Any, count: int) -> int | None:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return int(given) if is_number and 0 <= given < count else None
