"""Where the runs of a queue lie, and the small files that steer them.

workspace/runs/ID is a run directory with job.json (its place in the queue) and, once somebody asked
it to end, stop.json; workspace/locks has a lock for each device. There is no other memory: whoever
opens the folder, a page, a command line or a trainer, sees the same queue.
"""

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, Field, ValidationError

from chats.config import FrozenSettings
from chats.devices import DeviceLock, device_lock
from chats.errors import UserError, explain_validation
from training.config import TrainingConfig
from training.disk import disk_errors_explained, read_if_there, sync, write_atomically
from training.evaluation_config import EvaluateConfig
from training.jobs.kinds import KINDS, JobKind, KindName
from training.run import RunDirectory

RUN_VARIABLE = "CHATS_RUN"
"""Names the run's folder in the environment of all processes that a queue started for it."""

DeviceName = Annotated[str, Field(pattern=r"^(cpu|mps|cuda:(GPU|MIG)-[0-9A-Za-z-]+)$")]
"""A device of this machine: `cpu`, `mps`, or `cuda:` and a GPU's UUID."""

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_HIDDEN = re.compile(rf"\.(new|deleted)-{_ID.pattern}")
_FORGOTTEN_SECONDS = 3600
"""Nobody takes longer to make or to remove a run's folder."""
_LOCK_WAIT_SECONDS = 30
_Settings = TypeVar("_Settings", bound=FrozenSettings)


class Job(FrozenSettings):
    """What job.json says: how a run is started, and its place in the queue."""

    kind: KindName = "training"
    """What is started."""

    launcher: str = "here"
    """Who starts it."""

    engine: str | None = None
    """File of training/engines that starts its processes; none: one process."""

    num_processes: int = Field(1, ge=1)
    """Its processes."""

    devices: tuple[DeviceName, ...] = ()
    """Devices of this machine that it keeps while it runs; none where another queue decides."""

    ticket: int = Field(ge=0)
    """Place in the queue: the lowest one that waits for a device is the next."""

    submitted: AwareDatetime
    """When it was first submitted (UTC)."""

    directory: Path
    """Relative paths of the settings are meant from here."""

    handle: str | None = None
    """What its launcher calls it; none before it was started."""


class StopRequest(FrozenSettings):
    """What stop.json says: somebody asked the run to end."""

    kill_at: AwareDatetime
    """When it is killed if it still lives (UTC)."""

    is_kill: bool = False
    """Whether it was not even asked to save."""


@dataclass(frozen=True)
class JobFolder:
    """A run directory with its place in a queue."""

    run: RunDirectory

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.path.name

    def job(self) -> Job | None:
        """Return job.json; none for a run that no queue knows."""
        return _read_settings(self._job_path, Job)

    def kind(self) -> JobKind:
        """Return what is to be known of its kind; a run that no queue knows is a training."""
        job = self.job()
        return KINDS[job.kind if job else "training"]

    def settings(self) -> TrainingConfig | EvaluateConfig:
        """Read its settings.

        Raises:
            UserError: They are missing or wrong.
        """
        return self.run.read_settings(self.kind().settings)

    def write_job(self, job: Job) -> None:
        """Write job.json; only who holds the workspace's queue may."""
        write_atomically(self._job_path, job.model_dump_json(indent=2) + "\n")

    def stop_request(self) -> StopRequest | None:
        """Return who asked it to end; none if nobody did."""
        return _read_settings(self._stop_path, StopRequest)

    def ask_to_stop(self, request: StopRequest) -> None:
        """Leave word that it is to end."""
        write_atomically(self._stop_path, request.model_dump_json(indent=2) + "\n")

    def forget_stop(self) -> None:
        """Take that back."""
        with disk_errors_explained(self._stop_path):
            self._stop_path.unlink(missing_ok=True)

    @property
    def _job_path(self) -> Path:
        return self.run.path / "job.json"

    @property
    def _stop_path(self) -> Path:
        return self.run.path / "stop.json"


@dataclass(frozen=True)
class Workspace:
    """The folder of a queue."""

    path: Path

    @classmethod
    def of(cls, run: RunDirectory) -> "Workspace":
        """Return the workspace that a run lies in."""
        return cls(run.path.parent.parent)

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.path / "runs"

    def folders(self) -> list[JobFolder]:
        """Return the runs, newest first; what else lies there is passed over."""
        try:
            found = [each for each in self.runs.iterdir() if _ID.fullmatch(each.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [JobFolder(RunDirectory(each)) for each in sorted(found, reverse=True)]

    def find(self, run_id: str) -> JobFolder:
        """Return the run of an id, which may come from anybody.

        Raises:
            UserError: It is no id, or there is no such run.
        """
        if isinstance(run_id, str) and _ID.fullmatch(run_id):
            path = self.runs / run_id
            if path.is_dir() and not path.is_symlink():
                return JobFolder(RunDirectory(path))
        shown = repr(run_id)
        raise UserError(f"There is no run {shown if len(shown) <= 40 else shown[:39] + '…'}.")

    def create(self, config: TrainingConfig | EvaluateConfig, job: Job) -> JobFolder:
        """Make the folder of a new run, queued; it is there whole or not at all.

        Raises:
            UserError: The folder can't be written to.
        """
        run_id = f"{job.submitted:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        final = self.runs.resolve() / run_id
        made = RunDirectory(final.with_name(f".new-{run_id}"))
        kind = KINDS[job.kind]
        made.write_config(kind.placed(config, final))
        JobFolder(made).write_job(job)
        made.update_status(state="queued", num_steps=kind.num_units(config))
        with disk_errors_explained(final):
            made.path.rename(final)
            sync(final.parent)
        return JobFolder(RunDirectory(final))

    def remove(self, folder: JobFolder) -> None:
        """Remove a run for ever; renamed first, it is never half a run."""
        hidden = folder.run.path.with_name(f".deleted-{folder.id}")
        with disk_errors_explained(self.runs):
            folder.run.path.rename(hidden)
            shutil.rmtree(hidden)

    def sweep(self) -> None:
        """Remove what a kill left of folders that were being made or removed."""
        for path in self.runs.glob(".*"):
            is_old = time.time() - path.lstat().st_mtime > _FORGOTTEN_SECONDS
            if _HIDDEN.fullmatch(path.name) and is_old:
                shutil.rmtree(path, ignore_errors=True)

    def next_ticket(self) -> int:
        """Return the place after all others; only who holds the queue may ask."""
        jobs = [_job_if_whole(folder) for folder in self.folders()]
        return max((job.ticket for job in jobs if job), default=0) + 1

    @contextlib.contextmanager
    def queue(self) -> Iterator[None]:
        """Keep everybody else from changing the queue.

        Raises:
            UserError: Somebody keeps it for too long, or the folder can't be written to.
        """
        with disk_errors_explained(self.path):
            self.runs.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._locks() / "queue.lock")
            try:
                lock.acquire(timeout=_LOCK_WAIT_SECONDS)
            except Timeout:
                raise UserError(
                    f"The queue in {self.path} has been busy for {_LOCK_WAIT_SECONDS} seconds: "
                    "another program changes it. Try again."
                ) from None
        try:
            yield
        finally:
            lock.release()

    def device_lock(self, device: str) -> DeviceLock:
        """Return the lock of a device, which the run on it holds."""
        with disk_errors_explained(self.path):
            return device_lock(self._locks(), device)

    def _locks(self) -> Path:
        locks = self.path / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return locks


def new_job(*, directory: Path, **settings: object) -> Job:
    """Return a job that is submitted now."""
    return Job.model_validate({"submitted": datetime.now(UTC), "directory": directory, **settings})


def _job_if_whole(folder: JobFolder) -> Job | None:
    try:
        return folder.job()
    except UserError:
        return None


def _read_settings(path: Path, kind: type[_Settings]) -> _Settings | None:
    content = read_if_there(path)
    if content is None:
        return None
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path} is damaged.\n{explain_validation(error)}") from None
