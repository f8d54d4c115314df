"""Preference pairs on disk, read and checked row by row; imports no torch."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chats.errors import UserError

COLUMNS = ("prompt", "chosen_file_name", "rejected_file_name")
"""Columns of the metadata file; chosen and rejected are called preferred and dispreferred here."""

METADATA_FILES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class PreferencePair:
    """One row of the metadata file; `row` counts from 1, as people do."""

    row: int
    prompt: str
    preferred: Path
    dispreferred: Path


def read_pairs(folder: Path, *, max_pairs: int | None = None) -> tuple[PreferencePair, ...]:
    """Read and check the rows of a folder in the Hugging Face ImageFolder layout.

    Args:
        folder: Holds metadata.jsonl or metadata.csv with the columns `COLUMNS`; file names are
            relative to it.
        max_pairs: Read only the first so many rows.

    Raises:
        UserError: No metadata file, a missing column, a prompt that is no text, an image that is
            missing or lies outside the folder, or fewer than two pairs.
    """
    metadata = _metadata_file(folder)
    pairs = []
    for number, row in _rows(metadata):
        if max_pairs is not None and len(pairs) == max_pairs:
            break
        pairs.append(_pair(number, row, folder=folder, file=metadata.name))
    if len(pairs) < 2:
        raise UserError(
            f"{metadata} holds {len(pairs)} preference pairs; a training needs at least 2."
        )
    return tuple(pairs)


def _metadata_file(folder: Path) -> Path:
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if not folder.is_dir():
        raise UserError(f"The data folder {folder} does not exist. Set data.path.")
    has = " and ".join(path.name for path in found) or "neither"
    raise UserError(f"{folder} must hold {' or '.join(METADATA_FILES)}; it has {has}.")


def _rows(metadata: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            if metadata.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=1)
                return
            lines = (line for line in file if line.strip())
            for number, line in enumerate(lines, start=1):
                yield number, _json_row(line, number=number, file=metadata.name)
    except UnicodeDecodeError as error:
        raise UserError(f"{metadata.name} is not UTF-8 text: {error}.") from error
    except csv.Error as error:
        raise UserError(f"{metadata.name} is not a CSV table: {error}.") from error


def _json_row(line: str, *, number: int, file: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"Row {number} of {file} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise UserError(f"Row {number} of {file} must be a JSON object, not {line.strip()[:80]!r}.")
    return row


def _pair(number: int, row: Mapping[str, Any], *, folder: Path, file: str) -> PreferencePair:
    for column in COLUMNS:
        if column not in row:
            raise UserError(
                f"Row {number} of {file} has no column {column!r}; it has {sorted(map(str, row))}. "
                f"Name the columns {', '.join(COLUMNS)}."
            )
        if not isinstance(row[column], str):
            raise UserError(
                f"Row {number} of {file}: {column} must be text, not {row[column]!r:.80}."
            )
    prompt, preferred, dispreferred = (row[column] for column in COLUMNS)
    paths = [_inside(folder, name, number=number) for name in (preferred, dispreferred)]
    return PreferencePair(number, prompt, *paths)


def _inside(folder: Path, name: str, *, number: int) -> Path:
    try:
        path = (folder / name).resolve()
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"Row {number}: {name[:80]!r} is no file name: {error}.") from error
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"Row {number}: {name!r} leads out of the folder {folder}.")
    if not is_file:
        raise UserError(f"Row {number}: there is no image {name!r} in {folder}.")
    return path
