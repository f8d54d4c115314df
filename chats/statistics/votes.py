"""Votes between two pictures of one prompt, and the answer where they are too few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from chats.errors import UserError


@dataclass(frozen=True)
class Vote:
    """One comparison.

    Attributes:
        first: what made the one picture: a method, a model, a setting.
        second: what made the other.
        outcome: 1 where the first was preferred, 0 where the second was, 0.5 for a tie.
        cluster: what votes have in common that are not independent: the prompt.
    """

    first: str
    second: str
    outcome: float
    cluster: str

    def __post_init__(self) -> None:
        if self.outcome not in (0, 0.5, 1):
            raise UserError(f"A vote's outcome is 0, 0.5 or 1; got {self.outcome!r}.")
        if self.first == self.second:
            raise UserError(f"A vote compares two things; got {self.first!r} twice.")


@dataclass(frozen=True)
class NotEnoughVotes:
    """There is no honest number yet; says why, for a person to read."""

    reason: str
    num_votes: int

    def __str__(self) -> str:
        return f"Not enough votes ({self.num_votes}): {self.reason}"


def cluster_numbers(clusters: Sequence[str]) -> tuple[np.ndarray, int]:
    """Number the clusters from 0: the number of each entry `(N,)`, and how many there are."""
    names, numbers = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return numbers, len(names)


def expanded_tail(num_clusters: int) -> float:
    """Share of bootstrap samples to leave out at each end for a 95% interval of n clusters.

    Plain percentiles are too narrow for few clusters; Φ(−√(n/(n−1))·t) with the 97.5% quantile t of
    Student's distribution mends most of that (Hesterberg 2015, the expanded percentile interval).
    """
    quantile = stdtrit(num_clusters - 1, 0.975)
    return float(ndtr(-np.sqrt(num_clusters / (num_clusters - 1)) * quantile))
