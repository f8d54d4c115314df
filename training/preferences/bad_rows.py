"""Rows that can't be used: every one is counted, the first few are told in full."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from chats.errors import UserError

OnBadRows = Literal["stop", "skip"]
"""Whether rows that can't be used end the reading, or are left out, logged and counted."""

MAX_LISTED = 20

logger = logging.getLogger(__name__)


class RowFault(UserError):
    """What is wrong with one row.

    Attributes:
        kind: What it is counted as, such as `missing picture`.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be used, and why."""

    row: int
    kind: str
    reason: str


class BadRows:
    """A report that stays small however many rows are bad, and the rows that prefer nothing.

    Attributes:
        counts: Number of rows for each kind of fault.
        listed: The first faults, with their rows.
        num_ties: Rows that call both pictures equal; they are no fault.
        ties: The first of these rows.
    """

    def __init__(self, *, max_listed: int = MAX_LISTED) -> None:
        self.counts: Counter[str] = Counter()
        self.listed: list[BadRow] = []
        self.num_ties = 0
        self.ties: list[int] = []
        self._max_listed = max_listed

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, row: int, fault: RowFault) -> None:
        """Count a fault; `row` counts from 1."""
        self.counts[fault.kind] += 1
        if len(self.listed) < self._max_listed:
            self.listed.append(BadRow(row, fault.kind, str(fault)))

    def add_tie(self, row: int) -> None:
        """Count a row that calls both pictures equal."""
        self.num_ties += 1
        if len(self.ties) < self._max_listed:
            self.ties.append(row)

    def settle(self, on_bad_rows: OnBadRows, *, source: str) -> None:
        """End the reading if there was a fault and it is to stop; else log what was left out.

        Raises:
            UserError: The counts by kind, and the first faults, a line each.
        """
        if not self:
            return
        if on_bad_rows == "skip":
            logger.warning("%s", self.text(f"{source}: left out"))
            return
        raise UserError(
            self.text(f"{source} can't be used as it is:")
            + "\nMend these rows, or leave them out with data.on_bad_rows skip."
        )

    def text(self, opening: str) -> str:
        """Return the counts by kind, and the first faults, a line each."""
        rows = "1 row" if len(self) == 1 else f"{len(self):,} rows"
        counts = ", ".join(f"{count:,} × {kind}" for kind, count in self.counts.most_common())
        told = [f"Row {bad.row}: {bad.reason}" for bad in self.listed[:MAX_LISTED]]
        rest = len(self) - len(told)
        more = [f"… and {rest:,} more."] if rest else []
        return "\n".join([f"{opening} {rows} ({counts}).", *told, *more])
