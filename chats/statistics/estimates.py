"""Means, standard errors and paired differences; pure functions of arrays of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, in the unit of the scores."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


def estimate(scores: np.ndarray) -> Estimate:
    """Mean of scores `(training seeds, image seeds, prompts)`.

    The prompt is the unit of sampling: its pictures are averaged first, so that several pictures
    of one prompt do not count as independent. Between training seeds the variance of their means
    is added, so that a lucky training does not pass for a good method. Of a single prompt there is
    no error: it is NaN.
    """
    values = np.asarray(scores, float)
    num_trainings, _, num_prompts = values.shape
    by_prompt = values.mean((0, 1))
    variance = by_prompt.var(ddof=1) / num_prompts if num_prompts > 1 else float("nan")
    if num_trainings > 1:
        variance += values.mean((1, 2)).var(ddof=1) / num_trainings
    return Estimate(float(by_prompt.mean()), float(np.sqrt(variance)))


def paired_difference(scores: np.ndarray, baseline: np.ndarray) -> Estimate:
    """Mean of scores − baseline at the same prompts and noise; shapes as in `estimate`.

    The baseline has one training seed (the base model) or as many as `scores`.
    """
    return estimate(np.asarray(scores, float) - np.asarray(baseline, float))
