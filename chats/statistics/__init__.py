"""What numbers and votes say, and how surely: pure functions of arrays, without torch."""

from chats.statistics.agreement import Agreement, agreement
from chats.statistics.bradley_terry import Rating, Ratings, rate
from chats.statistics.estimates import Estimate, estimate, paired_difference
from chats.statistics.rates import Rate, fraction, win_rate
from chats.statistics.votes import NotEnoughVotes, Vote

__all__ = [
    "Agreement",
    "Estimate",
    "NotEnoughVotes",
    "Rate",
    "Rating",
    "Ratings",
    "Vote",
    "agreement",
    "estimate",
    "fraction",
    "paired_difference",
    "rate",
    "win_rate",
]
