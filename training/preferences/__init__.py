"""Preference pairs from folders, archives, tables and the Hub, checked row by row; no torch.

A pair's pictures are opened when they are read, not before, so that a list of pairs stays small.
"""

from training.preferences.pairs import Picture, PreferencePair, split_pairs
from training.preferences.read import read_pairs, read_preferences, source_name

__all__ = [
    "Picture",
    "PreferencePair",
    "read_pairs",
    "read_preferences",
    "source_name",
    "split_pairs",
]
