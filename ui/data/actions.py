"""What can be done with data sets, for the page and for programs alike: checked values in and out.

A browser's text never becomes a path: an upload is named by the server, a data set by an id that
the store made, and everything else is compared, stored or shown as text.
"""

import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from chats.errors import UserError, explain_validation
from training.config import DataSettings
from training.datasets import Dataset, DatasetStore
from training.datasets.edits import find_repeats
from training.datasets.export import write_zip
from training.datasets.importing import (
    checked_hub_id,
    import_file,
    import_hub,
    validate,
)
from training.datasets.records import EditAction, Report, StoredRow
from training.jobs.console import JobConsole
from training.jobs.data_use import unused_data
from training.preferences.hub import HubPreview, preview_hub
from training.preferences.rows import UnknownColumnsError
from training.progress import Progress
from ui.working import followed

SUFFIXES = (".zip", ".parquet")
ONLY = ("all", "repeats", "contradictions")
MAX_ROWS_AT_ONCE = 500
COLUMN_NAMES = (
    "prompt_column",
    "preferred_column",
    "dispreferred_column",
    "first_label",
    "second_label",
)
NAME_COLUMNS = "Name them under Columns, then import again."


@dataclass(frozen=True)
class Selection:
    """Some of the rows of a data set, and how many there are of each kind."""

    dataset: Dataset
    rows: Sequence[StoredRow]
    num_all: int
    num_repeats: int
    num_contradictions: int


class DataActions:
    """Every action on the data sets of one workspace; mistakes come as UserError."""

    def __init__(self, store: DatasetStore, *, console: JobConsole | None = None):
        """Take the data sets, and the queue of the trainings that may need them."""
        self.store = store
        self._console = console

    def listing(self) -> list[dict[str, Any]]:
        """List the data sets, the newest first."""
        return [
            {**asdict(each), "created": each.created.isoformat(timespec="seconds")}
            for each in self.store.summaries()
        ]

    def import_upload(
        self, file: str | None, *, name: str, columns: dict[str, str]
    ) -> Generator[Progress, None, Dataset]:
        """Import an upload; it is removed unless its columns have to be named first."""
        if not file:
            raise UserError("No file is chosen. Choose a .zip or a .parquet file.")
        path = Path(file)
        try:
            if path.suffix.lower() not in SUFFIXES:
                raise UserError(
                    f"{path.name:.200} is no .zip and no .parquet file. Pack it as a zip."
                )
            settings = _settings(path, columns)
            dataset = yield from followed(
                lambda on_progress: import_file(
                    self.store, settings, name=name, on_progress=on_progress
                )
            )
        except UnknownColumnsError:
            raise
        except BaseException:
            _remove_upload(path)
            raise
        _remove_upload(path)
        return dataset

    def import_hub(
        self, repo_id: str, *, split: str, max_pairs: int, name: str, columns: dict[str, str]
    ) -> Generator[Progress, None, Dataset]:
        """Import the first pairs of a data set on the Hub."""
        repo_id = checked_hub_id((repo_id or "").strip())
        settings = _settings(
            Path(repo_id), columns, split=split, max_pairs=max_pairs, streaming=True
        )
        return (
            yield from followed(
                lambda on_progress: import_hub(
                    self.store, settings, name=name, on_progress=on_progress
                )
            )
        )

    def preview_hub(self, repo_id: str, *, split: str) -> HubPreview:
        """Read the first rows of a data set on the Hub."""
        repo_id = checked_hub_id((repo_id or "").strip())
        return preview_hub(repo_id, split=(split or "").strip() or "train")

    def validate(self, dataset: str) -> Generator[Progress, None, Report]:
        """Look at every row and picture again."""
        opened = self.store.open(dataset)
        return (yield from followed(lambda on_progress: validate(opened, on_progress=on_progress)))

    def select(self, dataset: str, *, only: str = "all") -> Selection:
        """Return the rows as they are now, or those of them that repeat or contradict others."""
        if only not in ONLY:
            raise UserError(f"{only!r:.60} is no choice of rows. Choose of: {', '.join(ONLY)}.")
        opened = self.store.open(dataset)
        rows = opened.rows()
        found = find_repeats(rows)
        chosen = {"repeats": found.repeats, "contradictions": found.contradictions}.get(only)
        if chosen is not None:
            numbers = frozenset(chosen)
            shown = [row for row in rows if row.row in numbers]
        else:
            shown = rows
        return Selection(opened, shown, len(rows), len(found.repeats), len(found.contradictions))

    def rows(self, dataset: str, *, only: str, offset: int, limit: int) -> dict[str, Any]:
        """Return some rows as plain values."""
        selection = self.select(dataset, only=only)
        offset = _whole(offset, "offset", most=10**9)
        limit = _whole(limit, "limit", most=MAX_ROWS_AT_ONCE)
        return {
            "num_rows": len(selection.rows),
            "rows": [row.model_dump() for row in selection.rows[offset : offset + limit]],
        }

    def edit(
        self, dataset: str, *, action: str, rows: Sequence[Any] = (), prompt: str = ""
    ) -> dict[str, Any]:
        """Make a new version, and say what it changed."""
        opened = self.store.open(dataset)
        if action not in get_args(EditAction):
            known = ", ".join(get_args(EditAction))
            raise UserError(f"{action!r:.60} is no edit. Choose of: {known}.")
        numbers = [_whole(row, "row", most=10**12) for row in rows or ()]
        with self._unused(opened.folder):
            edit, left = opened.edit(action, rows=numbers, prompt=prompt or "")
        return {
            "version": edit.version,
            "action": edit.action,
            "rows": sorted({row.row for row in (*edit.before, *edit.after)}),
            "num_pairs": len(left),
        }

    @contextmanager
    def export(self, dataset: str) -> Iterator[Path]:
        """Write a zip and lend it; it is removed afterwards."""
        opened = self.store.open(dataset)
        with tempfile.TemporaryDirectory(prefix="chats-export-") as folder:
            yield write_zip(opened, Path(folder) / f"preferences-{opened.id}.zip")

    def push(self, dataset: str, *, repo_id: str, private: bool) -> Generator[Progress, None, str]:
        """Upload a data set to the Hub and return its address; a closed page does not end it."""
        from huggingface_hub import HfApi

        from training.publishing.push_dataset import push_dataset

        repo_id = (repo_id or "").strip()
        return (
            yield from followed(
                lambda on_progress: push_dataset(
                    self.store,
                    dataset,
                    repo_id,
                    private=bool(private),
                    api=HfApi(),
                    on_progress=on_progress,
                ),
                outlives_page=True,
            )
        )

    def delete(self, dataset: str, *, confirm: bool) -> None:
        """Remove a data set for good."""
        opened = self.store.open(dataset)
        if confirm is not True:
            raise UserError(f"Deleting {opened.record().name} can't be undone. Confirm it.")
        with self._unused(opened.folder):
            self.store.delete(dataset)

    def _unused(self, folder: Path) -> AbstractContextManager[None]:
        return unused_data(self._console, folder) if self._console else nullcontext()


def _settings(path: Path, columns: dict[str, str], **others: Any) -> DataSettings:
    named = {name: (columns.get(name) or "").strip() or None for name in COLUMN_NAMES}
    labels = (named.pop("first_label"), named.pop("second_label"))
    if any(labels) and not all(labels):
        raise UserError("Two label columns are needed, one for each picture; only one is named.")
    try:
        return DataSettings(
            path=path,
            on_bad_rows="skip",
            label_columns=labels if all(labels) else None,
            **named,
            **others,
        )
    except ValidationError as error:
        raise explain_validation(error) from None


def _whole(value: Any, name: str, *, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise UserError(f"{name} must be a whole number (given: {value!r:.60}).")
    if not 0 <= value <= most:
        raise UserError(f"{name} must be 0 to {most:,} (given: {value!r:.60}).")
    return int(value)


def _remove_upload(path: Path) -> None:
    """Gradio keeps each upload in a folder of its own; the same file may be sent twice at once."""
    path.unlink(missing_ok=True)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
