"""Whether a repeated vote says the same: of one person on another day, or of two people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from chats.errors import UserError
from chats.statistics.rates import Rate, fraction
from chats.statistics.votes import NotEnoughVotes, cluster_numbers, expanded_tail

MIN_VOTES = 10
_NUM_SAMPLES = 2000


@dataclass(frozen=True)
class Agreement:
    """How often two votes on the same pictures agree.

    Attributes:
        same: fraction of equal answers, with Wilson's 95% interval.
        kappa: Cohen's κ: 0 is what chance would give, 1 is always the same.
        low: of the 95% interval of κ.
        high: of the 95% interval of κ.
    """

    same: Rate
    kappa: float
    low: float
    high: float


def agreement(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> Agreement | NotEnoughVotes:
    """Compare two answers to each of N questions.

    Args:
        first: an answer to each, of any kind: 1, 0.5, 0 or "left", "right", "tie".
        second: the other answers, in the same order.
        clusters: what questions have in common that are not independent (the prompt); none means
            that all are independent. The interval of κ resamples these.
        seed: of the bootstrap.

    Raises:
        UserError: there are not as many second answers as first ones.
    """
    if len(first) != len(second):
        raise UserError(f"{len(first)} first answers came with {len(second)} second ones.")
    count = len(first)
    if count < MIN_VOTES:
        return NotEnoughVotes(f"agreement needs {MIN_VOTES} votes that were repeated.", count)
    answers = {answer: i for i, answer in enumerate(dict.fromkeys([*first, *second]))}
    if len(answers) == 1:
        return NotEnoughVotes("all answers are the same, so chance cannot be told apart.", count)
    numbers, num_clusters = cluster_numbers(clusters or [str(i) for i in range(count)])
    if num_clusters < MIN_VOTES:
        reason = f"the repeated votes are on {num_clusters} prompts; agreement needs {MIN_VOTES}."
        return NotEnoughVotes(reason, count)
    tables = np.zeros((num_clusters, len(answers), len(answers)))
    rows, columns = ([answers[each] for each in side] for side in (first, second))
    np.add.at(tables, (numbers, rows, columns), 1)
    draws = np.random.default_rng(seed).multinomial(
        num_clusters, np.full(num_clusters, 1 / num_clusters), _NUM_SAMPLES
    )
    resampled = (draws @ tables.reshape(num_clusters, -1)).reshape(-1, *tables.shape[1:])
    tail = expanded_tail(num_clusters)
    low, high = np.nanquantile(_kappa(resampled), (tail, 1 - tail))
    same = fraction([float(a == b) for a, b in zip(first, second, strict=True)], clusters)
    return Agreement(same, float(_kappa(tables.sum(0)[None])[0]), float(low), float(high))


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Cohen's κ of each table of counts `(B, K, K)`; NaN where only one answer was given."""
    shares = tables / tables.sum((1, 2), keepdims=True)
    observed = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(1) * shares.sum(2)).sum(1)
    return np.divide(
        observed - chance, 1 - chance, out=np.full(len(tables), np.nan), where=chance < 1 - 1e-12
    )
