"""This machine as a launcher: a detached process for each run, which waits for its device."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil

import training
from chats.devices import machine_devices
from chats.errors import UserError
from training.disk import disk_errors_explained
from training.jobs.devices import choose_devices, device_variables
from training.jobs.kinds import KINDS, KindName
from training.jobs.launchers import Report
from training.jobs.processes import (
    find_process,
    kill_run,
    name_process,
    send,
    started_for_runs,
    trainer_of,
)
from training.jobs.reading import LogChunk, last_line, read_log
from training.jobs.workspace import RUN_VARIABLE, Job, JobFolder
from training.launch import Engine, find_engine, launch_command
from training.run import RunDirectory

_ROOT = Path(training.__file__).parents[1]
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|LOGIN|AUTH|API_?KEY|ACCESS_?KEY"
    r"|PRIVATE_?KEY",
    re.IGNORECASE,
)
_NEEDED_SECRETS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"})
"""What a run itself may need: gated models, private data, its own curves."""


class ThisMachine:
    """Starts runs here.

    Each is a process in a session of its own, with its output in a file of the run: it outlives
    whoever started it. It waits for its device and holds the locks itself (`training.jobs.turn`),
    so the queue moves on though no server lives.
    """

    def __init__(self, *, modules: Mapping[KindName, str] | None = None) -> None:
        """Take the modules that are started instead of those of the kinds, if any."""
        self._modules = {name: kind.module for name, kind in KINDS.items()} | dict(modules or {})

    def devices(
        self,
        engine: Engine,
        *,
        wanted: str | None,
        before: tuple[str, ...],
        load: Mapping[str, int],
    ) -> tuple[str, ...]:
        """Return the devices it had, the wanted one, or those with the shortest queues.

        Raises:
            UserError: The machine does not have what is asked.
        """
        available = machine_devices()
        if before and available.keys() >= set(before):
            return before
        return choose_devices(engine, wanted=wanted, available=available, load=load)

    def submit(self, folder: JobFolder) -> str:
        """Start the process of a queued run; returns its name.

        Raises:
            UserError: It can't be started.
        """
        job = folder.job()
        command = run_command(folder.run, job, module=self._modules[job.kind])
        with disk_errors_explained(folder.run.output), folder.run.output.open("ab") as output:
            output.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {command}\n".encode())
            output.flush()
            try:
                child = subprocess.Popen(
                    command,
                    cwd=job.directory,
                    env=child_environment(os.environ, run=folder.run, job=job),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"Can't start the run {folder.id}: {error}.") from error
        name = name_process(child.pid)
        threading.Thread(target=_wait, args=(child, folder, job.ticket), daemon=True).start()
        return name

    def poll(self, folder: JobFolder) -> Report:
        """Say whether a run's trainer lives: whether it holds its lock, or is about to."""
        return Report(is_alive=lives_here(folder))

    def cancel(self, folder: JobFolder, *, force: bool) -> None:
        """Send SIGTERM to the trainer itself, or SIGKILL to all processes of the run."""
        status, job = folder.run.stored_status(), folder.job()
        trainer = trainer_of(status) if status else None
        if force:
            kill_run(folder.run.path, trainer=trainer)
        elif target := trainer or find_process(job.handle if job else None):
            send(target, signal.SIGTERM)

    def logs(self, folder: JobFolder, *, offset: int | None, max_bytes: int) -> LogChunk:
        """Read what the run's processes printed."""
        return read_log(folder.run.output, offset=offset, max_bytes=max_bytes)

    def list(self) -> Mapping[str, str]:
        """Return the first processes of the runs that live here, by the runs' ids."""
        first: dict[str, psutil.Process] = {}
        for process, run in started_for_runs():
            before = first.get(run.name)
            if before is None or process.create_time() < before.create_time():
                first[run.name] = process
        return {run_id: name_process(process.pid) for run_id, process in first.items()}


def lives_here(folder: JobFolder) -> bool:
    """Whether a trainer holds a run, or a process that was started for it is about to."""
    with folder.run.probe() as is_free:
        if not is_free:
            return True
    status, job = folder.run.stored_status(), folder.job()
    if job is None or status is None or status.state != "queued":
        return False
    return find_process(job.handle) is not None


def child_environment(
    environment: Mapping[str, str], *, run: RunDirectory, job: Job
) -> dict[str, str]:
    """Return what a training's processes get to know: no secret that they have no use for."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _NEEDED_SECRETS or not _SECRET.search(name)
    }
    return kept | device_variables(job.devices) | run_variables(environment, run=run)


def run_variables(environment: Mapping[str, str], *, run: RunDirectory) -> dict[str, str]:
    """Return what is set for a run's processes beside what their environment holds; no secrets."""
    path = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return {
        RUN_VARIABLE: str(run.path),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # what lies in the folder it is started from is no code of ours
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TQDM_MININTERVAL": "10",  # a bar in a file is one line each time
    }


def run_command(run: RunDirectory, job: Job, *, module: str | None = None) -> list[str]:
    """Return the command of a run, as a list, with nothing left to be looked up.

    Args:
        run: Where its settings are.
        job: How it is started.
        module: What is started instead of what its kind says.
    """
    module = module or KINDS[job.kind].module
    one_process = job.engine is None
    engine = find_engine(job.engine, num_processes=job.num_processes)
    command = launch_command(engine, ["--config", str(run.path / "config.yaml")], module=module)
    if one_process:
        start = [sys.executable]
    else:
        start = [sys.executable, "-m", "accelerate.commands.launch"]
        command[command.index("--config_file") + 1] = str(engine.path)
    return [*start, *(command[1:] if one_process else command[2:])]


def _wait(child: subprocess.Popen[bytes], folder: JobFolder, ticket: int) -> None:
    """Wait for a child's end, and say so if it ended before it took up its run."""
    code = child.wait()
    try:
        with folder.run.probe() as is_free:
            status, job = folder.run.stored_status(), folder.job()
            is_untold = status is not None and status.state == "queued"
            if is_free and is_untold and job is not None and _is_of(child.pid, job, ticket):
                said = last_line(folder.run.output)
                folder.run.update_status(
                    state="failed",
                    message=f"It could not begin (exit status {code}): {said}",
                    exit_code=code,
                )
    except UserError:
        pass  # the run is gone, or can't be read: whoever looks at it will be told


def _is_of(pid: int, job: Job, ticket: int) -> bool:
    """Whether a process was started for a job as it stands: one that was resumed is another."""
    if job.ticket != ticket:
        return False
    return job.handle is None or job.handle.partition("@")[0] == str(pid)
