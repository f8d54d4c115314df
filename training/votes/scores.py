"""What scorers say of the pictures that people voted on, kept beside the votes."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from filelock import FileLock
from PIL import Image
from pydantic import Field

from chats.config import FrozenSettings
from chats.disk import disk_errors_explained
from training.datasets.records import DISK_REMEDY
from training.lines import append_line, mend_tail, read_lines
from training.votes.collection import Collection
from training.votes.records import Match, MatchId

SCORES = "scores.jsonl"
_AT_ONCE = 16

Judge = Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]
"""Pictures and their prompts in, one score for each out, `(N,)`; higher is better."""


class Scores(FrozenSettings):
    """One line of scores.jsonl."""

    match: MatchId
    """The match."""

    scorer: str = Field(min_length=1, max_length=60)
    """Who scored."""

    left: float
    """Score of the left picture."""

    right: float
    """Score of the right picture."""

    @property
    def outcome(self) -> float:
        """1 where the left picture wins, 0 where the right one does, 0.5 for equal scores."""
        return 0.5 if self.left == self.right else float(self.left > self.right)


def scored_outcomes(collection: Collection, scorer: str) -> dict[str, float]:
    """Return how a scorer judged the matches that it has seen."""
    lines = read_lines(collection.folder / SCORES, Scores)
    return {line.match: line.outcome for line in lines if line.scorer == scorer}


def missing_scores(collection: Collection, scorer: str) -> list[Match]:
    """Return the voted matches that a scorer has not seen; repetitions are left out."""
    tally, known = collection.tally(), scored_outcomes(collection, scorer)
    return [
        tally.matches[match_id]
        for match_id, vote in tally.votes.items()
        if vote.choice != "skip" and match_id not in known and not tally.matches[match_id].repeats
    ]


def score_matches(collection: Collection, scorer: str, judge: Judge) -> Iterator[tuple[int, int]]:
    """Score what is missing and keep it; yields how many of how many are done.

    Raises:
        UserError: The scorer can't judge them, or the disk refuses.
    """
    missing = missing_scores(collection, scorer)
    yield 0, len(missing)
    for start in range(0, len(missing), _AT_ONCE):
        some = missing[start : start + _AT_ONCE]
        names = [name for match in some for name in (match.left_picture, match.right_picture)]
        images = [_open(collection, name) for name in names]
        scores = judge(images, [match.prompt for match in some for _ in range(2)])
        _keep(
            collection,
            [
                Scores(match=match.id, scorer=scorer, left=float(left), right=float(right))
                for match, (left, right) in zip(some, scores.reshape(-1, 2), strict=True)
            ],
        )
        yield start + len(some), len(missing)


def _keep(collection: Collection, lines: Sequence[Scores]) -> None:
    path = collection.folder / SCORES
    with (
        disk_errors_explained(path, remedy=DISK_REMEDY),
        FileLock(collection.folder / ".scores.lock"),
    ):
        mend_tail(path)
        for line in lines:
            append_line(path, line)


def _open(collection: Collection, name: str) -> Image.Image:
    with Image.open(collection.picture(name)) as image:
        return image.convert("RGB")
