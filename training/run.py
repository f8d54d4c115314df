"""A run is a directory: the one place that knows what lies where in it, and how it is written.

A trainer and whoever watches it meet only here. A file is always whole: it is replaced at once or,
metrics.jsonl, added to line by line. This module imports no torch, so that a page opens at once.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from filelock import FileLock, Timeout
from pydantic import AwareDatetime, Field, ValidationError

from chats.config import FrozenSettings
from chats.errors import UserError, explain_validation
from training.config import TrainingConfig, load_training_config

EXIT_STOPPED = 75
"""Exit status of a trainer that was asked to stop, saved a checkpoint and can be resumed."""

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
"""What becomes of a run; `interrupted` means that its trainer ended without a word."""

Metrics = dict[str, float | None]
"""One line of metrics.jsonl; it has at least `step`."""

RUN_REMEDY = "then resume the run; or set run.output to another folder."
"""What to do when the disk refuses to write a run."""

_LOCK_WAIT_SECONDS = 1.0
"""Longer than anybody holds the lock only to see whether it is free."""
_PARTIAL = ".partial"
_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class RunStatus(FrozenSettings):
    """What status.json says of a run."""

    state: RunState
    """What becomes of the run."""

    step: int = Field(0, ge=0)
    """Optimizer steps done."""

    num_steps: int | None = Field(None, ge=1)
    """Optimizer steps of the whole training; none before that is known."""

    message: str = ""
    """Why it waits, failed or stopped, for a person to read."""

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


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run. While it is held, only its holder may write to it."""

    path: Path

    @property
    def log(self) -> Path:
        """What the trainer prints."""
        return self.path / "log.txt"

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
            UserError: Another process trains this run, or the folder can't be written to.
        """
        with disk_errors_explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._lock(wait_seconds=_LOCK_WAIT_SECONDS) as is_ours:
            if not is_ours:
                status = self._read_status()
                raise UserError(
                    "This run is being trained already "
                    f"(pid {status.pid if status else 'unknown'}): {self.path}. "
                    "Stop that training, or set run.output to another folder."
                )
            for partial in self.path.glob(f".*{_PARTIAL}"):
                partial.unlink(missing_ok=True)
            process = psutil.Process()
            self.update_status(
                state="running",
                message="",
                started=datetime.now(UTC),
                pid=process.pid,
                process_created=process.create_time(),
                exit_code=None,
            )
            yield

    def state(self) -> RunState:
        """Return what becomes of the run; see `status`."""
        return self.status().state

    def status(self) -> RunStatus:
        """Return what status.json says, put right by whether the run's trainer lives.

        Raises:
            UserError: The folder holds no run, or status.json is damaged.
        """
        status = self._read_status()
        if status is None:
            raise UserError(f"The folder {self.path} holds no run: it has no status.json.")
        if status.state not in ("running", "stopping"):
            return status
        with self._lock(wait_seconds=0) as is_dead:
            if not is_dead:
                return status
            status = self._read_status() or status  # it may have ended properly since
        if status.state not in ("running", "stopping"):
            return status
        return status.model_copy(update={"state": "interrupted"})

    def update_status(self, **changes: Any) -> None:
        """Change fields of status.json, or write it: then `state` has to be among them.

        It waits for the disk, so it is for now and then rather than for every step.

        Raises:
            UserError: A field is wrong, or the file can't be written; it stays as it was.
        """
        before = self._read_status()
        fields = (before.model_dump() if before else {}) | changes
        try:
            status = RunStatus.model_validate(fields | {"updated": datetime.now(UTC)})
        except ValidationError as error:
            raise explain_validation(error) from None
        write_atomically(self._status_path, status.model_dump_json(indent=2) + "\n")

    def write_config(self, config: TrainingConfig) -> None:
        """Write config.yaml.

        Raises:
            UserError: It can't be written; the file stays as it was.
        """
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomically(self._config_path, text)

    def read_config(self) -> TrainingConfig:
        """Read config.yaml.

        Raises:
            UserError: The file is missing or wrong.
        """
        return load_training_config(self._config_path)

    def append_metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            UserError: It can't be written.
        """
        line = json.dumps(dict(metrics), allow_nan=False) + "\n"
        with disk_errors_explained(self._metrics_path):
            self.path.mkdir(parents=True, exist_ok=True)
            with self._metrics_path.open("a", encoding="utf-8") as file:
                file.write(line)

    def read_metrics(self) -> list[Metrics]:
        """Return the lines of metrics.jsonl that are whole; a kill in mid-write tears the last."""
        lines = (_read(self._metrics_path) or b"").splitlines(keepends=True)
        found = [_parse(line) for line in lines if line.endswith(b"\n")]
        return [line for line in found if line is not None]

    def cut_metrics(self, *, after_step: int) -> None:
        """Drop the metrics after a step, and what is torn, before a training goes on from it.

        Raises:
            UserError: The file can't be written; it stays as it was.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= after_step]
        write_atomically(self._metrics_path, "".join(json.dumps(line) + "\n" for line in kept))

    @property
    def _config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def _metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def _read_status(self) -> RunStatus | None:
        content = _read(self._status_path)
        if content is None:
            return None
        try:
            return RunStatus.model_validate_json(content)
        except ValidationError as error:
            raise UserError(
                f"{self._status_path} is damaged; delete it, nothing else is lost with it.\n"
                f"{explain_validation(error)}"
            ) from None

    @contextlib.contextmanager
    def _lock(self, *, wait_seconds: float) -> Iterator[bool]:
        """Take alive.lock if it is free; the system frees it when a process ends, however."""
        lock = FileLock(self.path / "alive.lock")
        with disk_errors_explained(self.path), contextlib.suppress(Timeout):
            lock.acquire(timeout=wait_seconds)
        try:
            yield lock.is_locked
        finally:
            lock.release()


def write_atomically(path: Path, text: str, *, remedy: str = "") -> None:
    """Write a file so that it is always the old one or the new one, even if the power goes.

    Args:
        path: The file; its folder is made.
        text: Its content.
        remedy: See `disk_errors_explained`.

    Raises:
        UserError: It can't be written; the old one stays.
    """
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}{_PARTIAL}")
    with disk_errors_explained(path, remedy=remedy or RUN_REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors_explained(path: Path, *, remedy: str = RUN_REMEDY) -> Iterator[None]:
    """Turn what the disk refuses within into a UserError that says what to do.

    Args:
        path: How the message calls what is written.
        remedy: What to do after the disk was put in order, or instead.
    """
    try:
        yield
    except OSError as error:
        advice = (
            "Free some space on that disk"
            if error.errno in _DISK_IS_FULL
            else "Make that folder one that can be written to"
        )
        raise UserError(f"Can't write {path}: {error.strerror}. {advice}, {remedy}") from error


def _read(path: Path) -> bytes | None:
    """Return a file's content; none if there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error


def _parse(line: bytes) -> Metrics | None:
    try:
        metrics = json.loads(line)
    except ValueError:
        return None
    is_whole = isinstance(metrics, dict) and isinstance(metrics.get("step"), int)
    return metrics if is_whole else None
