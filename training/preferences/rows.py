"""From a source's rows to pairs: which columns hold what, and what is wrong with a row."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chats.errors import UserError
from chats.generation.prompts import clean_prompt
from training.config import DataSettings
from training.preferences.bad_rows import BadRows, RowFault
from training.preferences.pairs import Picture, PreferencePair

logger = logging.getLogger(__name__)

Row = Mapping[str, Any] | RowFault
"""What a source says of one row; a fault where it could not even be parsed."""

PictureOf = Callable[[int, Mapping[str, Any], str], Picture]
"""Finds the picture of a row, counted from 1, in a column; raises RowFault."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; chosen and rejected are called preferred and dispreferred here.

    Attributes:
        prompt: The prompt.
        preferred: The preferred picture; with labels just the first picture.
        dispreferred: The dispreferred picture; with labels the second picture.
        labels: A score of each picture, if these say which of the two is preferred.
    """

    prompt: str = "prompt"
    preferred: str = "chosen"
    dispreferred: str = "rejected"
    labels: tuple[str, str] | None = None

    def names(self) -> tuple[str, ...]:
        """Return all columns that a source must have."""
        return (self.prompt, self.preferred, self.dispreferred, *(self.labels or ()))


LAYOUTS = (
    Columns(),  # open-image-preferences-v1-binarized, and folders made here
    Columns("caption", "jpg_0", "jpg_1", ("label_0", "label_1")),  # pickapic_v2
)
"""Columns that are found without being named."""


class UnknownColumnsError(UserError):
    """No known columns are there, and none are named.

    Attributes:
        available: The columns that there are.
    """

    def __init__(self, message: str, *, available: Sequence[str]):
        super().__init__(message)
        self.available = tuple(available)


def choose_columns(
    available: Sequence[str],
    settings: DataSettings,
    *,
    source: str,
    picture_endings: Sequence[str] = ("",),
) -> Columns:
    """Return the first of the known layouts, with what the settings name, that a source has.

    Args:
        available: The source's columns.
        settings: Name the columns of other layouts.
        source: How messages call the source.
        picture_endings: What the names of picture columns may end in, beyond what is named.

    Raises:
        UnknownColumnsError: A column is missing; says which, and which there are.
    """
    candidates = [
        _named(layout, settings, ending) for ending in picture_endings for layout in LAYOUTS
    ]
    for columns in candidates:
        if set(columns.names()) <= set(available):
            return columns
    missing = [name for name in candidates[0].names() if name not in available]
    names = sorted(map(str, available))
    raise UnknownColumnsError(
        f"{source} has no column {' and no '.join(map(repr, missing))}; it has {names}. Set "
        "data.prompt_column, data.preferred_column and data.dispreferred_column (and "
        "data.label_columns) as its columns are called.",
        available=names,
    )


def pairs_of_rows(
    rows: Iterable[tuple[int, Row]],
    *,
    columns: Columns,
    picture: PictureOf,
    bad_rows: BadRows,
    max_pairs: int | None,
) -> Iterator[PreferencePair]:
    """Make a pair of each row; ties are left out and logged, faults are added to `bad_rows`.

    Args:
        rows: The rows with their numbers, which count from 1.
        columns: The columns.
        picture: Finds the pictures.
        bad_rows: Takes the faults.
        max_pairs: Stop after so many pairs; none reads all rows.
    """
    num_pairs = num_cleaned = 0
    for number, row in rows:
        try:
            if isinstance(row, RowFault):
                raise row
            prompt, is_cleaned = _prompt(row, columns.prompt)
            halves = _ranked(row, columns)
            if halves is None:
                bad_rows.add_tie(number)
                continue
            pictures = [picture(number, row, column) for column in halves]
        except RowFault as fault:
            bad_rows.add(number, fault)
            continue
        num_cleaned += is_cleaned
        num_pairs += 1
        yield PreferencePair(number, prompt, *pictures)
        if num_pairs == max_pairs:
            break
    if bad_rows.num_ties:
        logger.info(
            "Ties, which are left out as nothing is preferred in them: %d.", bad_rows.num_ties
        )
    if num_cleaned:
        logger.warning("Prompts with control characters, which were taken out: %d.", num_cleaned)


def cell(row: Mapping[str, Any], column: str) -> Any:
    """Return what a row holds in a column.

    Raises:
        RowFault: It has no such column, though its source has.
    """
    if column not in row:
        raise RowFault("missing column", f"there is no {column!r}, only {sorted(map(str, row))}")
    return row[column]


def _named(layout: Columns, settings: DataSettings, picture_ending: str) -> Columns:
    return Columns(
        prompt=settings.prompt_column or layout.prompt,
        preferred=(settings.preferred_column or layout.preferred) + picture_ending,
        dispreferred=(settings.dispreferred_column or layout.dispreferred) + picture_ending,
        labels=settings.label_columns or layout.labels,
    )


def _prompt(row: Mapping[str, Any], column: str) -> tuple[str, bool]:
    """Return the prompt without control characters, and whether it had any."""
    prompt = cell(row, column)
    if not isinstance(prompt, str):
        raise RowFault("prompt that is no text", f"{column} must be text, not {prompt!r:.80}")
    cleaned = clean_prompt(prompt, limits=())
    if not cleaned.text:
        raise RowFault("empty prompt", f"{column} is empty")
    return cleaned.text, bool(cleaned.notices)


def _ranked(row: Mapping[str, Any], columns: Columns) -> tuple[str, str] | None:
    """Return the columns of the preferred and of the dispreferred picture; none for a tie."""
    first, second = columns.preferred, columns.dispreferred
    if columns.labels is None:
        return first, second
    scores = [_score(cell(row, column), column) for column in columns.labels]
    if scores[0] == scores[1]:
        return None
    return (first, second) if scores[0] > scores[1] else (second, first)


def _score(value: object, column: str) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise RowFault("label that is no number", f"{column} must be a number, not {value!r:.80}")
    return score
