"""A run is a directory: the one place that knows what lies where in it, and how it is written.

A trainer and whoever watches it meet only here. A file is always whole: it is replaced at once or,
metrics.jsonl, added to line by line. This module imports no torch, so that a page opens at once.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
import yaml
from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from chats.config import FrozenSettings, MethodName
from chats.errors import UserError, explain_validation
from training.config import TrainingConfig, load_settings
from training.disk import PARTIAL, disk_errors_explained, read_if_there, write_atomically

logger = logging.getLogger(__name__)

EXIT_STOPPED = 75
"""Exit status of a run that was asked to stop, saved what it had and can be resumed."""

RunState = Literal[
    "queued",
    "waiting_for_device",
    "running",
    "stopping",
    "succeeded",
    "failed",
    "cancelled",
    "interrupted",
]
"""What becomes of a run; `interrupted` means that its process ended without a word."""

_Settings = TypeVar("_Settings", bound=BaseModel)

Metrics = dict[str, float | None]
"""One line of metrics.jsonl; it has at least `step`."""

_LOCK_WAIT_SECONDS = 1.0
"""Longer than anybody holds the lock only to see whether it is free."""


class RunStatus(FrozenSettings):
    """What status.json says of a run."""

    state: RunState
    """What becomes of the run."""

    step: int = Field(0, ge=0)
    """Units of work done: optimizer steps of a training, pictures of an evaluation."""

    num_steps: int | None = Field(None, ge=1)
    """Units of all its work; none before that is known."""

    seconds_left: float | None = Field(None, ge=0)
    """Time to the end, judged by the pace since its trainer began; none while that is not known."""

    message: str = ""
    """What it does before its steps, or why it waits, failed or stopped, for a person to read."""

    started: AwareDatetime | None = None
    """When its trainer last began (UTC); none before the first did."""

    updated: AwareDatetime
    """When this was written (UTC)."""

    pid: int | None = Field(None, ge=1)
    """Process of the trainer that runs it, or that ran it last."""

    process_created: float | None = None
    """When that process was made, in seconds since 1970; with the pid it names one process."""

    exit_code: int | None = None
    """How that process ended; none while it lives, or if it left no word."""


class Sample(FrozenSettings):
    """What samples/index.jsonl says of one picture."""

    step: int = Field(ge=0)
    """Optimizer steps that were done when it was made."""

    prompt: str
    """What it shows."""

    method: MethodName
    """How predictions were combined; `cfg` is the base model."""

    scale: float
    """Guidance scale s."""

    alpha: float | None
    """α; none for a method that has none."""

    seed: int
    """Seed of its noise."""

    file: str = Field(pattern=r"^step-\d+/[a-z0-9._-]+\.png$")
    """Its place in the folder samples."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run. While it is held, only its holder may write to it."""

    path: Path

    @property
    def log(self) -> Path:
        """What the trainer and its libraries say; `training.loop.log` writes it."""
        return self.path / "log.txt"

    @property
    def output(self) -> Path:
        """What a trainer of a queue printed, and whatever ended it."""
        return self.path / "output.txt"

    @property
    def metrics(self) -> Path:
        """One line for each window of steps; see `read_metrics`."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Folder of pictures made on the way."""
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        """Folder of what `training.loop.checkpoints` saves."""
        return self.path / "checkpoints"

    @property
    def pair(self) -> Path:
        """Folder of the trained pair."""
        return self.path / "pair"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the run for this process, and say in status.json that it is running.

        The end has to be told by `update_status` within; a run that is left without is interrupted.

        Raises:
            UserError: Another process keeps this run, or the folder can't be written to.
        """
        with self.keep():
            self.announce("running")
            yield

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Keep the run for this process without a word; what keeps it already may do so again.

        Raises:
            UserError: Another process trains this run, or the folder can't be written to.
        """
        with disk_errors_explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        # One object for the file: a training within what waited for its turn takes it once more.
        lock = FileLock(self._lock_path, is_singleton=True)
        with _taken(lock, wait_seconds=_LOCK_WAIT_SECONDS) as is_ours:
            if not is_ours:
                status = self.stored_status()
                raise UserError(
                    "Another process is at work in this folder already "
                    f"(pid {status.pid if status else 'unknown'}): {self.path}. "
                    "Wait for it or stop it, or set the output to another folder."
                )
            for partial in self.path.glob(f".*{PARTIAL}"):
                partial.unlink(missing_ok=True)
            self._drop_damaged_status()
            yield

    def announce(self, state: RunState, *, message: str = "") -> None:
        """Say in status.json that this process has begun to run, or to wait.

        Raises:
            UserError: It can't be written.
        """
        process = psutil.Process()
        self.update_status(
            state=state,
            message=message,
            seconds_left=None,
            started=datetime.now(UTC),
            pid=process.pid,
            process_created=process.create_time(),
            exit_code=None,
        )

    def state(self) -> RunState:
        """Return what becomes of the run; see `status`."""
        return self.status().state

    def status(self) -> RunStatus:
        """Return what status.json says, put right by whether the run's trainer lives.

        Raises:
            UserError: The folder holds no run, or status.json is damaged.
        """
        status = self.stored_status()
        if status is None:
            raise UserError(f"The folder {self.path} holds no run: it has no status.json.")
        if status.state not in ("running", "stopping"):
            return status
        with self.probe() as is_dead:
            if not is_dead:
                return status
            status = self.stored_status() or status  # it may have ended properly since
        if status.state not in ("running", "stopping"):
            return status
        return status.model_copy(update={"state": "interrupted"})

    def is_finished(self) -> bool:
        """Whether the run says that it succeeded; a folder that only holds a pair is finished too.

        A trainer that died after it wrote the pair left another state.
        """
        status = self.stored_status()
        return status is None or status.state == "succeeded"

    def has_progress(self) -> bool:
        """Whether there is something to go on from: a checkpoint, or the trained pair."""
        return self.pair.exists() or any(self.checkpoints.glob("step-*"))

    def stored_status(self) -> RunStatus | None:
        """Return what status.json says as it stands, none if there is none; see `status`.

        Raises:
            UserError: It is damaged.
        """
        content = read_if_there(self._status_path)
        if content is None:
            return None
        try:
            return RunStatus.model_validate_json(content)
        except ValidationError as error:
            raise UserError(
                f"{self._status_path} is damaged; delete it, nothing else is lost with it.\n"
                f"{explain_validation(error)}"
            ) from None

    def update_status(self, *, is_durable: bool = True, **changes: Any) -> None:
        """Change fields of status.json, or write it: then `state` has to be among them.

        It waits for the disk, so it is for now and then rather than for every step, unless it may
        be lost when the power goes.

        Raises:
            UserError: A field is wrong, or the file can't be written; it stays as it was.
        """
        before = self.stored_status()
        fields = (before.model_dump() if before else {}) | changes
        try:
            status = RunStatus.model_validate(fields | {"updated": datetime.now(UTC)})
        except ValidationError as error:
            raise explain_validation(error) from None
        text = status.model_dump_json(indent=2) + "\n"
        write_atomically(self._status_path, text, is_durable=is_durable)

    def write_config(self, config: BaseModel) -> None:
        """Write config.yaml.

        Raises:
            UserError: It can't be written; the file stays as it was.
        """
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomically(self._config_path, text)

    def read_config(self) -> TrainingConfig:
        """Read config.yaml of a training.

        Raises:
            UserError: The file is missing or wrong.
        """
        return self.read_settings(TrainingConfig)

    def read_settings(self, kind: type[_Settings]) -> _Settings:
        """Read config.yaml of a run of any kind.

        Raises:
            UserError: The file is missing or wrong, or not of this kind.
        """
        return load_settings(kind, self._config_path)

    def append_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            UserError: It can't be written.
        """
        line = json.dumps(dict(metrics), allow_nan=False) + "\n"
        with disk_errors_explained(self.metrics):
            self.path.mkdir(parents=True, exist_ok=True)
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(line)

    def read_metrics(self) -> list[Metrics]:
        """Return the lines of metrics.jsonl that are whole; a kill in mid-write tears the last."""
        lines = (read_if_there(self.metrics) or b"").splitlines(keepends=True)
        found = [parse_metrics(line) for line in lines if line.endswith(b"\n")]
        return [line for line in found if line is not None]

    def cut_metrics(self, *, after_step: int) -> None:
        """Drop the metrics after a step, and what is torn, before a training goes on from it.

        Raises:
            UserError: The file can't be written; it stays as it was.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= after_step]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    @contextlib.contextmanager
    def probe(self, *, wait_seconds: float = 0) -> Iterator[bool]:
        """Take alive.lock if it is free, so that no trainer lives within; yields whether it was.

        The system frees it when a process ends, however. Who keeps the run finds it held.

        Args:
            wait_seconds: How long to wait for a trainer that is about to end.
        """
        with _taken(FileLock(self._lock_path), wait_seconds=wait_seconds) as was_free:
            yield was_free

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Add pictures that are written to the index; a reader sees all of them at once.

        Raises:
            UserError: It can't be written; the index stays as it was.
        """
        self._write_samples([*self.read_samples(), *samples])

    def read_samples(self) -> list[Sample]:
        """Return the pictures made so far, in the order in which they were made."""
        lines = (read_if_there(self._samples_path) or b"").splitlines()
        found = []
        for line in lines:
            with contextlib.suppress(ValidationError):
                found.append(Sample.model_validate_json(line))
        return found

    def cut_samples(self, *, after_step: int) -> None:
        """Drop the pictures made after a step, before a training goes on from it.

        Raises:
            UserError: They can't be removed.
        """
        samples = self.read_samples()
        kept = [each for each in samples if each.step <= after_step]
        if kept == samples:
            return
        self._write_samples(kept)
        folders = {Path(each.file).parent for each in samples} - {Path(e.file).parent for e in kept}
        with disk_errors_explained(self.samples):
            for folder in folders:
                shutil.rmtree(self.samples / folder, ignore_errors=True)

    def _write_samples(self, samples: Sequence[Sample]) -> None:
        write_atomically(
            self._samples_path, "".join(each.model_dump_json() + "\n" for each in samples)
        )

    @property
    def _samples_path(self) -> Path:
        return self.samples / "index.jsonl"

    @property
    def _config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def _lock_path(self) -> Path:
        return self.path / "alive.lock"

    def _drop_damaged_status(self) -> None:
        """Remove a status that a power cut left torn; who holds the run writes a new one."""
        try:
            self.stored_status()
        except UserError as error:
            logger.warning("%s", error)
            self._status_path.unlink(missing_ok=True)


def parse_metrics(line: bytes) -> Metrics | None:
    """Return a whole line of metrics.jsonl, without its end; none if it is damaged."""
    try:
        metrics = json.loads(line)
    except ValueError:
        return None
    is_whole = isinstance(metrics, dict) and isinstance(metrics.get("step"), int)
    return metrics if is_whole else None


@contextlib.contextmanager
def _taken(lock: FileLock, *, wait_seconds: float) -> Iterator[bool]:
    is_ours = False
    with disk_errors_explained(Path(lock.lock_file).parent), contextlib.suppress(Timeout):
        lock.acquire(timeout=wait_seconds)
        is_ours = True
    try:
        yield is_ours
    finally:
        if is_ours:
            lock.release()
