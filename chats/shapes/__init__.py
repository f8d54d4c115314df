"""The embedded Shapes model: a small, real text-to-image model of a rendered world."""

from pathlib import Path

SHAPES_MODEL = "shapes"
SHAPES_NUM_STEPS = 20
"""Denoising steps that suit the model."""
WEIGHTS = Path(__file__).parent / "weights"
BASE = WEIGHTS / "base"
PAIR = WEIGHTS / "pair"
CLIP = WEIGHTS / "clip"
