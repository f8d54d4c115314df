"""Ratings against scipy's optimiser, against votes of known strengths, and where there are none."""

import numpy as np
import pytest
from scipy.optimize import minimize

from chats.statistics import NotEnoughVotes, Ratings, Vote, rate
from chats.statistics.bradley_terry import fit

STRENGTHS = {"a": 0.6, "b": 0.2, "c": -0.1, "d": -0.7}
NU = 0.4


def simulated(rng, *, num_prompts, per_prompt, strengths=STRENGTHS, nu=NU) -> list[Vote]:
    """Votes of Davidson's model between random two of the names."""
    names, values = list(strengths), np.array(list(strengths.values()))
    count = num_prompts * per_prompt
    first = rng.integers(len(names), size=count)
    second = (first + rng.integers(1, len(names), size=count)) % len(names)
    half = (values[first] - values[second]) / 2
    win, lose = np.exp(half), np.exp(-half)
    draw = rng.random(count) * (win + lose + nu)
    outcome = np.where(draw < win, 1.0, np.where(draw < win + lose, 0.0, 0.5))
    return [
        Vote(names[i], names[j], result, str(number // per_prompt))
        for number, (i, j, result) in enumerate(zip(first, second, outcome, strict=True))
    ]


def coverage(num_simulations, *, num_prompts, per_prompt, num_samples) -> float:
    rng = np.random.default_rng(num_prompts)
    covered = []
    for seed in range(num_simulations):
        votes = simulated(rng, num_prompts=num_prompts, per_prompt=per_prompt)
        found = rate(votes, num_samples=num_samples, seed=seed)
        covered += [each.low <= STRENGTHS[each.name] <= each.high for each in found.ratings]
    return float(np.mean(covered))


def test_two_of_whom_one_wins_three_in_four_are_log_3_apart():
    wins = np.array([[[0, 300], [100, 0]]])
    theta = fit(wins, np.zeros_like(wins))[0]
    assert theta[0] - theta[1] == pytest.approx(np.log(3), abs=1e-3)
    assert theta.sum() == pytest.approx(0, abs=1e-12)


def test_ratings_are_where_davidsons_likelihood_is_highest():
    """Scipy's general optimiser on the likelihood as it is written in the paper."""
    rng = np.random.default_rng(1)
    wins = rng.integers(5, 40, size=(4, 4)) * (1 - np.eye(4))
    ties = np.triu(rng.integers(1, 20, size=(4, 4)), 1).astype(float)
    ties += ties.T

    def loss(parameters):
        pi, nu = np.exp([*parameters[:3], 0.0]), np.exp(parameters[3])
        total = 0.0
        for i in range(4):
            for j in range(4):
                if i != j:
                    drawn = nu * np.sqrt(pi[i] * pi[j])
                    norm = pi[i] + pi[j] + drawn
                    total += wins[i, j] * np.log(pi[i] / norm)
                    total += ties[i, j] / 2 * np.log(drawn / norm)
        return -total

    best = np.array([*minimize(loss, np.zeros(4), options={"gtol": 1e-8}).x[:3], 0.0])
    np.testing.assert_allclose(fit(wins[None], ties[None])[0], best - best.mean(), atol=2e-3)


def test_many_tables_are_fitted_as_if_each_were_alone():
    rng = np.random.default_rng(2)
    wins = rng.integers(0, 9, size=(7, 3, 3)) * (1 - np.eye(3))
    ties = np.zeros_like(wins)
    ties[:, 0, 1] = ties[:, 1, 0] = rng.integers(0, 4, size=7)
    alone = [fit(w[None], t[None])[0] for w, t in zip(wins, ties, strict=True)]
    np.testing.assert_allclose(fit(wins, ties), alone, atol=1e-4)


def test_votes_give_ratings_with_counts_best_first():
    votes = simulated(np.random.default_rng(0), num_prompts=200, per_prompt=3)
    found = rate(votes)
    assert isinstance(found, Ratings)
    assert [each.name for each in found.ratings] == ["a", "b", "c", "d"]
    assert (found.num_votes, found.num_clusters) == (600, 200)
    assert found.num_ties == sum(vote.outcome == 0.5 for vote in votes)
    assert sum(each.num_votes for each in found.ratings) == 1200
    best = found.ratings[0]
    assert best.low < best.strength < best.high
    assert best.elo[0] == pytest.approx(1000 + 400 * best.strength / np.log(10))


def test_the_same_votes_and_seed_give_the_same_intervals():
    votes = simulated(np.random.default_rng(0), num_prompts=50, per_prompt=2)
    assert rate(votes, seed=3) == rate(votes, seed=3)
    assert rate(votes, seed=3) != rate(votes, seed=4)


def test_the_side_a_picture_stood_on_does_not_matter():
    votes = simulated(np.random.default_rng(0), num_prompts=50, per_prompt=2)
    turned = [Vote(v.second, v.first, 1 - v.outcome, v.cluster) for v in votes]
    assert rate(votes) == rate(turned)


def test_votes_that_share_prompts_widen_the_intervals():
    votes = simulated(np.random.default_rng(0), num_prompts=60, per_prompt=1)
    again = [vote for vote in votes for _ in range(6)]
    once, often = rate(votes).ratings[0], rate(again).ratings[0]
    assert often.high - often.low > 0.8 * (once.high - once.low)


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ([], "nobody has voted"),
        ([Vote("a", "b", i % 2, str(i % 5)) for i in range(100)], "on 5 prompts; ratings need 20"),
        (
            [Vote("a", "b", i % 2, str(i)) for i in range(40)]
            + [Vote("c", "d", i % 2, str(i)) for i in range(40)],
            "never compared with the rest",
        ),
        (
            [Vote("a", "b", i % 2, str(i)) for i in range(40)]
            + [Vote("c", "a", 1, str(i)) for i in range(40)],
            "c has won every time or lost every time",
        ),
    ],
)
def test_too_few_votes_are_told_and_not_rated(votes, reason):
    found = rate(votes)
    assert isinstance(found, NotEnoughVotes)
    assert reason in str(found)
    assert found.num_votes == len(votes)


def test_ties_join_what_else_would_be_apart():
    votes = [Vote("a", "b", 0.5 if i % 2 else 1, str(i)) for i in range(40)]
    assert isinstance(rate(votes), Ratings)


def test_intervals_hold_the_known_strengths_95_times_of_100():
    """400 simulations of four strengths; 95% ± 3% is more than three standard errors."""
    covered = coverage(400, num_prompts=60, per_prompt=3, num_samples=300)
    assert 0.92 <= covered <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("num_prompts", "per_prompt"), [(20, 8), (40, 4), (150, 2), (300, 1)])
def test_intervals_hold_the_known_strengths_with_few_and_with_many_prompts(num_prompts, per_prompt):
    covered = coverage(2000, num_prompts=num_prompts, per_prompt=per_prompt, num_samples=1000)
    assert 0.93 <= covered <= 0.97
