"""A Slurm cluster as a launcher, by submitit: a batch job for each run, in a folder that all share.

Written after the documentation of submitit and Slurm and tested against stand-ins that keep to it;
nobody has run it on a cluster yet. The trainer is the one that runs everywhere: it writes the run's
folder itself, saves on SIGTERM, and goes on from its checkpoints when it is submitted again.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from chats.errors import UserError, explain_validation
from training.disk import read_if_there, write_atomically
from training.jobs.here import run_command, run_variables
from training.jobs.launchers import Report
from training.jobs.reading import LogChunk, read_log
from training.jobs.slurm_cluster import SlurmSettings, ask, rows
from training.jobs.workspace import JobFolder
from training.launch import Engine
from training.run import RunState

NAME_MARK = "chats-"
_LOOK_AGAIN_SECONDS = 10.0
# Strings only go into the job's file, so a node needs nothing of ours to read it.
_SCRIPT = 'output=$1; shift; exec "$@" >>"$output" 2>&1'
_LAST_WORDS: Mapping[str, tuple[RunState, str]] = {
    "TIMEOUT": ("interrupted", "Slurm ended it: its time was over."),
    "OUT_OF_MEMORY": ("failed", "Slurm ended it: it took more main memory than it had asked for."),
    "NODE_FAIL": ("interrupted", "Its node failed."),
    "PREEMPTED": ("interrupted", "Slurm gave its node to another job."),
    "CANCELLED": ("interrupted", "It was cancelled in Slurm."),
    "FAILED": ("failed", "It ended before its training could say why; see its output."),
    "BOOT_FAIL": ("interrupted", "Its node did not start."),
    "DEADLINE": ("interrupted", "Slurm ended it: its deadline was over."),
}


class Executor(Protocol):
    """What is used of `submitit.SlurmExecutor`, whose parameters have sbatch's names."""

    def update_parameters(self, **parameters: Any) -> None:
        """Set what sbatch is asked for."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Hand a call in; what it returns has a `job_id`."""


@dataclass
class _Seen:
    report: Report
    until: float


class Slurm:
    """Starts trainings as batch jobs of the cluster that this machine belongs to."""

    def __init__(
        self,
        settings: SlurmSettings | None = None,
        *,
        executor: Callable[[Path], Executor] | None = None,
    ) -> None:
        """Prepare it; nothing is asked yet.

        Args:
            settings: For new runs; runs that were submitted before keep theirs.
            executor: Makes submitit's executor for a folder; none means the installed one.
        """
        self._settings, self._executor = settings, executor or _submitit_executor
        self._seen: dict[str, _Seen] = {}

    def devices(
        self,
        engine: Engine,
        *,
        wanted: str | None,
        before: tuple[str, ...],
        load: Mapping[str, int],
    ) -> tuple[str, ...]:
        """Return none: the devices are other machines'.

        Raises:
            UserError: A device of this machine is asked for, or more nodes than one.
        """
        if wanted is not None:
            raise UserError("Slurm chooses the devices: leave out --device.")
        if engine.num_machines > 1:
            raise UserError("The queue starts trainings on one node: choose ddp, fsdp or zero2.")
        gpus = self._settings.gpus_per_node if self._settings else None
        if gpus is not None and gpus not in (0, engine.num_processes):
            raise UserError(
                f"{engine.num_processes} processes need as many GPUs; --slurm.gpus-per-node is "
                f"{gpus}."
            )
        return ()

    def submit(self, folder: JobFolder) -> str:
        """Hand a queued run in; returns Slurm's number.

        Raises:
            UserError: submitit or Slurm is not there, or Slurm refuses it.
        """
        settings, job = self._settings_of(folder), folder.job()
        variables = run_variables(os.environ, run=folder.run)
        command = ["env", *(f"{name}={value}" for name, value in variables.items())]
        command += run_command(folder.run, job)
        executor = self._executor(folder.run.path / "slurm")
        asked = {
            "job_name": NAME_MARK + folder.id,
            "time": round(settings.hours * 60),
            "nodes": 1,
            "ntasks_per_node": 1,
            "gpus_per_node": settings.gpus_per_node or None,
            "cpus_per_task": settings.cpus,
            "mem": f"{settings.memory_gb}GB",
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
        }
        try:
            executor.update_parameters(
                **{name: value for name, value in asked.items() if value is not None}
            )
            handed_in = executor.submit(
                subprocess.check_call,
                ["bash", "-c", _SCRIPT, "training", str(folder.run.output), *command],
                cwd=str(job.directory),
            )
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise UserError(f"Slurm did not take the training {folder.id}: {error}") from error
        write_atomically(_settings_path(folder), settings.model_dump_json(indent=2) + "\n")
        return str(handed_in.job_id)

    def poll(self, folder: JobFolder) -> Report:
        """Say whether a run's trainer holds its lock, or its job waits or runs."""
        with folder.run.probe() as is_free:
            if not is_free:
                return Report(is_alive=True)
        seen = self._seen.get(folder.id)
        if seen is None or time.monotonic() >= seen.until:
            until = time.monotonic() + _LOOK_AGAIN_SECONDS
            self._seen[folder.id] = seen = _Seen(self._look(folder), until)
        return seen.report

    def cancel(self, folder: JobFolder, *, force: bool) -> None:
        """Send SIGTERM to a run's processes, so that they save, or end the job.

        Raises:
            UserError: Slurm refuses it or can't be reached.
        """
        handle = _handle(folder)
        if handle is None:
            return
        is_waiting = folder.run.stored_status().state == "queued"
        signal = [] if force or is_waiting else ["--signal=TERM"]
        ask("scancel", *signal, handle)
        self._seen.pop(folder.id, None)

    def logs(self, folder: JobFolder, *, offset: int | None, max_bytes: int) -> LogChunk:
        """Read what the run's processes printed."""
        return read_log(folder.run.output, offset=offset, max_bytes=max_bytes)

    def list(self) -> Mapping[str, str]:
        """Return the user's living jobs by the runs' ids, which their names end in.

        Raises:
            UserError: Slurm can't be asked.
        """
        lines = ask("squeue", "--me", *rows("%i %j")).splitlines()
        found = [(row[1], row[0]) for row in map(str.split, lines) if len(row) == 2]
        return {
            name.removeprefix(NAME_MARK): number
            for name, number in found
            if name.startswith(NAME_MARK)
        }

    def _look(self, folder: JobFolder) -> Report:
        handle = _handle(folder)
        if handle is None:
            return Report(is_alive=False)
        try:
            said = ask("squeue", "--jobs", handle, *rows("%T %r")).strip()
        except UserError as error:
            if "Invalid job id" not in str(error):  # what Slurm says of jobs that it has forgotten
                return Report(is_alive=True, reason=f"Slurm can't be asked: {error}")
            said = ""
        if said:
            state, _, reason = said.partition(" ")
            return Report(is_alive=True, reason=f"Slurm: {state.lower()} ({reason}).")
        self._write_end(folder, handle)
        return Report(is_alive=False)

    def _write_end(self, folder: JobFolder, handle: str) -> None:
        """Write down what Slurm says of a job that ended without a word of its trainer."""
        status = folder.run.stored_status()
        if status is None or status.state not in ("queued", "waiting_for_device", "running"):
            return
        words = ""
        with contextlib.suppress(UserError):  # a cluster without accounting has no last words
            states = ("sacct", "--jobs", handle, "--noheader", "--parsable2", "--allocations")
            words = ask(*states, "--format=State").partition(" ")[0].strip()
        if folder.stop_request() is not None:
            return  # it was asked to end: whoever looks at the run says so
        if words in _LAST_WORDS:
            state, message = _LAST_WORDS[words]
            folder.run.update_status(state=state, message=message)
        elif status.state != "running":
            folder.run.update_status(
                state="failed",
                message=f"Its job is gone and never began ({words or 'Slurm knows it no more'}).",
            )

    def _settings_of(self, folder: JobFolder) -> SlurmSettings:
        if self._settings is not None:
            return self._settings
        content = read_if_there(_settings_path(folder))
        if content is None:
            return SlurmSettings()
        try:
            return SlurmSettings.model_validate_json(content)
        except ValidationError as error:
            path = _settings_path(folder)
            raise UserError(f"{path} is damaged.\n{explain_validation(error)}") from None


def _settings_path(folder: JobFolder) -> Path:
    return folder.run.path / "slurm.json"


def _handle(folder: JobFolder) -> str | None:
    job = folder.job()
    return job.handle if job else None


def _submitit_executor(folder: Path) -> Executor:
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("Slurm needs submitit: pip install -r requirements-slurm.txt") from None
    return SlurmExecutor(folder)
