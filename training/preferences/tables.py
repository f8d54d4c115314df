"""Tables whose pictures lie in cells, as parquet files and sets of the Hub have them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.config import DataSettings
from training.preferences.bad_rows import BadRows, RowFault
from training.preferences.folder import picture_inside
from training.preferences.pairs import PreferencePair
from training.preferences.rows import choose_columns, pairs_of_rows


class Table(Protocol):
    """Rows in columns; rows count from 0 here, as nobody sees these numbers."""

    name: str
    column_names: Sequence[str]

    def rows(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Return all rows, with these columns only."""

    def picture(self, row: int, column: str) -> bytes:
        """Return the content of a picture's file; raises RowFault if there is none."""


@dataclass(frozen=True, slots=True)
class PictureCell:
    """A picture in a cell of a table."""

    table: Table
    row: int
    column: str

    @property
    def name(self) -> str:
        """The column, as the messages name the row."""
        return self.column

    def read(self) -> bytes:
        """Return the content of the picture's file, see `Picture`."""
        return self.table.picture(self.row, self.column)


def read_table(table: Table, settings: DataSettings, bad_rows: BadRows) -> Iterator[PreferencePair]:
    """Read prompts and labels; the pictures stay where they are until they are asked for.

    Raises:
        UserError: A column is missing, or the table can't be read.
    """
    columns = choose_columns(table.column_names, settings, source=table.name)
    return pairs_of_rows(
        enumerate(table.rows([columns.prompt, *(columns.labels or ())]), start=1),
        columns=columns,
        picture=lambda number, _, column: PictureCell(table, number - 1, column),
        bad_rows=bad_rows,
        max_pairs=settings.max_pairs,
    )


def picture_bytes(value: object, *, name: str, folder: Path | None = None) -> bytes:
    """Return the content of the picture that a cell holds.

    Args:
        value: Bytes, or a mapping of `bytes` and `path` as the library datasets writes it.
        name: How messages call the picture.
        folder: Holds the pictures that are given by their path only; none refuses these.

    Raises:
        RowFault: There is no picture.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and folder is not None:
        return picture_inside(folder, value).read()
    raise RowFault("missing picture", f"{name} holds no picture but {value!r:.80}")
