"""All runs of a queue for a page that asks again and again: what rests is not read twice."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chats.errors import UserError
from training.config import TrainingConfig
from training.evaluation_config import EvaluateConfig
from training.jobs.console import JobConsole, newest_first
from training.jobs.kinds import KINDS, kind_of
from training.jobs.reading import newest_values
from training.jobs.states import FINAL
from training.jobs.summary import JobSummary
from training.run import Metrics
from training.scoring.record import RunScore, read_score

_RESTS_AFTER_SECONDS = 2.0
"""A folder that was changed later than this may change again within one tick of its clock."""


@dataclass(frozen=True)
class RunEntry:
    """A run in a list.

    Attributes:
        summary: What becomes of it.
        settings: Its settings; none if they can't be read.
        data: What people call the preferences it learns from; empty where there are none.
        newest: The newest value of each of its metrics.
        has_pair: Whether it is finished and its pair is there.
        score: What its pair scored, or how far that is; none if nobody asked.
    """

    summary: JobSummary
    settings: TrainingConfig | EvaluateConfig | None
    data: str
    newest: Metrics
    has_pair: bool
    score: RunScore | None

    @property
    def id(self) -> str:
        """The run's id."""
        return self.summary.id

    @property
    def config(self) -> TrainingConfig | None:
        """The settings of a training; none for other kinds too."""
        return self.settings if isinstance(self.settings, TrainingConfig) else None

    @property
    def evaluation(self) -> EvaluateConfig | None:
        """The settings of an evaluation; none for other kinds too."""
        return self.settings if isinstance(self.settings, EvaluateConfig) else None

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.summary.state not in FINAL


class RunCatalogue:
    """Looks at every run, and keeps what it saw of those that have ended.

    Whatever changes such a run replaces one of its files, which changes the time of its folder.
    """

    def __init__(
        self, console: JobConsole, *, data_name: Callable[[Path], str] = lambda folder: folder.name
    ) -> None:
        """Take the queue, and what says how people call the data in a folder."""
        self._console = console
        self._data_name = data_name
        self._lock = threading.Lock()
        self._resting: dict[str, tuple[int, RunEntry]] = {}
        self._settings: dict[str, tuple[TrainingConfig | EvaluateConfig, str]] = {}

    def entries(self) -> tuple[RunEntry, ...]:
        """Return all runs, the newest first."""
        with self._lock:
            ids = self._console.ids()
            for known in (self._resting, self._settings):
                for gone in known.keys() - set(ids):
                    del known[gone]
            found = [entry for run_id in ids if (entry := self._entry(run_id)) is not None]
        return tuple(sorted(found, key=lambda entry: newest_first(entry.summary)))

    def get(self, run_id: str) -> RunEntry:
        """Return one run.

        Raises:
            UserError: There is no such run.
        """
        self._console.directory(run_id)
        with self._lock:
            entry = self._entry(run_id)
        return entry or self._look(run_id)

    def finished_pairs(self, base: str) -> tuple[RunEntry, ...]:
        """Return the runs whose pairs belong to a base model, the newest first."""
        return tuple(
            entry
            for entry in self.entries()
            if entry.has_pair and entry.config and is_same_model(entry.config.model.base, base)
        )

    def user_of(self, device: str) -> str | None:
        """Say in words which run works on a device; none if none does."""
        for entry in self.entries():
            run = entry.summary
            if run.state in ("running", "stopping") and device in run.devices:
                since = f"started {run.started.astimezone():%-d %b %H:%M}, " if run.started else ""
                of = f" of {run.num_steps}" if run.num_steps else ""
                return f"run {run.id} ({since}{KINDS[run.kind].unit} {run.step}{of})"
        return None

    def _entry(self, run_id: str) -> RunEntry | None:
        """Return a run, none if it is deleted meanwhile."""
        try:
            changed = self._console.directory(run_id).path.stat().st_mtime_ns
            resting = self._resting.get(run_id)
            if resting is not None and resting[0] == changed:
                return resting[1]
            entry = self._look(run_id)
        except (UserError, FileNotFoundError):
            return None
        is_old = time.time() - changed / 1e9 > _RESTS_AFTER_SECONDS
        is_scored = entry.score is not None and entry.score.state == "running"
        if not entry.is_active and not is_scored and is_old:
            self._resting[run_id] = (changed, entry)
        return entry

    def _look(self, run_id: str) -> RunEntry:
        summary, run = self._console.get(run_id), self._console.directory(run_id)
        settings, data = self._settings_of(run_id)
        return RunEntry(
            summary=summary,
            settings=settings,
            data=data,
            newest=newest_values(run.metrics),
            score=read_score(run),
            has_pair=summary.state == "succeeded" and (run.pair / "pair.json").is_file(),
        )

    def _settings_of(self, run_id: str) -> tuple[TrainingConfig | EvaluateConfig | None, str]:
        if run_id not in self._settings:
            with contextlib.suppress(UserError):
                settings = self._console.settings(run_id)
                folder = KINDS[kind_of(settings)].data(settings)
                self._settings[run_id] = (settings, self._data_name(folder) if folder else "")
        return self._settings.get(run_id, (None, ""))


def is_same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: the same name, or the same folder."""
    if one == other:
        return True
    places = [Path(name).expanduser() for name in (one, other)]
    return all(place.is_dir() for place in places) and places[0].samefile(places[1])
