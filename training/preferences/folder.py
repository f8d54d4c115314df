"""A folder in the Hugging Face ImageFolder layout: pictures, and a table that names them."""

import csv
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from chats.errors import UserError
from training.config import DataSettings
from training.preferences.bad_rows import BadRows, RowFault
from training.preferences.pairs import PictureFile, PreferencePair
from training.preferences.rows import Columns, Row, cell, choose_columns, pairs_of_rows

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
TABLE_SUFFIXES = (".jsonl", ".csv")
FILE_NAME = "_file_name"
"""What the layout adds to the name of a column that holds file names."""


MAX_LINE_CHARS = 2**20
"""The longest line of a table that is read."""


def has_metadata(folder: Path) -> bool:
    """Say whether a folder has this layout."""
    return any((folder / name).is_file() for name in METADATA_FILES)


def find_table(folder: Path) -> Path | None:
    """Return the table of a folder; none if there is none.

    It is metadata.jsonl or metadata.csv in the folder, or else the only .jsonl or .csv below it;
    of several the only one that is called metadata.

    Raises:
        UserError: There are several tables, and nothing says which is meant.
    """
    named = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(named) == 1:
        return named[0]
    if named:
        raise UserError(f"{folder.name} must hold {' or '.join(METADATA_FILES)}, but not both.")
    tables = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in TABLE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    metadata = [path for path in tables if path.name in METADATA_FILES]
    if len(tables) > 1 and len(metadata) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in tables[:5])
        raise UserError(
            f"{folder.name} holds {len(tables)} tables ({names:.200}), and none of them alone is "
            f"called {' or '.join(METADATA_FILES)}. Call the one that is meant so."
        )
    return next(iter(metadata or tables), None)


def read_folder(
    folder: Path, table: Path, settings: DataSettings, bad_rows: BadRows
) -> Iterator[PreferencePair]:
    """Read the rows of a table; file names are relative to it, or to the folder.

    Args:
        folder: Holds all pictures.
        table: A .jsonl or .csv file in the folder, or below it.
        settings: Name the columns, and how many pairs to read.
        bad_rows: Takes the faults.

    Raises:
        UserError: A column is missing, or the file can't be read as a whole.
    """
    parsed = (row for _, row in _rows(table) if not isinstance(row, RowFault))
    first = next(parsed, None)
    columns = Columns()
    if first is not None:
        columns = choose_columns(
            tuple(first), settings, source=table.name, picture_endings=(FILE_NAME, "")
        )
    root, beside = folder.resolve(), table.parent.resolve()
    return pairs_of_rows(
        _rows(table),
        columns=columns,
        picture=lambda _, row, column: picture_inside(root, cell(row, column), beside=beside),
        bad_rows=bad_rows,
        max_pairs=settings.max_pairs,
    )


def picture_inside(root: Path, name: object, *, beside: Path | None = None) -> PictureFile:
    """Return the picture that a table calls `name`.

    Windows' backslashes are understood, and letters that one system writes as one character and
    another as two.

    Args:
        root: The folder that holds the pictures, resolved.
        name: Relative to it, or to `beside`.
        beside: Where the table lies, resolved; none is the root.

    Raises:
        RowFault: There is no such file in the folder.
    """
    if not isinstance(name, str):
        raise RowFault("missing picture", f"a file name must be text, not {name!r:.80}")
    leads_out = False
    try:
        for spelling in _spellings(name):
            for start in dict.fromkeys((beside or root, root)):
                path = (start / spelling).resolve()
                if not path.is_relative_to(root):
                    leads_out = True
                elif path.is_file():
                    return PictureFile(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RowFault("missing picture", f"{name[:80]!r} is no file name: {reason}") from error
    if leads_out:
        raise RowFault("picture outside the folder", f"{name!r:.200} leads out of the folder")
    raise RowFault("missing picture", f"there is no image {name!r:.200}")


def _spellings(name: str) -> tuple[str, ...]:
    plain = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((name, plain, *forms)))


def _rows(table: Path) -> Iterator[tuple[int, Row]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                yield from enumerate(csv.DictReader(_lines(file, table)), start=1)
                return
            lines = (line for line in _lines(file, table) if line.strip())
            for number, line in enumerate(lines, start=1):
                yield number, _json_row(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{table.name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{table.name} is not a CSV table: {error}.") from error
    except OSError as error:
        raise UserError(f"{table.name} can't be read: {error.strerror}.") from error


def _lines(file: IO[str], table: Path) -> Iterator[str]:
    """Yield the lines; a file that is one endless line must not fill the memory."""
    number = 0
    while line := file.readline(MAX_LINE_CHARS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARS:
            raise UserError(
                f"Line {number} of {table.name} is longer than {MAX_LINE_CHARS:,} characters. "
                "A table names pictures, it does not hold them."
            )
        yield line


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowFault("line that is no JSON", f"not JSON: {error}")
    if not isinstance(row, dict):
        return RowFault("line that is no JSON", f"not a JSON object: {line.strip()[:80]!r}")
    return row
