"""Edits as pure functions of rows: what they change, what takes them back, what repeats."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from chats.errors import UserError
from training.datasets.records import Edit, EditAction, StoredRow

Rows = tuple[StoredRow, ...]


def changed_rows(
    rows: Sequence[StoredRow],
    action: EditAction,
    *,
    numbers: Collection[int],
    prompt: str = "",
    may_be_empty: bool = False,
) -> tuple[Rows, Rows]:
    """Return the rows that an edit is about, and what it makes of them.

    Raises:
        UserError: No row is given, one does not exist, or nothing would be left.
    """
    by_number = {row.row: row for row in rows}
    unknown = sorted(set(numbers) - by_number.keys())
    if unknown:
        raise UserError(f"There is no row {unknown[0]} here. It may have been left out already.")
    if not numbers:
        raise UserError("No row is given. Choose the rows first.")
    before = tuple(by_number[number] for number in sorted(set(numbers)))
    if action == "drop":
        if len(before) == len(rows) and not may_be_empty:
            raise UserError("That would leave nothing. Delete the data set instead.")
        return before, ()
    if action == "swap":
        return before, tuple(_swapped(row) for row in before)
    return before, tuple(row.model_copy(update={"prompt": prompt}) for row in before)


def applied(rows: Sequence[StoredRow], edit: Edit) -> list[StoredRow]:
    """Return the rows after an edit; rows that it does not name stay."""
    touched = {row.row for row in (*edit.before, *edit.after)}
    kept = [row for row in rows if row.row not in touched]
    return sorted((*kept, *edit.after), key=lambda row: row.row)


def last_undoable(edits: Sequence[Edit]) -> Edit:
    """Return the newest edit that was not taken back.

    Raises:
        UserError: There is none.
    """
    undone = {edit.undoes for edit in edits}
    for edit in reversed(edits):
        if edit.action != "undo" and edit.version not in undone:
            return edit
    raise UserError("There is no edit to undo.")


@dataclass(frozen=True)
class Repeats:
    """Rows that say again what an earlier row said, and rows that say the opposite of one."""

    repeats: list[int] = field(default_factory=list)
    contradictions: list[int] = field(default_factory=list)


def find_repeats(rows: Sequence[StoredRow]) -> Repeats:
    """Compare prompts (whatever their case and spacing) and the pictures' content."""
    found = Repeats()
    seen: set[int] = set()
    for row in rows:
        words = " ".join(row.prompt.casefold().split())
        said = hash((words, row.chosen_file_name, row.rejected_file_name))
        opposite = hash((words, row.rejected_file_name, row.chosen_file_name))
        if said in seen:
            found.repeats.append(row.row)
        elif opposite in seen:
            found.contradictions.append(row.row)
        seen.add(said)
    return found


def _swapped(row: StoredRow) -> StoredRow:
    return row.model_copy(
        update={
            "chosen_file_name": row.rejected_file_name,
            "rejected_file_name": row.chosen_file_name,
        }
    )
