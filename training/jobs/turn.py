"""The side of a run in a queue: keep its folder, wait for the device, say how it ended.

A run waits for its own turn, before it loads anything. So a queue needs no server to move on,
and a lock is held exactly as long as its process lives.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from chats.devices import CPU, DeviceLock, taken
from chats.errors import UserError
from training.disk import disk_errors_explained
from training.jobs.here import lives_here
from training.jobs.workspace import RUN_VARIABLE, Job, JobFolder, Workspace
from training.run import RunDirectory

_LOOK_SECONDS = 0.3
_LOOK_AGAIN_SECONDS = 5.0
"""How often those before it are counted, to say how many there are."""
_UNFINISHED = ("queued", "waiting_for_device", "running", "stopping")


class NotNowError(RuntimeError):
    """The run was asked to end before its work began, or another process took it up."""


@contextlib.contextmanager
def turn(output: Path) -> Iterator[None]:
    """Wait until a queued run may have its devices, and keep both; other runs do not wait.

    Of several processes the first does it, and the others wait for it. Nothing in here needs torch.

    Args:
        output: Folder of the run.

    Raises:
        NotNowError: There is nothing to be done.
        UserError: Another process keeps this run, or its folder can't be written to.
    """
    folder = JobFolder(RunDirectory(output))
    if folder.job() is None:
        yield
    elif int(os.environ.get("RANK", "0")) > 0:
        _wait_for_first_process(folder.run)
        yield
    else:
        with _stopped_by_signal(), folder.run.keep():
            job = _taken_up(folder)
            with _end_told(folder), _devices_kept(folder, job):
                folder.run.announce("running")
                yield


def _taken_up(folder: JobFolder) -> Job:
    """Begin to wait, unless the run was started for a queue that has no use for it any more."""
    status, job = folder.run.stored_status(), folder.job()
    is_queued = status is not None and status.state == "queued"
    if not is_queued:
        if os.environ.get(RUN_VARIABLE) == str(folder.run.path):
            raise NotNowError(
                f"The run {folder.id} is {status.state if status else 'gone'}, no longer queued: "
                "nothing to do."
            )
        if status is not None and status.state == "succeeded":
            raise UserError(
                f"The run {folder.id} is finished. Set the output to a new folder to do it anew."
            )
        folder.forget_stop()
        job = _queued_again(folder, job)
    folder.run.announce("waiting_for_device")
    return job


def _queued_again(folder: JobFolder, job: Job) -> Job:
    """Give a run that a person started by hand the last place in the queue."""
    workspace = Workspace.of(folder.run)
    with workspace.queue():
        job = job.model_copy(update={"ticket": workspace.next_ticket(), "handle": None})
        folder.write_job(job)
    return job


@contextlib.contextmanager
def _devices_kept(folder: JobFolder, job: Job) -> Iterator[None]:
    """Wait for every run before this one, then for the devices; keep them to the end."""
    workspace = Workspace.of(folder.run)
    locks = [workspace.device_lock(device) for device in job.devices]
    said = ""
    with contextlib.ExitStack() as doors, contextlib.ExitStack() as devices:
        while True:
            _end_if_asked(folder)
            before = _before(folder, job, workspace)
            holder = _holder(folder, job, workspace)
            if not before and _is_ours(locks, doors, devices):
                doors.close()
                yield
                return
            if before or holder:
                doors.close()  # pictures may be made until the run that holds a device has ended
            reason = _reason(job, before, holder)
            if reason != said:
                folder.run.update_status(message=reason)
                said = reason
            _wait_for_change(before, folder)


def _is_ours(
    locks: list[DeviceLock], doors: contextlib.ExitStack, devices: contextlib.ExitStack
) -> bool:
    """Take the doors, which are kept, and then the devices, all or none."""
    is_next = all(lock.door.is_locked for lock in locks)
    is_next = is_next or _all_taken([lock.door for lock in locks], doors)
    return is_next and _all_taken([lock.device for lock in locks], devices)


def _before(folder: JobFolder, job: Job, workspace: Workspace) -> list[JobFolder]:
    """Return the living runs that wait for one of the same devices and came earlier, in order."""
    found = []
    for other in workspace.folders():
        if other.id == folder.id:
            continue
        with contextlib.suppress(UserError):  # deleted meanwhile, or damaged: it waits for nothing
            status, place = other.run.stored_status(), other.job()
            if status is None or place is None or status.state not in _UNFINISHED[:2]:
                continue
            is_earlier = place.ticket < job.ticket and set(place.devices) & set(job.devices)
            if is_earlier and lives_here(other):
                found.append((place.ticket, other))
    return [other for _, other in sorted(found, key=lambda each: each[0])]


def _all_taken(locks: list[FileLock], held: contextlib.ExitStack) -> bool:
    """Take all locks or none."""
    for lock in locks:
        with disk_errors_explained(Path(lock.lock_file)):
            if not taken(lock):
                held.close()
                return False
        held.callback(lock.release)
    return True


def _reason(job: Job, before: list[JobFolder], holder: JobFolder | None) -> str:
    is_on_cpu = job.devices == (CPU,)
    reason = "Waiting for the CPU" if is_on_cpu else "Waiting for its device"
    if holder:
        reason += f": {holder.id} {holder.kind().doing} on it"
    elif not is_on_cpu and not before:
        reason += ": pictures are being made on it"
    if before:
        reason += f"; {len(before)} before this one, the next is {before[0].id}"
    return reason + "."


def _holder(folder: JobFolder, job: Job, workspace: Workspace) -> JobFolder | None:
    for other in workspace.folders():
        with contextlib.suppress(UserError):
            status, place = other.run.stored_status(), other.job()
            if other.id == folder.id or status is None or place is None:
                continue
            is_on_ours = set(place.devices) & set(job.devices)
            if status.state in _UNFINISHED[2:] and is_on_ours and lives_here(other):
                return other
    return None


def _wait_for_change(before: list[JobFolder], folder: JobFolder) -> None:
    """Wait for the nearest run before this one to leave the queue; for a device, a moment."""
    deadline = time.monotonic() + _LOOK_AGAIN_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        if not before or folder.stop_request() or not _still_waits(before[-1]):
            return


def _still_waits(other: JobFolder) -> bool:
    try:
        status = other.run.stored_status()
        return status is not None and status.state in _UNFINISHED[:2] and lives_here(other)
    except UserError:
        return False


def _end_if_asked(folder: JobFolder) -> None:
    if folder.stop_request() is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _end_told(folder: JobFolder) -> Iterator[None]:
    """Write how it ended, if nobody did."""
    run = folder.run
    try:
        yield
    except KeyboardInterrupt:
        _tell_stopped(folder)
        raise NotNowError(run.stored_status().message) from None
    except UserError as error:
        run.update_status(state="failed", message=str(error))
        raise
    except BaseException as error:
        if run.stored_status().state in _UNFINISHED:
            run.update_status(state="failed", message=f"{type(error).__name__}: {error}")
        raise


def _tell_stopped(folder: JobFolder) -> None:
    run, kind = folder.run, folder.kind()
    status = run.stored_status()
    if status.state not in _UNFINISHED:
        return
    if status.step:
        message = (
            f"Stopped as asked; it goes on {kind.goes_on}, at {kind.unit} {status.step} at most."
        )
        run.update_status(state="interrupted", message=message)
    else:
        run.update_status(state="cancelled", message=f"Cancelled before its first {kind.unit}.")


def _wait_for_first_process(run: RunDirectory) -> None:
    """Wait until the process of rank 0 has the devices; there is no time limit on a queue."""
    while True:
        status = run.stored_status()
        if status is not None and status.state == "running":
            return
        if status is None or status.state not in _UNFINISHED:
            raise NotNowError("The first process has nothing to do.")
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _stopped_by_signal() -> Iterator[None]:
    """Let SIGTERM end what is before and after the steps as Ctrl-C does; steps hear it themselves.

    Only the main thread hears signals; a trainer that is called in another one is not asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
