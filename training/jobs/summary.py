"""What a person sees of a run at a glance, and what can be done with it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from chats.errors import UserError
from training.jobs.kinds import KindName
from training.jobs.launchers import Launcher
from training.jobs.reading import last_line, last_row
from training.jobs.states import FINAL, current_status
from training.jobs.workspace import JobFolder
from training.run import Metrics, RunState, RunStatus

Action = Literal["stop", "kill", "resume", "rerun", "delete"]
"""What a person can ask of a run."""

_ENDED: frozenset[Action] = frozenset({"resume", "rerun", "delete"})
ACTIONS: dict[RunState, frozenset[Action]] = {
    "queued": frozenset({"stop", "rerun"}),
    "waiting_for_device": frozenset({"stop", "rerun"}),
    "running": frozenset({"stop", "kill", "rerun"}),
    "stopping": frozenset({"kill", "rerun"}),
    "succeeded": frozenset({"rerun", "delete"}),
    "failed": _ENDED,
    "cancelled": _ENDED,
    "interrupted": _ENDED,
}
"""What is possible follows from the state alone."""


@dataclass(frozen=True)
class JobSummary:
    """A run at a glance.

    Attributes:
        id: Its id.
        kind: What it does.
        state: What becomes of it.
        reason: Why it waits, failed or ended, in words; empty if there is nothing to say.
        step: Units of its kind that are done: optimizer steps, pictures.
        num_steps: Units of all its work, if known.
        eta_seconds: Until its end at the speed of the last ones; none if it does not run.
        error: The line that says most about what went wrong; empty if nothing did.
        submitted: When it was submitted; none if job.json is damaged.
        started: When its work last began.
        ended: When it ended.
        devices: What it runs on, or waits for.
        engine: What starts its processes; none: one process.
        num_processes: How many there are.
        launcher: Who starts it.
    """

    id: str
    kind: KindName
    state: RunState
    reason: str
    step: int
    num_steps: int | None
    eta_seconds: float | None
    error: str
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None
    devices: tuple[str, ...]
    engine: str | None
    num_processes: int
    launcher: str

    @property
    def progress(self) -> float:
        """Share of the steps that are done, from 0 to 1."""
        return min(self.step / self.num_steps, 1.0) if self.num_steps else 0.0

    @property
    def actions(self) -> frozenset[Action]:
        """What can be done with it."""
        return ACTIONS[self.state]


def summarise(folder: JobFolder, launcher: Launcher) -> JobSummary:
    """Look at a run.

    Raises:
        UserError: One of its small files is damaged; says which.
    """
    job = folder.job()
    if job is None:
        raise UserError(f"The run {folder.id} has no job.json: no queue knows it.")
    status = current_status(folder, launcher)
    is_running = status.state in ("running", "stopping")
    latest = last_row(folder.run.metrics) if is_running else None
    step = max(status.step, latest["step"]) if latest else status.step
    return JobSummary(
        id=folder.id,
        kind=job.kind,
        state=status.state,
        reason=status.message,
        step=step,
        num_steps=status.num_steps,
        eta_seconds=_eta(folder, latest, status, num_processes=job.num_processes)
        if is_running
        else None,
        error=_error(folder, status),
        submitted=job.submitted,
        started=None if status.state in ("queued", "waiting_for_device") else status.started,
        ended=status.updated if status.state in FINAL else None,
        devices=job.devices,
        engine=job.engine,
        num_processes=job.num_processes,
        launcher=job.launcher,
    )


def damaged_summary(folder: JobFolder, error: UserError) -> JobSummary:
    """Stand in for a run that can't be looked at: it can only be deleted, or done again."""
    text = str(error)
    return JobSummary(
        id=folder.id,
        kind="training",
        state="failed",
        reason=text,
        step=0,
        num_steps=None,
        eta_seconds=None,
        error=text.splitlines()[0],
        submitted=None,
        started=None,
        ended=None,
        devices=(),
        engine=None,
        num_processes=1,
        launcher="here",
    )


def _eta(
    folder: JobFolder, latest: Metrics | None, status: RunStatus, *, num_processes: int
) -> float | None:
    """Return the seconds left at the last measured speed, or else what its process judged."""
    rate = latest.get("pairs_per_second") if latest else None
    if not rate or status.num_steps is None:
        return status.seconds_left
    settings = folder.run.read_config().optimizer
    pairs_per_step = settings.batch_size * settings.gradient_accumulation * num_processes
    return max(status.num_steps - latest["step"], 0) * pairs_per_step / rate


def _error(folder: JobFolder, status: RunStatus) -> str:
    """Return the last line of what was said at the end, or else of what was printed."""
    if status.state == "failed":
        lines = [line.strip() for line in status.message.splitlines() if line.strip()]
        return lines[-1] if lines else last_line(folder.run.output)
    return ""
