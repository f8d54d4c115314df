"""Means, standard errors and paired differences; pure functions of arrays of kept promises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, both in percent."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


def score(kept: np.ndarray) -> Estimate:
    """Mean of kept promises `(training seeds, image seeds, prompts)`.

    The prompt is the unit of sampling: its pictures are averaged first, so that several pictures
    of one prompt do not count as independent. Between training seeds the variance of their means
    is added, so that a lucky training does not pass for a good method.
    """
    return _estimate(kept.astype(float))


def paired_difference(kept: np.ndarray, baseline: np.ndarray) -> Estimate:
    """Mean of kept − baseline at the same prompts and noise; shapes as in `score`.

    The baseline has one training seed (the base model) or as many as `kept`.
    """
    return _estimate(kept.astype(float) - baseline.astype(float))


def _estimate(values: np.ndarray) -> Estimate:
    num_trainings, _, num_prompts = values.shape
    by_prompt = values.mean((0, 1))
    variance = by_prompt.var(ddof=1) / num_prompts
    if num_trainings > 1:
        variance += values.mean((1, 2)).var(ddof=1) / num_trainings
    return Estimate(100 * by_prompt.mean(), 100 * float(np.sqrt(variance)))
