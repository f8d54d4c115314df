"""Bradley–Terry ratings with ties, and how sure they are.

Davidson (1970): with strengths θ, of i against j

    P(i wins) ∝ e^θᵢ,   P(j wins) ∝ e^θⱼ,   P(tie) ∝ ν·e^((θᵢ+θⱼ)/2).

θ and log ν are found by Newton's method on the concave log-likelihood with a small ridge, for all
bootstrap samples at once. A bootstrap sample draws clusters (prompts), not votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from chats.statistics.votes import NotEnoughVotes, Vote, cluster_numbers, expanded_tail

MIN_CLUSTERS = 20
"""Fewer prompts than this give intervals that are too narrow."""

ELO_PER_UNIT = 400 / np.log(10)
"""Elo points of one unit of θ: 400 points are odds of 10 to 1."""

_RIDGE = 1e-2
_MAX_STEP = 2.0
_MAX_ITERATIONS = 60
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Rating:
    """A strength θ with its 95% interval, in natural units; the mean over all names is 0."""

    name: str
    strength: float
    low: float
    high: float
    num_votes: int

    @property
    def elo(self) -> tuple[float, float, float]:
        """Rating, low and high end in Elo points around 1000."""
        values = (self.strength, self.low, self.high)
        return tuple(1000 + float(ELO_PER_UNIT * each) for each in values)


@dataclass(frozen=True)
class Ratings:
    """All ratings, the best first."""

    ratings: tuple[Rating, ...]
    num_votes: int
    num_ties: int
    num_clusters: int


def rate(
    votes: Sequence[Vote], *, num_samples: int = 1000, seed: int = 0
) -> Ratings | NotEnoughVotes:
    """Rate everything that was voted on.

    Args:
        votes: comparisons; those with one `cluster` are resampled together.
        num_samples: bootstrap samples.
        seed: of the bootstrap; the same votes and seed give the same intervals.

    Returns:
        The ratings, or why there are none: fewer than `MIN_CLUSTERS` prompts, a group that was
        never compared with the rest, or one that always won or always lost against the rest.
    """
    names = sorted({name for vote in votes for name in (vote.first, vote.second)})
    wins, ties = _tallies(votes, names)
    if reason := _shortage(wins.sum(0), ties.sum(0), names, num_clusters=len(wins)):
        return NotEnoughVotes(reason, len(votes))
    strengths = fit(wins.sum(0)[None], ties.sum(0)[None])[0]
    low, high = _intervals(wins, ties, num_samples=num_samples, seed=seed)
    counts = (wins + wins.transpose(0, 2, 1) + ties).sum((0, 2))
    ratings = [
        Rating(name, float(strengths[i]), float(low[i]), float(high[i]), int(counts[i]))
        for i, name in enumerate(names)
    ]
    return Ratings(
        ratings=tuple(sorted(ratings, key=lambda each: -each.strength)),
        num_votes=len(votes),
        num_ties=int(ties.sum() / 2),
        num_clusters=len(wins),
    )


def fit(wins: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Strengths of most likelihood, for many tables at once.

    Args:
        wins: how often row won against column, `(B, K, K)`.
        ties: how often row and column tied, symmetric, `(B, K, K)`.

    Returns:
        θ `(B, K)`, each row of mean 0.
    """
    wins, ties = np.asarray(wins, float), np.asarray(ties, float)
    num_tables, size, _ = wins.shape
    counts = wins + wins.transpose(0, 2, 1) + ties
    won = wins.sum(2) + ties.sum(2) / 2
    tied = ties.sum((1, 2)) / 2
    has_ties = bool(ties.any())
    parameters = np.zeros((num_tables, size + 1))
    for _ in range(_MAX_ITERATIONS):
        step = _newton_step(parameters, counts, won, tied, has_ties=has_ties)
        parameters += np.clip(step, -_MAX_STEP, _MAX_STEP)
        if np.abs(step).max() < _TOLERANCE:
            break
    strengths = parameters[:, :size]
    return strengths - strengths.mean(1, keepdims=True)


def _newton_step(
    parameters: np.ndarray,
    counts: np.ndarray,
    won: np.ndarray,
    tied: np.ndarray,
    *,
    has_ties: bool,
) -> np.ndarray:
    strengths, log_nu = parameters[:, :-1], parameters[:, -1]
    half = (strengths[:, :, None] - strengths[:, None, :]) / 2
    up, down = np.exp(half), np.exp(-half)
    nu = np.exp(log_nu)[:, None, None] if has_ties else 0.0
    total = up + down + nu
    win, tie = up / total, nu / total
    mean = win + tie / 2
    variance = counts * (win + tie / 4 - mean**2)
    covariance = counts * (tie / 2 - mean * tie)
    size = strengths.shape[1]
    gradient = np.empty_like(parameters)
    gradient[:, :-1] = won - (counts * mean).sum(2)
    gradient[:, -1] = tied - (counts * tie).sum((1, 2)) / 2
    gradient -= _RIDGE * parameters
    information = np.zeros((len(parameters), size + 1, size + 1))
    information[:, :size, :size] = -variance
    diagonal = np.arange(size)
    information[:, diagonal, diagonal] += variance.sum(2)
    information[:, :size, size] = information[:, size, :size] = covariance.sum(2)
    information[:, size, size] = (counts * tie * (1 - tie)).sum((1, 2)) / 2
    information += _RIDGE * np.eye(size + 1)
    return np.linalg.solve(information, gradient[:, :, None])[:, :, 0]


def _tallies(votes: Sequence[Vote], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Wins and ties of each cluster, `(clusters, K, K)`; ties stand on both sides."""
    numbers, num_clusters = cluster_numbers([vote.cluster for vote in votes])
    index = {name: i for i, name in enumerate(names)}
    wins, ties = np.zeros((2, num_clusters, len(names), len(names)))
    for number, vote in zip(numbers, votes, strict=True):
        first, second = index[vote.first], index[vote.second]
        if vote.outcome == 0.5:
            ties[number, first, second] += 1
            ties[number, second, first] += 1
        elif vote.outcome == 1:
            wins[number, first, second] += 1
        else:
            wins[number, second, first] += 1
    return wins, ties


def _intervals(
    wins: np.ndarray, ties: np.ndarray, *, num_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """95% intervals of the strengths over resampled clusters, `(K,)` each."""
    num_clusters, size, _ = wins.shape
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), num_samples)
    resampled = [
        (draws @ table.reshape(num_clusters, -1)).reshape(-1, size, size) for table in (wins, ties)
    ]
    tail = expanded_tail(num_clusters)
    low, high = np.quantile(fit(*resampled), (tail, 1 - tail), axis=0)
    return low, high


def _shortage(
    wins: np.ndarray, ties: np.ndarray, names: Sequence[str], *, num_clusters: int
) -> str | None:
    if len(names) < 2:
        return "nobody has voted yet."
    if num_clusters < MIN_CLUSTERS:
        return f"they are on {num_clusters} prompts; ratings need {MIN_CLUSTERS}."
    met = wins + wins.T + ties
    if (group := _group(met, names, "weak")) is not None:
        return f"{group} was never compared with the rest."
    if (group := _group(wins + ties, names, "strong")) is not None:
        return f"against the rest, {group} has won every time or lost every time."
    return None


def _group(table: np.ndarray, names: Sequence[str], connection: str) -> str | None:
    """Name the smallest group that is not joined to the rest; none if all are joined."""
    count, labels = connected_components(table > 0, directed=True, connection=connection)
    if count == 1:
        return None
    smallest = np.argmin(np.bincount(labels))
    return " with ".join(
        name for name, label in zip(names, labels, strict=True) if label == smallest
    )
