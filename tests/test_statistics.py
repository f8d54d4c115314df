"""Means, differences, win rates and agreement, derived by hand."""

import subprocess
import sys

import numpy as np
import pytest

from chats.errors import UserError
from chats.statistics import (
    NotEnoughVotes,
    Vote,
    agreement,
    estimate,
    fraction,
    paired_difference,
    win_rate,
)


def test_score_of_one_training_is_the_binomial_of_prompt_means():
    """Four prompts, kept by 1, 1, 0, 0: mean 50%, variance 1/3, SE √(1/3/4) = 28.9%."""
    found = estimate(100.0 * np.array([[[1, 1, 0, 0]]]))
    assert found.mean == 50
    assert found.error == pytest.approx(100 * np.sqrt(1 / 12))


def test_pictures_of_one_prompt_are_not_counted_as_independent():
    kept = np.array([[[1, 1, 0, 0]]])
    assert estimate(np.repeat(kept, 5, axis=1)).error == estimate(kept).error


def test_variance_between_trainings_is_added():
    """Means of two trainings 1 and 0: prompts agree (no variance), seeds add √(0.5/2)."""
    kept = np.array([[[1, 1]], [[0, 0]]])
    assert estimate(kept).error == pytest.approx(np.sqrt(0.5 / 2))


def test_paired_difference_cancels_what_both_share():
    baseline = np.array([[[1, 0, 1, 0]]], bool)
    found = paired_difference(baseline, baseline)
    assert (found.mean, found.error) == (0, 0)


def test_one_prompt_has_a_mean_and_no_error():
    found = estimate(np.array([[[3.0]]]))
    assert found.mean == 3
    assert np.isnan(found.error)


def test_a_win_rate_without_ties_has_wilsons_interval():
    """7 of 10: centre (0.7 + z²/20)/(1 + z²/10) with z = 1.96; textbook: 39.7% to 89.2%."""
    found = fraction([1] * 7 + [0] * 3)
    assert found.rate == 0.7
    assert (found.low, found.high) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert str(found) == "70.0% [39.7, 89.2] (n = 10)"


def test_a_side_that_won_every_time_is_not_certain():
    """0 of 10: the upper end is z²/(n + z²) = 27.8%."""
    found = fraction([0] * 10)
    assert found.low == 0
    assert found.high == pytest.approx(0.2775, abs=1e-4)


def test_ties_count_half_and_narrow_the_interval():
    """2 wins, 1 loss, 3 ties: (2 + 1.5)/6; v = 0.2431 − 3/8/4, so 6·0.2431/0.1493 = 9.77 votes."""
    found = fraction([1, 1, 0, 0.5, 0.5, 0.5])
    assert found.rate == pytest.approx(3.5 / 6)
    assert (found.num_votes, found.num_ties) == (6, 3)
    plain = 3.5 / 6 * 2.5 / 6
    count, square = 6 * plain / (plain - 3 / 8 / 4), 1.96**2
    half = 1.96 / (1 + square / count) * np.sqrt(plain / count + square / count**2 / 4)
    assert found.high - found.low == pytest.approx(2 * half, rel=1e-4)
    assert "3 ties counted half" in str(found)


def test_nothing_but_ties_is_no_certainty():
    found = fraction([0.5] * 5)
    assert found.rate == 0.5
    assert 0.2 < found.low < 0.4


def test_votes_of_one_prompt_are_not_counted_as_independent():
    once = fraction([1, 1, 1, 0, 0], clusters=list("abcde"))
    often = fraction([1, 1, 1, 0, 0] * 8, clusters=list("abcde") * 8)
    assert often.num_votes == 40
    assert often.high - often.low > 0.9 * (once.high - once.low)


def test_win_rate_takes_the_votes_of_the_two_whichever_side_they_stood_on():
    votes = [
        Vote("chats", "cfg", 1, "p"),
        Vote("cfg", "chats", 0, "q"),
        Vote("cfg", "chats", 0.5, "r"),
        Vote("cfg", "standard", 1, "s"),
    ]
    found = win_rate(votes, "chats", "cfg")
    assert (found.rate, found.num_votes) == (2.5 / 3, 3)
    assert win_rate(votes, "cfg", "chats").rate == pytest.approx(0.5 / 3)
    none = win_rate(votes, "chats", "standard")
    assert isinstance(none, NotEnoughVotes)
    assert "chats and standard were never compared" in str(none)


def test_no_votes_at_all_are_not_a_rate():
    assert isinstance(fraction([]), NotEnoughVotes)


@pytest.mark.parametrize("vote", [("a", "a", 1, "p"), ("a", "b", 0.3, "p")])
def test_what_is_no_vote_is_refused(vote):
    with pytest.raises(UserError, match="vote"):
        Vote(*vote)


def test_outcomes_that_are_none_are_refused():
    with pytest.raises(UserError, match="a tie"):
        fraction([0.2])


def test_agreement_is_kappa_of_cohens_table():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 70% equal, by chance 50%, so κ = 0.4."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement(first, second)
    assert found.same.rate == 0.7
    assert found.kappa == pytest.approx(0.4)
    assert 0.1 < found.low < 0.2
    assert 0.6 < found.high < 0.7


def test_agreement_needs_votes_that_differ():
    assert "needs 10" in str(agreement([1] * 5, [0] * 5))
    assert "all answers are the same" in str(agreement([1] * 20, [1] * 20))
    assert "on 1 prompts" in str(agreement([1, 0] * 10, [1, 0] * 10, clusters=["p"] * 20))
    with pytest.raises(UserError, match="20 first answers came with 19"):
        agreement([1] * 20, [1] * 19)


def test_the_interval_of_a_win_rate_holds_the_truth_95_times_of_100():
    """1,500 simulations of each; ±3 points is more than four standard errors."""
    rng = np.random.default_rng(3)
    for count, share, ties in [(25, 0.5, 0), (40, 0.65, 0.3), (200, 0.55, 0.5), (100, 0.8, 0.1)]:
        chances = [share * (1 - ties), (1 - share) * (1 - ties), ties]
        truth = chances[0] + ties / 2
        draws = rng.choice([1, 0, 0.5], size=(1500, count), p=chances)
        found = [fraction(each) for each in draws]
        covered = np.mean([each.low <= truth <= each.high for each in found])
        assert 0.92 <= covered <= 0.98, (count, share, ties, covered)


def test_the_interval_holds_the_truth_when_votes_share_prompts():
    """60 prompts with a leaning of their own, 4 votes on each."""
    rng = np.random.default_rng(4)
    clusters = [str(i // 4) for i in range(240)]
    covered = []
    for _ in range(600):
        leaning = np.repeat(rng.beta(2, 2, size=60), 4)
        found = fraction((rng.random(240) < leaning).astype(float), clusters)
        covered.append(found.low <= 0.5 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_statistics_need_no_torch():
    code = "import sys, chats.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
