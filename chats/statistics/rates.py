"""Win rates with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chats.errors import UserError
from chats.statistics.votes import NotEnoughVotes, Vote, cluster_numbers

Z_95 = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


@dataclass(frozen=True)
class Rate:
    """A fraction with its 95% interval; ties count half."""

    rate: float
    low: float
    high: float
    num_votes: int
    num_ties: int = 0

    def __str__(self) -> str:
        ties = f", {self.num_ties} ties counted half" if self.num_ties else ""
        return (
            f"{100 * self.rate:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}] "
            f"(n = {self.num_votes}{ties})"
        )


def fraction(
    outcomes: Sequence[float], clusters: Sequence[str] | None = None
) -> Rate | NotEnoughVotes:
    """Mean of outcomes 0, 0.5 (a tie) and 1 with Wilson's 95% interval.

    Without ties and with one outcome in each cluster this is Wilson's interval as it stands. Ties
    vary less and outcomes of one cluster are not independent: both enter as the number of
    independent votes that would vary as much, n·p(1−p)/v, where v is the variance of one outcome.

    Args:
        outcomes: one for each vote.
        clusters: what each vote belongs to; none means that all are independent.

    Raises:
        UserError: an outcome is none of the three.
    """
    values = np.asarray(outcomes, float)
    if not np.isin(values, (0, 0.5, 1)).all():
        raise UserError("Outcomes are 0, 0.5 (a tie) or 1.")
    count = len(values)
    if count == 0:
        return NotEnoughVotes("nobody has voted yet.", 0)
    ties = int((values == 0.5).sum())
    rate = float(values.mean())
    effective = _effective_count(values, ties=ties, clusters=clusters)
    low, high = wilson(rate, effective)
    return Rate(rate, low, high, count, ties)


def win_rate(votes: Sequence[Vote], first: str, second: str) -> Rate | NotEnoughVotes:
    """How often `first` was preferred to `second`, by the votes that compared the two."""
    sides = [
        (vote.outcome if vote.first == first else 1 - vote.outcome, vote.cluster)
        for vote in votes
        if {vote.first, vote.second} == {first, second}
    ]
    if not sides:
        return NotEnoughVotes(f"{first} and {second} were never compared.", 0)
    outcomes, clusters = zip(*sides, strict=True)
    return fraction(outcomes, clusters)


def wilson(rate: float, count: float) -> tuple[float, float]:
    """Wilson's score interval of 95% for a fraction of `count` independent votes."""
    square = Z_95**2 / count
    center = (rate + square / 2) / (1 + square)
    half = Z_95 / (1 + square) * np.sqrt(rate * (1 - rate) / count + square / count / 4)
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def _effective_count(values: np.ndarray, *, ties: int, clusters: Sequence[str] | None) -> float:
    """Number of independent votes without ties that would vary as much as these.

    The share of ties is taken as t/(n+2), so that a few votes that all tie do not pass for
    certainty.
    """
    count, rate = len(values), float(values.mean())
    plain = rate * (1 - rate)
    if plain == 0:
        return count if clusters is None else len(set(clusters))
    variance = plain - ties / (count + 2) / 4
    effective = count * plain / variance
    if clusters is None:
        return effective
    numbers, num_clusters = cluster_numbers(clusters)
    if num_clusters == count:
        return effective
    sums = np.bincount(numbers, weights=values - rate)
    clustered = num_clusters / max(num_clusters - 1, 1) * (sums**2).sum() / count**2
    return min(effective, plain / clustered) if clustered > 0 else min(effective, num_clusters)
