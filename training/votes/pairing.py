"""What is asked next: which contestants meet, on which prompt, and on which sides; pure."""

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from chats.config import FrozenSettings
from chats.shapes.prompts import pair_specs
from chats.shapes.world import caption
from training.votes.ledger import Tally
from training.votes.records import Contestant, Match

MAX_CONTESTANTS = 6
MAX_PROMPTS = 1000
MAX_SEED = 1_000_000
REPEAT_RATE = 0.1
"""Share of the matches that show pictures again, to measure agreement."""

_REPEAT_DISTANCE = 5
"""Matches that lie at least between pictures and their repetition."""


class Ballot(FrozenSettings):
    """A question to voters: who is compared with whom, on which prompts."""

    contestants: tuple[Contestant, ...] = Field(min_length=2, max_length=MAX_CONTESTANTS)
    """Who takes part."""

    prompts: tuple[str, ...] = Field((), max_length=MAX_PROMPTS)
    """The prompts in turn; none: ever new ones of the Shapes grammar."""

    @model_validator(mode="after")
    def _contestants_differ(self) -> "Ballot":
        for one, other in itertools.combinations(self.contestants, 2):
            if one.settings == other.settings:
                raise ValueError(f"two contestants are the same: {one.title}. Change one of them")
        return self

    @property
    def key(self) -> str:
        """Names the question: matches made for it are used for no other."""
        said = "\n".join(
            [*sorted(each.settings.model_dump_json() for each in self.contestants), *self.prompts]
        )
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Pairing:
    """The next match, before its pictures are made."""

    prompt: str
    seed: int
    left: Contestant
    right: Contestant


def next_pairing(tally: Tally, ballot: Ballot, rng: random.Random) -> Pairing:
    """Draw the next match: those who met least often, on the next prompt, a new seed, fair sides.

    The sides are a fair coin of their own: no vote before tells anything about them.
    """
    made = [match for match in tally.matches.values() if match.repeats is None]
    of_ballot = [match for match in made if match.ballot == ballot.key]
    pair = list(_least_met(ballot.contestants, of_ballot, rng))
    rng.shuffle(pair)
    if ballot.prompts:
        prompt = ballot.prompts[len(of_ballot) % len(ballot.prompts)]
    else:
        prompt = caption(next(itertools.islice(pair_specs(), len(made), None)))
    return Pairing(prompt, rng.randrange(MAX_SEED), *pair)


def next_repeat(
    tally: Tally, ballot: Ballot, rng: random.Random, *, rate: float = REPEAT_RATE
) -> Match | None:
    """Draw whether pictures are shown again now, and which; they are shown again once only."""
    if rng.random() >= rate:
        return None
    repeated = {match.repeats for match in tally.matches.values()}
    voted = [
        match
        for match_id, vote in tally.votes.items()
        if (match := tally.matches[match_id]).ballot == ballot.key
        and match.repeats is None
        and vote.choice != "skip"
    ]
    old = [match for match in voted[:-_REPEAT_DISTANCE] if match.id not in repeated]
    return rng.choice(old) if old else None


def repeated_fields(match: Match, rng: random.Random) -> dict[str, object]:
    """Return the fields of a match that shows the pictures of another, with sides drawn anew."""
    sides = [(match.left, match.left_picture), (match.right, match.right_picture)]
    rng.shuffle(sides)
    (left, left_picture), (right, right_picture) = sides
    return {
        "ballot": match.ballot,
        "prompt": match.prompt,
        "seed": match.seed,
        "left": left,
        "right": right,
        "left_picture": left_picture,
        "right_picture": right_picture,
        "repeats": match.id,
    }


def _least_met(
    contestants: Sequence[Contestant], matches: Sequence[Match], rng: random.Random
) -> tuple[Contestant, Contestant]:
    met = [{match.left.title, match.right.title} for match in matches]
    pairs = list(itertools.combinations(contestants, 2))
    counts = [met.count({one.title, other.title}) for one, other in pairs]
    fewest = [pair for pair, count in zip(pairs, counts, strict=True) if count == min(counts)]
    return rng.choice(fewest)
