"""One collection of votes: a folder whose votes.jsonl only grows, and the data set it feeds.

collection.json says how it is called, votes.jsonl holds matches, votes and what was taken back,
pictures/ the pictures by their content's hash. A vote is on the disk before anything else is done
about it; what a kill left undone in the data set is done by whoever opens the file next.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, JsonValue

from chats.disk import disk_errors_explained
from chats.errors import UserError
from training.datasets import Dataset, DatasetStore
from training.datasets.dataset import PICTURES, add_picture
from training.datasets.records import DISK_REMEDY
from training.lines import append_line, mend_tail
from training.votes.ledger import Ledger, Tally
from training.votes.records import Choice, CollectionRecord, Match, Stored, Undo, Vote

RECORD, VOTES = "collection.json", "votes.jsonl"
ORIGIN = "votes"
_LOCK_WAIT_SECONDS = 30


@dataclass(frozen=True)
class Cast:
    """What became of an answer.

    Attributes:
        match: what it was an answer to.
        vote: the vote that counts.
        is_new: whether this answer counts; not if the match had been voted on before.
    """

    match: Match
    vote: Vote
    is_new: bool


class Collection:
    """The folder of one collection; processes may share it."""

    def __init__(self, folder: Path, datasets: DatasetStore) -> None:
        self.folder = folder
        self._datasets = datasets
        self._ledger = Ledger(folder / VOTES)

    @property
    def id(self) -> str:
        """Its id, which is the folder's name."""
        return self.folder.name

    def record(self) -> CollectionRecord:
        """Return what is known of it."""
        return CollectionRecord.model_validate_json((self.folder / RECORD).read_text("utf-8"))

    def tally(self) -> Tally:
        """Return all matches and the votes that count.

        Raises:
            UserError: The file is damaged.
        """
        return self._ledger.tally()

    def picture(self, name: str) -> Path:
        """Return the file of a match's picture."""
        return self.folder / name

    def add_pictures(self, pictures: Sequence[bytes]) -> list[str]:
        """Keep pictures and return their names.

        Raises:
            UserError: The disk refuses them.
        """
        with disk_errors_explained(self.folder, remedy=DISK_REMEDY):
            (self.folder / PICTURES).mkdir(exist_ok=True)
        return [
            add_picture(self.folder, content, name="the picture", is_synced=True)[0]
            for content in pictures
        ]

    def add_match(self, **fields: object) -> Match:
        """Keep a match, under an id that nobody can guess; see `Match` for its fields.

        Raises:
            UserError: The disk refuses it.
        """
        match = Match(id=secrets.token_hex(16), made=datetime.now(UTC), **fields)
        with self._locked():
            self._append(match)
        return match

    def vote(self, match_id: str, choice: Choice, *, voter: str = "") -> Cast:
        """Answer a match; the answer is on the disk when this returns, and in the data set.

        The first answer to a match counts, however many come.

        Raises:
            UserError: There is no such match, or the disk refuses the answer.
        """
        with self._locked() as tally:
            match = _find(tally, match_id)
            if known := tally.votes.get(match_id):
                return Cast(match, known, is_new=False)
            vote = Vote(match=match_id, choice=choice, voter=voter, when=datetime.now(UTC))
            self._append(vote)
            self._bring_in_line(self.tally(), fresh=match_id)
        return Cast(match, vote, is_new=True)

    def undo(self, match_id: str) -> Cast:
        """Take an answer back, out of the data set too; the match is open again.

        Raises:
            UserError: There is no such match, or no answer to it.
        """
        with self._locked() as tally:
            match = _find(tally, match_id)
            vote = tally.votes.get(match_id)
            if vote is None:
                raise UserError("This vote has been taken back already.")
            self._append(Undo(match=match_id, when=datetime.now(UTC)))
            self._bring_in_line(self.tally())
        return Cast(match, vote, is_new=True)

    def mend(self) -> None:
        """Do what a kill left undone.

        Raises:
            UserError: The file is damaged, or the disk refuses.
        """
        with self._locked():
            pass

    def dataset(self) -> Dataset | None:
        """Return the data set of the preferences; none before the first, or if it was deleted."""
        return self._dataset(self.tally())

    def _dataset(self, tally: Tally) -> Dataset | None:
        if tally.home:
            with suppress(UserError):
                return self._datasets.open(tally.home)
        found = [each.id for each in self._datasets.summaries() if each.origin == self._origin]
        return self._datasets.open(found[0]) if found else None

    @property
    def _origin(self) -> str:
        return f"{ORIGIN}, {self.id}"

    def _bring_in_line(self, tally: Tally, *, fresh: str | None = None) -> None:
        """Make the data set what the votes say; `fresh` is a new vote, known not to be in it.

        A data set that somebody deleted comes back with the next vote, not before.
        """
        wanted = [match_id for match_id in tally.votes if tally.is_preference(match_id)]
        if all(match_id in tally.rows for match_id in wanted) and len(wanted) == len(tally.rows):
            return
        dataset = self._dataset(tally)
        if dataset is None:
            if not wanted or (tally.home and fresh is None):
                return
            dataset = self._datasets.create(name=self.record().name, origin=self._origin)
        there = {match_id for match_id, (home, _) in tally.rows.items() if home == dataset.id}
        missing = [match_id for match_id in wanted if match_id not in there]
        known = _rows_of_matches(dataset) if any(each != fresh for each in missing) else {}
        for match_id in missing:
            row = known.get(match_id) or self._add_preference(dataset, tally, match_id)
            self._append(Stored(match=match_id, dataset=dataset.id, row=row))
        for match_id in tally.rows.keys() - set(wanted):
            home, row = tally.rows[match_id]
            if match_id in there:
                _drop(dataset, row)
            self._append(Stored(match=match_id, dataset=home, row=None))

    def _add_preference(self, dataset: Dataset, tally: Tally, match_id: str) -> int:
        match, vote = tally.matches[match_id], tally.votes[match_id]
        chosen, rejected = ("left", "right") if vote.choice == "left" else ("right", "left")
        files = {"left": match.left_picture, "right": match.right_picture}
        row = dataset.append(
            prompt=match.prompt,
            chosen=self.picture(files[chosen]).read_bytes(),
            rejected=self.picture(files[rejected]).read_bytes(),
            provenance=_provenance(match, vote, chosen=chosen, rejected=rejected),
        )
        return row.row

    def _append(self, entry: BaseModel) -> None:
        append_line(self.folder / VOTES, entry)

    @contextmanager
    def _locked(self) -> Iterator[Tally]:
        """Keep all others from writing; what a kill left undone is done first."""
        if not (self.folder / RECORD).is_file():
            raise UserError(f"There is no collection of votes {self.id!r} any more.")
        with disk_errors_explained(self.folder, remedy=DISK_REMEDY):
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=_LOCK_WAIT_SECONDS)
            except Timeout:
                raise UserError(
                    f"The votes in {self.folder} have been busy for {_LOCK_WAIT_SECONDS} seconds. "
                    "Nothing was changed; try again."
                ) from None
            try:
                mend_tail(self.folder / VOTES)
                self._bring_in_line(self.tally())
                yield self.tally()
            finally:
                lock.release()


def _find(tally: Tally, match_id: str) -> Match:
    match = tally.matches.get(match_id)
    if match is None:
        raise UserError(f"There is no match {match_id!r:.40} here.")
    return match


def _rows_of_matches(dataset: Dataset) -> Mapping[str, int]:
    """Return the rows that name a match, by its id; rows edited since still do."""
    found = {}
    for row in dataset.rows():
        said = json.loads(row.provenance) if row.provenance else {}
        if isinstance(said, dict) and isinstance(said.get("match"), str):
            found[said["match"]] = row.row
    return found


def _drop(dataset: Dataset, row: int) -> None:
    if row in [each.row for each in dataset.rows()]:  # a person may have dropped it
        dataset.edit("drop", rows=[row], may_be_empty=True)


def _provenance(
    match: Match, vote: Vote, *, chosen: Choice, rejected: Choice
) -> dict[str, JsonValue]:
    sides = {"chosen": match.contestant(chosen), "rejected": match.contestant(rejected)}
    return {
        "match": match.id,
        "seed": match.seed,
        "side": vote.choice,
        "voter": vote.voter,
        "when": vote.when.isoformat(),
        **{half: each.model_dump(mode="json") for half, each in sides.items() if each},
    }
