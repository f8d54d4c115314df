"""A folder in the Hugging Face ImageFolder layout: pictures, and a table that names them."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from chats.errors import UserError
from training.config import DataSettings
from training.preferences.bad_rows import BadRows, RowFault
from training.preferences.pairs import PictureFile, PreferencePair
from training.preferences.rows import Columns, Row, cell, choose_columns, pairs_of_rows

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "_file_name"
"""What the layout adds to the name of a column that holds file names."""


def has_metadata(folder: Path) -> bool:
    """Say whether a folder has this layout."""
    return any((folder / name).is_file() for name in METADATA_FILES)


def read_folder(
    folder: Path, settings: DataSettings, bad_rows: BadRows
) -> tuple[PreferencePair, ...]:
    """Read the rows of metadata.jsonl or metadata.csv; file names are relative to the folder.

    Raises:
        UserError: Both files are there, a column is missing, or the file can't be read as a whole.
    """
    metadata = _metadata_file(folder)
    parsed = (row for _, row in _rows(metadata) if not isinstance(row, RowFault))
    first = next(parsed, None)
    columns = Columns()
    if first is not None:
        columns = choose_columns(
            tuple(first), settings, source=metadata.name, picture_ending=FILE_NAME
        )
    root = folder.resolve()
    return pairs_of_rows(
        _rows(metadata),
        columns=columns,
        picture=lambda _, row, column: picture_inside(root, cell(row, column)),
        bad_rows=bad_rows,
        max_pairs=settings.max_pairs,
    )


def picture_inside(root: Path, name: object) -> PictureFile:
    """Return the picture that a table calls `name`.

    Args:
        root: The folder that holds the pictures, resolved.
        name: Relative to it.

    Raises:
        RowFault: There is no such file in the folder.
    """
    if not isinstance(name, str):
        raise RowFault("missing picture", f"a file name must be text, not {name!r:.80}")
    try:
        path = (root / name).resolve()
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise RowFault("missing picture", f"{name[:80]!r} is no file name: {error}") from error
    if not path.is_relative_to(root):
        raise RowFault("picture outside the folder", f"{name!r} leads out of the folder")
    if not is_file:
        raise RowFault("missing picture", f"there is no image {name!r}")
    return PictureFile(path)


def _metadata_file(folder: Path) -> Path:
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    raise UserError(f"{folder} must hold {' or '.join(METADATA_FILES)}, but not both.")


def _rows(metadata: Path) -> Iterator[tuple[int, Row]]:
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            if metadata.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=1)
                return
            lines = (line for line in file if line.strip())
            for number, line in enumerate(lines, start=1):
                yield number, _json_row(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{metadata.name} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{metadata.name} is not a CSV table: {error}.") from error
    except OSError as error:
        raise UserError(f"{metadata.name} can't be read: {error.strerror}.") from error


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowFault("line that is no JSON", f"not JSON: {error}")
    if not isinstance(row, dict):
        return RowFault("line that is no JSON", f"not a JSON object: {line.strip()[:80]!r}")
    return row
