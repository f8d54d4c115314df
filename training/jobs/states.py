"""What becomes of a queued run: its status.json, put right by who lives and what was asked."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from chats.errors import UserError
from training.jobs.launchers import Launcher
from training.jobs.workspace import JobFolder, StopRequest
from training.run import RunState, RunStatus

FINAL: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled", "interrupted"})
"""States that a run leaves only if a person asks for it."""

WAITING: frozenset[RunState] = frozenset({"queued", "waiting_for_device"})


def current_status(folder: JobFolder, launcher: Launcher) -> RunStatus:
    """Return what becomes of a run; asked again it says the same, until something happens.

    Who was asked to stop and outlived the grace is killed. A trainer that ended without a word is
    written down as interrupted. A run that only waited is left as it was, for the queue's next
    start to begin it.

    Raises:
        UserError: status.json is damaged, or can't be written.
    """
    status = folder.run.stored_status()
    if status is None:
        return RunStatus(
            state="interrupted", message="Its status.json is missing.", updated=_born(folder)
        )
    if status.state in FINAL:
        return status
    asked, report = folder.stop_request(), launcher.poll(folder)
    status = folder.run.stored_status() or status  # a launcher may have brought news of it
    if status.state in FINAL:
        return status
    if report.is_alive:
        if asked is not None:
            if datetime.now(UTC) >= asked.kill_at:
                launcher.cancel(folder, force=True)
            return status.model_copy(update={"state": "stopping", "message": _until(asked)})
        return status.model_copy(update={"message": status.message or report.reason})
    if status.state in WAITING:
        return _not_begun(folder, status, asked)
    return _ended_without_a_word(folder, status, asked)


def _not_begun(folder: JobFolder, status: RunStatus, asked: StopRequest | None) -> RunStatus:
    latest = folder.run.stored_status() or status
    if latest.state != status.state:
        return latest  # it moved on between two looks
    if asked is not None:
        return _written(folder, state="cancelled", message="Cancelled before it began.")
    if status.state == "queued":
        return status.model_copy(update={"message": "Its process has not begun."})
    return status.model_copy(
        update={"state": "interrupted", "message": "Its process ended while it waited."}
    )


def _ended_without_a_word(
    folder: JobFolder, status: RunStatus, asked: StopRequest | None
) -> RunStatus:
    found = folder.run.status()
    if found.state == "interrupted":
        if asked is not None and asked.is_kill:
            return _written(
                folder, state="cancelled", message=f"Killed as asked.{_back(folder, status)}"
            )
        message = "Its process was killed, or the machine went down."
        if asked is not None:
            message = "It did not stop in time, so it was killed."
        return _written(folder, state="interrupted", message=message + _back(folder, status))
    return found


def _written(folder: JobFolder, *, state: RunState, message: str) -> RunStatus:
    """Write down an end that nobody told, unless somebody did meanwhile."""
    with folder.run.probe() as is_free:
        latest = folder.run.stored_status()
        if is_free and latest is not None and latest.state not in FINAL:
            folder.run.update_status(state=state, message=message)
    return folder.run.stored_status() or latest


def _back(folder: JobFolder, status: RunStatus) -> str:
    if not status.step:
        return " It had just begun."
    return f" It can go on {folder.kind().goes_on}."


def _until(asked: StopRequest) -> str:
    if asked.is_kill:
        return "Being killed."
    return f"Saves, then ends; it is killed at {asked.kill_at:%H:%M:%S} UTC if it has not ended."


def _born(folder: JobFolder) -> datetime:
    with contextlib.suppress(UserError):
        if job := folder.job():
            return job.submitted
    return datetime.fromtimestamp(Path(folder.run.path).stat().st_mtime, UTC)
