"""What votes say of methods, settings and runs, and how surely; pure, numbers from statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from chats.statistics import (
    Agreement,
    NotEnoughVotes,
    Rate,
    Ratings,
    Vote,
    agreement,
    rate,
    win_rate,
)
from training.votes.ledger import Tally
from training.votes.records import Choice, Level, Match

Outcomes = Mapping[str, float]
"""For matches by id: 1 where the left picture won, 0 where the right one did, 0.5 for a tie."""

OUTCOMES: Mapping[Choice, float] = {"left": 1.0, "tie": 0.5, "right": 0.0}


@dataclass(frozen=True)
class Duel:
    """How often `first` was preferred to `second`."""

    first: str
    second: str
    rate: Rate


@dataclass(frozen=True)
class Standings:
    """What a scoreboard shows.

    Attributes:
        level: what it tells apart.
        ratings: strengths with intervals, or why there are none.
        duels: win rates of all that met.
        num_votes: votes that compare two of them.
    """

    level: Level
    ratings: Ratings | NotEnoughVotes
    duels: tuple[Duel, ...]
    num_votes: int


def outcomes_of(tally: Tally) -> dict[str, float]:
    """Return what people said: each match once, without repetitions and skips."""
    return {
        match_id: OUTCOMES[vote.choice]
        for match_id, vote in tally.votes.items()
        if vote.choice in OUTCOMES and tally.matches[match_id].repeats is None
    }


def standings(judged: Iterable[tuple[Match, float]], level: Level) -> Standings:
    """Work out a scoreboard; matches whose sides are the same at this level say nothing."""
    votes = _votes(judged, level)
    met = {frozenset((vote.first, vote.second)) for vote in votes}
    names = sorted({name for pair in met for name in pair})
    duels = []
    for first, second in combinations(names, 2):
        if frozenset((first, second)) in met:
            found = win_rate(votes, first, second)
            if isinstance(found, Rate):
                duels.append(Duel(first, second, found))
    return Standings(level, rate(votes), tuple(duels), len(votes))


def agreement_of(tallies: Sequence[Tally]) -> Agreement | NotEnoughVotes:
    """Compare the first answer to each pair of pictures with the answer when it came again."""
    first, second, prompts = [], [], []
    for tally in tallies:
        for match_id, vote in tally.votes.items():
            match = tally.matches[match_id]
            before = tally.votes.get(match.repeats or "")
            if before is None or vote.choice == "skip":
                continue
            original = tally.matches[before.match]
            same_sides = original.left_picture == match.left_picture
            answer = OUTCOMES[vote.choice]
            first.append(OUTCOMES[before.choice])
            second.append(answer if same_sides else 1 - answer)
            prompts.append(_cluster(match))
    return agreement(first, second, clusters=prompts or None)


def _votes(judged: Iterable[tuple[Match, float]], level: Level) -> list[Vote]:
    return [
        Vote(match.left.name(level), match.right.name(level), outcome, _cluster(match))
        for match, outcome in judged
        if match.left.name(level) != match.right.name(level)
    ]


def _cluster(match: Match) -> str:
    return " ".join(match.prompt.casefold().split())
