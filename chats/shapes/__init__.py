"""The embedded Shapes model: a small, real text-to-image model of a rendered world."""

from pathlib import Path

SHAPES_MODEL = "shapes"
WEIGHTS = Path(__file__).parent / "weights"
BASE = WEIGHTS / "base"
PAIR = WEIGHTS / "pair"
CLIP = WEIGHTS / "clip"
