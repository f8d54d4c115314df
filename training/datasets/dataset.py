"""One data set: a folder in the ImageFolder layout, whose rows change only under its lock.

metadata.jsonl holds the rows as they are now, pictures/ the files, each named by its content's
hash, dataset.json what never changes, report.json what became of the rows of the import, and
edits.jsonl every edit with the rows before and after it.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import JsonValue

from chats.errors import UserError
from chats.generation.prompts import clean_prompt
from training.data.pictures import check
from training.datasets.edits import applied, changed_rows, last_undoable
from training.datasets.records import (
    DISK_REMEDY,
    DatasetRecord,
    Edit,
    EditAction,
    Report,
    StoredRow,
)
from training.disk import disk_errors_explained, sync, write_atomically
from training.lines import append_line, last_line, mend_tail, read_lines

PICTURES = "pictures"
RECORD, REPORT, METADATA, EDITS = "dataset.json", "report.json", "metadata.jsonl", "edits.jsonl"
MAX_PROMPT_CHARS = 10_000


@dataclass(frozen=True)
class Dataset:
    """The folder of one data set."""

    folder: Path

    @property
    def id(self) -> str:
        """Its id, which is the folder's name."""
        return self.folder.name

    def record(self) -> DatasetRecord:
        """Return what is known of it."""
        return DatasetRecord.model_validate_json((self.folder / RECORD).read_text("utf-8"))

    def report(self) -> Report | None:
        """Return what became of the rows of the import; none if nothing was imported."""
        path = self.folder / REPORT
        return Report.model_validate_json(path.read_text("utf-8")) if path.is_file() else None

    def rows(self) -> list[StoredRow]:
        """Return the rows as they are now, by their numbers."""
        return read_lines(self.folder / METADATA, StoredRow)

    def edits(self) -> list[Edit]:
        """Return every edit, the first one first."""
        return read_lines(self.folder / EDITS, Edit)

    def version(self) -> int:
        """Return the version: 1, and one more for each edit."""
        edits = self.edits()
        return edits[-1].version if edits else 1

    def num_bytes(self) -> int:
        """Return the size of its pictures and its table."""
        files = (self.folder / PICTURES).rglob("*.*")
        return sum(file.stat().st_size for file in (self.folder / METADATA, *files))

    def picture(self, name: str) -> Path:
        """Return the file of a picture that a row names."""
        return self.folder / name

    def append(
        self,
        *,
        prompt: str,
        chosen: bytes,
        rejected: bytes,
        provenance: Mapping[str, JsonValue] | None = None,
    ) -> StoredRow:
        """Add a preference; it is on the disk when this returns. Processes may share the set.

        Args:
            prompt: The prompt.
            chosen: The preferred picture's file.
            rejected: The other picture's file.
            provenance: How the preference came about.

        Raises:
            UserError: The prompt is empty, a picture can't be read, both are the same, or the
                disk refuses it.
        """
        prompt = checked_prompt(prompt)
        if chosen == rejected:
            raise UserError("Both pictures are the same: nothing is preferred.")
        self._check_exists()
        names = [
            add_picture(self.folder, content, name=half, is_synced=True)[0]
            for half, content in (("chosen", chosen), ("rejected", rejected))
        ]
        with self._locked():
            row = StoredRow(
                prompt=prompt,
                chosen_file_name=names[0],
                rejected_file_name=names[1],
                row=self._next_row(),
                provenance=json.dumps(provenance, sort_keys=True) if provenance else "",
            )
            append_line(self.folder / METADATA, row)
        return row

    def edit(
        self,
        action: EditAction,
        *,
        rows: Sequence[int] = (),
        prompt: str = "",
        may_be_empty: bool = False,
    ) -> tuple[Edit, list[StoredRow]]:
        """Make a new version.

        Args:
            action: `drop` or `swap` the rows, give them the `prompt`, or `undo` the last edit.
            rows: Their numbers.
            prompt: The new prompt.
            may_be_empty: Whether all rows may be dropped: of a set that goes on growing.

        Returns:
            The edit and the rows after it.

        Raises:
            UserError: There is no such row, no edit to undo, or the prompt is empty.
        """
        with self._locked():
            before, edits = self.rows(), self.edits()
            if action == "undo":
                undone = last_undoable(edits)
                old, new = undone.after, undone.before
            else:
                undone = None
                prompt = checked_prompt(prompt) if action == "prompt" else ""
                old, new = changed_rows(
                    before, action, numbers=rows, prompt=prompt, may_be_empty=may_be_empty
                )
            edit = Edit(
                version=edits[-1].version + 1 if edits else 2,
                action=action,
                when=datetime.now(UTC),
                before=old,
                after=new,
                next_row=self._next_row(),
                undoes=undone.version if undone else None,
            )
            after = applied(before, edit)
            append_line(self.folder / EDITS, edit)
            write_rows(self.folder, after)
        return edit, after

    def _check_exists(self) -> None:
        if not (self.folder / RECORD).is_file():
            raise UserError(f"There is no data set {self.id!r} any more.")

    def _next_row(self) -> int:
        row = last_line(self.folder / METADATA, StoredRow)
        edit = last_line(self.folder / EDITS, Edit)
        return max(row.row + 1 if row else 1, edit.next_row if edit else 1)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._check_exists()
        with (
            disk_errors_explained(self.folder, remedy=DISK_REMEDY),
            FileLock(self.folder / ".lock"),
        ):
            for name in (METADATA, EDITS):
                mend_tail(self.folder / name)
            yield


def checked_prompt(prompt: str) -> str:
    """Return a prompt without control characters; refuses an empty or an endless one."""
    cleaned = clean_prompt(prompt, limits=()).text
    if not cleaned:
        raise UserError("The prompt is empty.")
    if len(cleaned) > MAX_PROMPT_CHARS:
        raise UserError(
            f"The prompt has {len(cleaned):,} characters; at most {MAX_PROMPT_CHARS:,}."
        )
    return cleaned


def add_picture(
    folder: Path, content: bytes, *, name: str, is_synced: bool
) -> tuple[str, tuple[int, int]]:
    """Keep a picture as it is, under the hash of its content.

    Returns:
        Its name in the folder, and its width and height in pixels.

    Raises:
        RowFault: It is no picture that can be read.
    """
    facts = check(content, name=name)
    digest = hashlib.sha256(content).hexdigest()
    # The Hub takes 10,000 files in a folder, so there are 256 of them.
    kept = f"{PICTURES}/{digest[:2]}/{digest[2:34]}{facts.suffix}"
    path = folder / kept
    if not path.exists():
        partial = path.with_name(f".{secrets.token_hex(8)}.partial")
        with disk_errors_explained(path, remedy=DISK_REMEDY):
            path.parent.mkdir(exist_ok=True)
            try:
                partial.write_bytes(content)
                if is_synced:
                    sync(partial)
                partial.rename(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            if is_synced:
                sync(path.parent)
                sync(path.parent.parent)
    return kept, (facts.width, facts.height)


def write_rows(folder: Path, rows: Sequence[StoredRow]) -> None:
    """Replace the table at once."""
    lines = "".join(row.model_dump_json() + "\n" for row in rows)
    write_atomically(folder / METADATA, lines, remedy=DISK_REMEDY)
