"""The data sets of a workspace: one folder each, which appears only when it is whole."""

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from chats.config import FrozenSettings
from chats.errors import UserError
from chats.generation.prompts import clean_prompt
from training.datasets.dataset import METADATA, PICTURES, RECORD, REPORT, Dataset, write_rows
from training.datasets.records import DISK_REMEDY, DatasetRecord, Report
from training.disk import disk_errors_explained, sync, write_atomically

_ID = re.compile(r"\d{8}-[0-9a-f]{8}")
_STAGED = re.compile(r"\.staged-[0-9a-f]{16}")
_MAX_NAME_CHARS = 120


@dataclass(frozen=True)
class DatasetSummary:
    """A data set as a list shows it."""

    id: str
    name: str
    origin: str
    created: datetime
    num_pairs: int
    num_bytes: int
    version: int


class DatasetStore:
    """The folder that holds all data sets of a workspace; processes may share it."""

    def __init__(self, folder: Path):
        """Take the folder, which need not exist yet."""
        self.folder = folder

    def summaries(self) -> list[DatasetSummary]:
        """List the data sets, the newest first; damaged ones are left out."""
        found = []
        for path in self.folder.glob("*"):
            if _ID.fullmatch(path.name) and (path / RECORD).is_file():
                try:
                    found.append(_summary(Dataset(path)))
                except (ValueError, FileNotFoundError):
                    continue  # damaged by hand, or deleted by somebody meanwhile
        return sorted(found, key=lambda each: each.created, reverse=True)

    def open(self, dataset_id: str) -> Dataset:
        """Return a data set by its id; nothing else names one.

        Raises:
            UserError: There is none.
        """
        if isinstance(dataset_id, str) and _ID.fullmatch(dataset_id):
            dataset = Dataset(self.folder / dataset_id)
            if (dataset.folder / RECORD).is_file():
                return dataset
        raise UserError(f"There is no data set {dataset_id!r:.60} here. Choose one of the list.")

    def summary(self, dataset_id: str) -> DatasetSummary:
        """Return one line of the list.

        Raises:
            UserError: There is no such data set.
        """
        return _summary(self.open(dataset_id))

    def create(self, *, name: str, origin: str) -> Dataset:
        """Make an empty data set, to be added to."""
        with self.staging() as staged:
            (staged / "dataset" / PICTURES).mkdir(parents=True)
            write_rows(staged / "dataset", [])
            return self.adopt(staged / "dataset", name=name, origin=origin, report=None)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Lend an empty folder, and remove what is left in it afterwards.

        What a process that was killed left behind is removed first.
        """
        with disk_errors_explained(self.folder, remedy=DISK_REMEDY):
            self.folder.mkdir(parents=True, exist_ok=True)
            staged = self.folder / f".staged-{secrets.token_hex(8)}"
            with FileLock(self.folder / ".lock"):
                self._sweep()
                staged.mkdir()
                alive = FileLock(staged / ".alive")
                alive.acquire()
        try:
            yield staged
        finally:
            alive.release()
            shutil.rmtree(staged, ignore_errors=True)

    def adopt(self, staged: Path, *, name: str, origin: str, report: Report | None) -> Dataset:
        """Make a staged folder a data set of its own, with an id that nobody chose."""
        now = datetime.now(UTC)
        name = (
            " ".join(clean_prompt(name, limits=()).text.split())[:_MAX_NAME_CHARS].strip()
            or "Preferences"
        )
        record = DatasetRecord(name=name, origin=origin[:300], created=now)
        if report is not None:
            _write(staged / REPORT, report)
        _write(staged / RECORD, record)
        target = self.folder / f"{now:%Y%m%d}-{secrets.token_hex(4)}"
        with disk_errors_explained(target, remedy=DISK_REMEDY):
            staged.rename(target)
            sync(self.folder)
        return Dataset(target)

    def delete(self, dataset_id: str) -> None:
        """Remove a data set for good.

        Raises:
            UserError: There is none.
        """
        dataset = self.open(dataset_id)
        with (
            self.staging() as staged,
            disk_errors_explained(dataset.folder, remedy=DISK_REMEDY),
        ):
            try:
                dataset.folder.rename(staged / "deleted")
            except FileNotFoundError:
                raise UserError(f"There is no data set {dataset_id!r} any more.") from None

    def _sweep(self) -> None:
        """Remove staged folders whose process is dead; the store's lock is ours."""
        for path in self.folder.iterdir():
            if not _STAGED.fullmatch(path.name):
                continue
            lock = FileLock(path / ".alive")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            lock.release()
            shutil.rmtree(path, ignore_errors=True)


def dataset_name(folder: Path) -> str:
    """Return what people call the data in a folder: its name here, or that of the folder."""
    try:
        return Dataset(folder).record().name
    except (OSError, ValueError):
        return folder.name


def _write(path: Path, model: FrozenSettings) -> None:
    write_atomically(path, model.model_dump_json(indent=1) + "\n", remedy=DISK_REMEDY)


def _summary(dataset: Dataset) -> DatasetSummary:
    record = dataset.record()
    with (dataset.folder / METADATA).open("rb") as file:
        num_pairs = sum(1 for _ in file)
    return DatasetSummary(
        id=dataset.id,
        name=record.name,
        origin=record.origin,
        created=record.created,
        num_pairs=num_pairs,
        num_bytes=dataset.num_bytes(),
        version=dataset.version(),
    )
