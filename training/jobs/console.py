"""The console of a queue: submit runs, watch them, stop and resume them.

It keeps nothing in memory that matters: every answer is read from the run directories, so any
number of consoles, of pages and command lines, may be open on a workspace, and be killed.
"""

import contextlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from chats.config import FrozenSettings
from chats.errors import UserError
from training.changes import changed_settings, flat_settings
from training.config import TrainingConfig
from training.evaluation_config import EvaluateConfig
from training.jobs.elsewhere import known_launchers
from training.jobs.launchers import Launcher
from training.jobs.queue import HERE, LEAVE_SECONDS, JobQueue
from training.jobs.reading import Curve, LogChunk, read_curve, read_log
from training.jobs.searching import LogMatches, search_log
from training.jobs.states import WAITING
from training.jobs.summary import Action, JobSummary
from training.jobs.workspace import JobFolder, StopRequest, Workspace
from training.run import RunDirectory
from training.scoring.record import read_score

_Settings = TypeVar("_Settings", TrainingConfig, EvaluateConfig)
_IMPOSSIBLE: dict[Action, str] = {
    "stop": "it can't be stopped",
    "kill": "it can't be killed",
    "resume": "it can't be resumed",
    "rerun": "it can't be done again",
    "delete": "it can't be deleted; stop it first",
}


class WorkspaceSettings(FrozenSettings):
    """Where a queue is."""

    workspace: Path = Path("workspace")
    """Folder of the queue and its runs; it is made when it is missing."""


class JobSettings(WorkspaceSettings):
    """Settings of a queue."""

    stop_grace_seconds: float = Field(60.0, ge=0, le=86400)
    """A run that was asked to stop has so long to save; then it is killed."""


class JobConsole:
    """The queue of a workspace.

    Ids may come from anybody: an unknown one is refused in one line, and none becomes a path.
    """

    def __init__(
        self, settings: JobSettings, *, launchers: Mapping[str, Launcher] | None = None
    ) -> None:
        self._workspace = Workspace(settings.workspace.expanduser().resolve())
        self._grace = timedelta(seconds=settings.stop_grace_seconds)
        self._queue = JobQueue(self._workspace, launchers or known_launchers())

    def submit(
        self,
        config: TrainingConfig | EvaluateConfig,
        *,
        engine: str | None = None,
        num_processes: int | None = None,
        device: str | None = None,
        launcher: str = HERE,
    ) -> str:
        """Put a training or an evaluation into the queue; it begins when its device is free.

        Args:
            config: The settings; the run gets a folder of its own, whatever they say.
            engine: File of training/engines that starts its processes; none: one process.
            num_processes: How many; none means what the engine says.
            device: A device by its name; none means the one with the shortest queue.
            launcher: Who starts it.

        Returns:
            The id of the run.

        Raises:
            UserError: What is asked is not there, or the workspace can't be written to.
        """
        folder = self._queue.add(
            config,
            engine=engine,
            num_processes=num_processes,
            device=device,
            launcher=launcher,
        )
        return folder.id

    def list(self) -> tuple[JobSummary, ...]:
        """Return all runs, the newest first; one that is damaged says so."""
        found = (summary for _, summary in self._queue.summaries())
        return tuple(sorted(found, key=newest_first))

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all runs."""
        return tuple(folder.id for folder in self._workspace.folders())

    def get(self, run_id: str) -> JobSummary:
        """Return a run.

        Raises:
            UserError: There is no such run.
        """
        return self._queue.summary(self._workspace.find(run_id))

    def stop(self, run_id: str) -> None:
        """Ask a run to save and end; returns at once. One that only waits leaves the queue.

        After the grace it is killed, by this process or by whoever looks at the run next.

        Raises:
            UserError: There is no such run, or it has ended.
        """
        self._end(run_id, action="stop")

    def kill(self, run_id: str) -> None:
        """End a run and all of its processes now; it can go on from what it saved.

        Raises:
            UserError: There is no such run, or it does not run.
        """
        self._end(run_id, action="kill")

    def resume(self, run_id: str) -> None:
        """Put a run that ended early at the end of the queue, to go on from what it saved.

        Raises:
            UserError: There is no such run, it runs, or it is finished.
        """
        with self._workspace.queue():
            self._queue.add_again(self._allowed(run_id, "resume"))

    def delete(self, run_id: str) -> None:
        """Remove a run for ever, with its checkpoints and its pair.

        Raises:
            UserError: There is no such run, or it has not ended.
        """
        with self._workspace.queue():
            folder = self._allowed(run_id, "delete")
            with folder.run.probe(wait_seconds=LEAVE_SECONDS) as is_free:
                if not is_free:
                    raise UserError(f"The run {run_id} is alive: {_IMPOSSIBLE['delete']}.")
                score = read_score(folder.run)
                if score is not None and score.state == "running":
                    raise UserError(
                        f"The pair of the run {run_id} is being scored. Wait until that has ended, "
                        "then delete the run."
                    )
                self._workspace.remove(folder)

    def rerun(
        self, run_id: str, changes: Mapping[str, Any] | None = None
    ) -> TrainingConfig | EvaluateConfig:
        """Return a run's settings with some of them changed, to be looked at and submitted.

        Args:
            run_id: The run.
            changes: Values by names such as `optimizer.learning_rate`.

        Raises:
            UserError: There is no such run, or one line for each wrong setting.
        """
        return changed_settings(self._workspace.find(run_id).settings(), changes or {})

    def settings(self, run_id: str) -> TrainingConfig | EvaluateConfig:
        """Return a run's settings.

        Raises:
            UserError: There is no such run, or they can't be read.
        """
        return self.rerun(run_id)

    def config(self, run_id: str) -> TrainingConfig:
        """Return a training's settings.

        Raises:
            UserError: There is no such run, it is no training, or they can't be read.
        """
        return self._of_kind(run_id, TrainingConfig)

    def evaluation(self, run_id: str) -> EvaluateConfig:
        """Return an evaluation's settings.

        Raises:
            UserError: There is no such run, it is no evaluation, or they can't be read.
        """
        return self._of_kind(run_id, EvaluateConfig)

    def config_diff(self, run_id: str, other: str) -> dict[str, tuple[Any, Any]]:
        """Return the settings in which two runs differ, by name, with both values.

        Raises:
            UserError: There is no such run.
        """
        one, two = (flat_settings(self.settings(each)) for each in (run_id, other))
        return {
            name: (one.get(name), two.get(name))
            for name in sorted(one.keys() | two.keys())
            if name not in ("run.output", "output") and one.get(name) != two.get(name)
        }

    def log(
        self,
        run_id: str,
        *,
        offset: int | None = None,
        max_bytes: int = 100_000,
        file: Literal["log", "output"] = "log",
    ) -> LogChunk:
        """Read a piece of what a run's trainer logged, or of all that its processes printed.

        Args:
            run_id: The run.
            offset: The `end` of the piece before; none means the last lines.
            max_bytes: Read at most so many.
            file: `log`, the trainer's own words, or `output`, with progress bars and crashes.

        Raises:
            UserError: There is no such run, or a number is out of bounds.
        """
        folder = self._workspace.find(run_id)
        if file == "log":
            return read_log(folder.run.log, offset=offset, max_bytes=max_bytes)
        launcher = self._queue.launcher_of(folder)
        return launcher.logs(folder, offset=offset, max_bytes=max_bytes)

    def search_log(
        self, run_id: str, text: str, *, file: Literal["log", "output"] = "log"
    ) -> LogMatches:
        """Find the newest lines of a run's log that hold a text; see `log` for the files.

        Raises:
            UserError: There is no such run, or the text is too long.
        """
        return search_log(self.log_path(run_id, file=file), text)

    def log_path(self, run_id: str, *, file: Literal["log", "output"] = "log") -> Path:
        """Return where a run's log lies; it may not be there yet.

        Raises:
            UserError: There is no such run.
        """
        run = self._workspace.find(run_id).run
        return run.log if file == "log" else run.output

    def metrics(
        self, run_id: str, *, since_step: int | None = None, max_points: int = 1000
    ) -> Curve:
        """Return a run's metrics after a step, evenly thinned out to at most so many lines.

        Raises:
            UserError: There is no such run, or a number is out of bounds.
        """
        path = self._workspace.find(run_id).run.metrics
        return read_curve(path, since_step=since_step, max_points=max_points)

    def directory(self, run_id: str) -> RunDirectory:
        """Return a run's directory: its samples, its pair.

        Raises:
            UserError: There is no such run.
        """
        return self._workspace.find(run_id).run

    def unchanged(self) -> contextlib.AbstractContextManager[None]:
        """Keep everybody from starting, resuming and deleting runs within.

        Raises:
            UserError: Somebody else keeps the queue for too long, or it can't be written to.
        """
        return self._workspace.queue()

    def reconcile(self) -> tuple[str, ...]:
        """Put right what happened while nobody looked; to be called once at the start.

        Runs that were queued, or waited, and have no process are started in their old order; what
        was killed is written down; what was asked to stop is killed when its time is over.

        Returns:
            Ids of the runs that were started again.

        Raises:
            UserError: The workspace can't be written to.
        """
        started = self._queue.reconcile()
        for folder, summary in self._queue.summaries():
            if summary.state == "stopping":
                self._kill_when_late(folder)
        return tuple(started)

    def _end(self, run_id: str, *, action: Literal["stop", "kill"]) -> None:
        folder = self._allowed(run_id, action)
        with folder.run.probe() as is_free:
            status = folder.run.stored_status()
            if is_free and status is not None and status.state in WAITING:
                self._queue.cancel_elsewhere(folder)
                folder.run.update_status(state="cancelled", message="Cancelled before it began.")
                return
        is_kill = action == "kill"
        kill_at = datetime.now(UTC) + (timedelta() if is_kill else self._grace)
        folder.ask_to_stop(StopRequest(kill_at=kill_at, is_kill=is_kill))
        self._queue.launcher_of(folder).cancel(folder, force=is_kill)
        if not is_kill:
            self._kill_when_late(folder)

    def _kill_when_late(self, folder: JobFolder) -> None:
        """Look at a run again when its time is over, which kills it if it still lives."""
        asked = folder.stop_request()
        if asked is None:
            return
        seconds = (asked.kill_at - datetime.now(UTC)).total_seconds()
        timer = threading.Timer(max(seconds, 0) + 0.1, self._look_again, [folder.id])
        timer.daemon = True
        timer.start()

    def _look_again(self, run_id: str) -> None:
        with contextlib.suppress(UserError):  # deleted meanwhile
            self.get(run_id)

    def _of_kind(self, run_id: str, kind: type[_Settings]) -> _Settings:
        found = self.settings(run_id)
        if not isinstance(found, kind):
            job = self._workspace.find(run_id).job()
            raise UserError(f"The run {run_id} is of another kind: {job.kind if job else 'none'}.")
        return found

    def _allowed(self, run_id: str, action: Action) -> JobFolder:
        folder = self._workspace.find(run_id)
        summary = self._queue.summary(folder)
        if action not in summary.actions or (action == "resume" and summary.submitted is None):
            raise UserError(f"The run {run_id} is {summary.state}: {_IMPOSSIBLE[action]}.")
        return folder


def newest_first(summary: JobSummary) -> tuple[float, str]:
    """Order the newest first; what can't say when it was submitted comes last."""
    return (-summary.submitted.timestamp() if summary.submitted else 0.0, summary.id)
