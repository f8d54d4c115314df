"""A queue to test with: quick trainers instead of real ones, and nothing left behind."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from training.config import TrainingConfig
from training.jobs.console import JobConsole, JobSettings
from training.jobs.here import ThisMachine
from training.jobs.launchers import Report
from training.jobs.processes import kill_run, processes_of
from training.jobs.reading import LogChunk, read_log
from training.jobs.summary import JobSummary
from training.jobs.workspace import Workspace

SLOW_STEPS = 10_000
FAKES = {"training": "tests.fake_trainer"}
"""Modules that are started instead of the real ones."""


class Cluster:
    """Another machine's queue, as a launcher sees it: it keeps jobs by numbers of its own."""

    def __init__(self):
        self.jobs: dict[str, str] = {}
        self.calls: list[tuple] = []

    def devices(self, engine, *, wanted, before, load):
        return ()

    def submit(self, folder):
        handle = str(1000 + len(self.jobs))
        self.jobs[folder.id] = handle
        return handle

    def poll(self, folder):
        is_there = folder.job().handle in self.jobs.values()
        return Report(is_alive=is_there, reason="Priority" if is_there else "")

    def cancel(self, folder, *, force):
        self.calls.append((folder.id, force))
        if force:
            self.jobs.pop(folder.id, None)

    def logs(self, folder, *, offset, max_bytes) -> LogChunk:
        return read_log(folder.run.output, offset=offset, max_bytes=max_bytes)

    def list(self):
        return dict(self.jobs)


def make_config(*, num_steps: int = 3, **optimizer: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "data": {"path": "pairs"},
            "run": {"output": "unused"},
            "optimizer": {"num_steps": num_steps} | optimizer,
        }
    )


def open_console(workspace: Path, *, grace_seconds: float = 60.0) -> JobConsole:
    settings = JobSettings(workspace=workspace, stop_grace_seconds=grace_seconds)
    return JobConsole(
        settings, launchers={"here": ThisMachine(modules={"training": "tests.fake_trainer"})}
    )


@contextlib.contextmanager
def nothing_left(workspace: Path) -> Iterator[None]:
    """Kill whatever still runs in a workspace."""
    try:
        yield
    finally:
        for folder in Workspace(workspace).folders():
            kill_run(folder.run.path, trainer=None)


def wait_until(console: JobConsole, run_id: str, *states: str, seconds: float = 60) -> JobSummary:
    wait_for(lambda: console.get(run_id).state in states, seconds=seconds, what=f"{run_id}{states}")
    return console.get(run_id)


def wait_for(condition: Callable[[], bool], *, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def begun(console: JobConsole, run_id: str) -> list[float]:
    """When trainers began with a run."""
    path = console.directory(run_id).path / "begun.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [float(line.split()[1]) for line in lines]


def living(console: JobConsole, run_id: str) -> list[int]:
    return [each.pid for each in processes_of(console.directory(run_id).path)]
