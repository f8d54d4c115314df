"""The statistics of the evidence, derived by hand."""

import numpy as np
import pytest

from benchmarks.evidence.plan import CONTESTANTS, TRAININGS, training_config
from benchmarks.evidence.statistics import paired_difference, score


def test_score_of_one_training_is_the_binomial_of_prompt_means():
    """Four prompts, kept by 1, 1, 0, 0: mean 50%, variance 1/3, SE √(1/3/4) = 28.9%."""
    kept = np.array([[[1, 1, 0, 0]]])
    estimate = score(kept)
    assert estimate.mean == 50
    assert estimate.error == pytest.approx(100 * np.sqrt(1 / 12))


def test_pictures_of_one_prompt_are_not_counted_as_independent():
    kept = np.array([[[1, 1, 0, 0]]])
    assert score(np.repeat(kept, 5, axis=1)).error == score(kept).error


def test_variance_between_trainings_is_added():
    """Means of two trainings 100% and 0%: prompts agree (no variance), seeds add √(0.5/2)."""
    kept = np.array([[[1, 1]], [[0, 0]]])
    assert score(kept).error == pytest.approx(100 * np.sqrt(0.5 / 2))


def test_paired_difference_cancels_what_both_share():
    baseline = np.array([[[1, 0, 1, 0]]])
    estimate = paired_difference(baseline, baseline)
    assert (estimate.mean, estimate.error) == (0, 0)


def test_every_contestant_names_a_training_that_validates(tmp_path):
    for contestant in CONTESTANTS.values():
        assert contestant.training is None or contestant.training in TRAININGS
    for name in TRAININGS:
        training_config(name, seed=0, pairs=tmp_path, output=tmp_path)


def test_trainings_have_matched_compute():
    forwards = {"sft-preferred": 3, "diffusion-dpo": 8, "chats": 8}
    budgets = {t.num_steps * forwards[t.objective] for t in TRAININGS.values()}
    assert len(budgets) == 1
