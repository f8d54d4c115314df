"""votes.jsonl read as it grows: every match, the vote that counts for it, what the data set has."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from chats.errors import UserError
from training.votes.records import ENTRIES, Entry, Match, Undo, Vote, is_winner


@dataclass
class Tally:
    """What the lines say so far.

    Attributes:
        matches: all matches by id, the first one first.
        votes: the vote that counts for each match that has one, in the order of voting.
        rows: where in the data set each match's preference is: the data set's id and the row.
        home: id of the data set that took a preference last; empty before the first.
    """

    matches: dict[str, Match] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)
    rows: dict[str, tuple[str, int]] = field(default_factory=dict)
    home: str = ""

    @property
    def num_winners(self) -> int:
        """Votes that say which picture is better, each match's first vote alone."""
        return sum(self.is_preference(match) for match in self.votes)

    def is_preference(self, match_id: str) -> bool:
        """Whether a match belongs into the data set: a winner, and no repetition."""
        vote = self.votes.get(match_id)
        is_first = self.matches[match_id].repeats is None
        return vote is not None and is_winner(vote.choice) and is_first

    def open_matches(self, ballot: str) -> list[Match]:
        """Return the matches of a ballot that nobody has answered, the oldest first."""
        return [
            match
            for match in self.matches.values()
            if match.ballot == ballot and match.id not in self.votes
        ]

    def add(self, entry: Entry) -> None:
        """Take one more line in."""
        if isinstance(entry, Match):
            self.matches[entry.id] = entry
        elif isinstance(entry, Vote):
            self.votes.setdefault(entry.match, entry)
        elif isinstance(entry, Undo):
            self.votes.pop(entry.match, None)
        elif entry.row is None:
            self.rows.pop(entry.match, None)
        else:
            self.home = entry.dataset
            self.rows[entry.match] = (entry.dataset, entry.row)


class Ledger:
    """The file; only what was added since the last look is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._offset = 0
        self._tally = Tally()

    def tally(self) -> Tally:
        """Return what the file says now; it is a copy of its own.

        Raises:
            UserError: A line is damaged, or is about a match that does not stand before it.
        """
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    file.seek(self._offset)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break  # being written, or left by a power cut
                        self._take(line)
                        self._offset += len(line)
            except FileNotFoundError:
                pass
            tally = self._tally
            return Tally(dict(tally.matches), dict(tally.votes), dict(tally.rows), tally.home)

    def _take(self, line: bytes) -> None:
        try:
            entry = ENTRIES.validate_json(line)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise UserError(
                f"{self.path} is damaged at byte {self._offset:,}: {what}. Nothing was changed."
            ) from None
        if not isinstance(entry, Match) and entry.match not in self._tally.matches:
            raise UserError(
                f"{self.path} is damaged at byte {self._offset:,}: it speaks of the match "
                f"{entry.match}, which it does not hold. Nothing was changed."
            )
        self._tally.add(entry)
