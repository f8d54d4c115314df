"""Parquet files as one table; this module imports pyarrow, so import it where it is needed."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow.parquet import ParquetFile

from chats.errors import UserError
from training.preferences.tables import picture_bytes

_ROWS_AT_ONCE = 1024
_PICTURES_AT_ONCE = 16


@dataclass(frozen=True)
class _Group:
    """A row group: the unit in which parquet files are stored."""

    file: Path
    number: int
    first_row: int


class ParquetTable:
    """Parquet files as one table; of the pictures only a few lie in memory at a time.

    Reading row after row is quick; going back starts again at the row's group.
    """

    def __init__(self, files: Sequence[Path], *, name: str):
        """Read how the files are laid out.

        Raises:
            UserError: A file is no parquet file.
        """
        self.name = name
        self._files = tuple(files)
        self._groups: list[_Group] = []
        self._columns: dict[str, _PictureColumn] = {}
        names = []
        num_rows = 0
        for path in files:
            with _opened(path) as file:
                names.append(set(file.schema_arrow.names))
                for number in range(file.num_row_groups):
                    self._groups.append(_Group(path, number, num_rows))
                    num_rows += file.metadata.row_group(number).num_rows
        self.column_names = sorted(set.intersection(*names))

    def rows(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Return all rows, with these columns only."""
        for path in self._files:
            with _opened(path) as file:
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
                    yield from batch.to_pylist()

    def picture(self, row: int, column: str) -> bytes:
        """Return the content of a picture's file; raises RowFault if there is none."""
        if column not in self._columns:
            self._columns[column] = _PictureColumn(self._groups, column)
        value = self._columns[column].value(row)
        return picture_bytes(value, name=column, folder=self._files[0].parent.resolve())


class _PictureColumn:
    """One column, read forwards, a few rows in memory at once."""

    def __init__(self, groups: Sequence[_Group], column: str):
        self._groups = groups
        self._column = column
        self._group: _Group | None = None
        self._first_row = 0
        self._values: Sequence[Any] = ()
        self._batches: Iterator[Sequence[Any]] = iter(())

    def value(self, row: int) -> Any:
        if not self._first_row <= row < self._first_row + len(self._values):
            self._seek(row)
        return self._values[row - self._first_row].as_py()

    def _seek(self, row: int) -> None:
        group = self._groups[bisect_right(self._groups, row, key=lambda each: each.first_row) - 1]
        if group is not self._group or row < self._first_row:
            self._group, self._first_row, self._values = group, group.first_row, ()
            self._batches = self._read(group)
        while row >= self._first_row + len(self._values):
            self._first_row += len(self._values)
            self._values = next(self._batches)

    def _read(self, group: _Group) -> Iterator[Sequence[Any]]:
        with _opened(group.file) as file:
            for batch in file.iter_batches(
                _PICTURES_AT_ONCE, row_groups=[group.number], columns=[self._column]
            ):
                yield batch.column(0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ParquetFile]:
    try:
        with ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path.name} is no parquet file or is damaged: {error}.") from error
