"""A scorer that takes its time, so that an evaluation can be met in its midst."""

import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

SECONDS = 0.25


class SlowBrightness:
    """How bright a picture is, on the average of its pixels, from 0 to 255."""

    def __init__(self, *, device=None, dtype=None) -> None:
        """Loads nothing."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Means `(N,)`."""
        time.sleep(SECONDS)
        return np.array([np.asarray(image).mean() for image in images])
