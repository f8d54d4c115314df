"""Rows that can't be used: every one is counted, the first few are told in full."""

import logging
from collections import Counter
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


class BadRows:
    """A report that stays small however many rows are bad."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._listed: list[str] = []

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, row: int, fault: RowFault) -> None:
        """Count a fault; `row` counts from 1."""
        self._counts[fault.kind] += 1
        if len(self._listed) < MAX_LISTED:
            self._listed.append(f"Row {row}: {fault}")

    def settle(self, on_bad_rows: OnBadRows, *, source: str) -> None:
        """End the reading if there was a fault and it is to stop; else log what was left out.

        Raises:
            UserError: The counts by kind, and the first faults, a line each.
        """
        if not self:
            return
        if on_bad_rows == "skip":
            logger.warning("%s", self._text(f"{source}: left out"))
            return
        raise UserError(
            self._text(f"{source} can't be used as it is:")
            + "\nMend these rows, or leave them out with data.on_bad_rows skip."
        )

    def _text(self, opening: str) -> str:
        rows = "1 row" if len(self) == 1 else f"{len(self):,} rows"
        counts = ", ".join(f"{count:,} × {kind}" for kind, count in self._counts.most_common())
        rest = len(self) - len(self._listed)
        more = [f"… and {rest:,} more."] if rest else []
        return "\n".join([f"{opening} {rows} ({counts}).", *self._listed, *more])
