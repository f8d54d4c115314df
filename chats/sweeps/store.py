"""The sweeps of a workspace: one folder each, named by its settings. No torch here."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from chats.errors import UserError
from chats.sweeps.config import SweepConfig
from chats.sweeps.folder import SETTINGS_FILE, SweepFolder, is_sweep_name, settings_hash

MAX_LISTED = 50
_NAME_CHARS = 12
_CALLS_FOR_PACE = 20


@dataclass(frozen=True)
class SweepEntry:
    """A sweep at a glance."""

    name: str
    config: SweepConfig
    num_done: int


class SweepStore:
    """Sweeps by name; the same settings are always the same sweep, so that it goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, config: SweepConfig) -> SweepFolder:
        """Begin the sweep of these settings, or open it."""
        return SweepFolder.create(self._path(config), config)

    def num_done(self, config: SweepConfig) -> int:
        """Return how many pictures of these settings there are."""
        path = self._path(config)
        return SweepFolder(path, config).num_done() if path.is_dir() else 0

    def open(self, name: str) -> SweepFolder:
        """Open a sweep by a name of unknown origin.

        Raises:
            UserError: there is no such sweep, or it is damaged.
        """
        is_name = isinstance(name, str) and is_sweep_name(name)
        if not is_name or not (self.folder / name / SETTINGS_FILE).is_file():
            raise UserError(f"There is no sweep {name!r:.40} here.")
        return SweepFolder.open(self.folder / name)

    def entries(self) -> list[SweepEntry]:
        """List the newest sweeps, the last one that was worked on first; damaged ones are not."""
        found = []
        for path in self._newest():
            try:
                sweep = SweepFolder.open(path)
            except UserError:
                continue
            found.append(SweepEntry(path.name, sweep.config, sweep.num_done()))
        return found

    def seconds_per_prediction(self, config: SweepConfig) -> float | None:
        """Return how fast pictures of this model and size were made; none if none were."""
        kind = (config.model, config.width, config.height)
        for path in self._newest():
            try:
                sweep = SweepFolder.open(path)
            except UserError:
                continue
            if (sweep.config.model, sweep.config.width, sweep.config.height) != kind:
                continue  # its calls are not counted: that looks for every picture
            calls = sweep.calls()[-_CALLS_FOR_PACE:]
            paces = [call.seconds / call.num_predictions for call in calls if call.num_predictions]
            if paces:
                return statistics.median(paces)
        return None

    def _path(self, config: SweepConfig) -> Path:
        return self.folder / settings_hash(config)[:_NAME_CHARS]

    def _newest(self) -> list[Path]:
        paths = list(self.folder.glob(f"*/{SETTINGS_FILE}"))
        folders = sorted((path.parent for path in paths), key=_changed, reverse=True)
        return folders[:MAX_LISTED]


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
