"""Processes of a run: named by pid and time of birth, found by what stands in their environment.

A pid alone may be another program's by now; it is used for nothing but signals.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

from training.jobs.workspace import RUN_VARIABLE
from training.run import RunStatus

_SAME_BIRTH_SECONDS = 2.0
"""The clock may be set between two looks at the same process."""
_ROUNDS = 5
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)


def name_process(pid: int) -> str:
    """Return a name that no other process will ever have."""
    return f"{pid}@{psutil.Process(pid).create_time():.2f}"


def find_process(name: str | None) -> psutil.Process | None:
    """Return the process of a name; none if it has ended."""
    if name is None:
        return None
    pid, _, created = name.partition("@")
    return _living(int(pid), float(created))


def trainer_of(status: RunStatus) -> psutil.Process | None:
    """Return the trainer that status.json names; none if it has ended."""
    if status.pid is None or status.process_created is None:
        return None
    return _living(status.pid, status.process_created)


def processes_of(run: Path) -> list[psutil.Process]:
    """Return every process that was started for a run, however far from the first."""
    return [each for each, path in started_for_runs() if path == run]


def started_for_runs() -> Iterator[tuple[psutil.Process, Path]]:
    """Yield every process of this user that a queue started, with its run."""
    for process in psutil.process_iter():
        try:
            path = process.environ().get(RUN_VARIABLE)
            is_alive = process.status() != psutil.STATUS_ZOMBIE
        except _GONE:
            continue
        if path and is_alive:
            yield process, Path(path)


def kill_run(run: Path, *, trainer: psutil.Process | None) -> None:
    """Kill all of a run's processes at once, those that they start meanwhile too.

    The first process leads a group, but `accelerate launch` gives every trainer a group of its own.
    """
    for _ in range(_ROUNDS):
        found = processes_of(run)
        if trainer is not None:
            found += [trainer, *_children(trainer)]
        living = [each for each in found if each.pid != os.getpid() and each.is_running()]
        if not living:
            return
        for process in living:
            send(process, signal.SIGKILL)
        psutil.wait_procs(living, timeout=0.2)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process, which may be gone by now."""
    with contextlib.suppress(*_GONE):
        process.send_signal(number)


def _living(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - created) < _SAME_BIRTH_SECONDS
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except _GONE:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except _GONE:
        return []
