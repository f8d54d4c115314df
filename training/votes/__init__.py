"""Blind votes between two pictures of one prompt: kept for good, a data set at once; no torch."""

from training.votes.collection import Cast, Collection
from training.votes.records import Choice, Contestant, Match
from training.votes.store import VoteStore

__all__ = ["Cast", "Choice", "Collection", "Contestant", "Match", "VoteStore"]
