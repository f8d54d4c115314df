"""What a scorer is: one method, pictures and prompts in, one number for each out.

A scorer of your own is one class:

    class Brightness:
        def __init__(self, *, device=None, dtype=None):
            pass

        def score(self, images, prompts):
            return [np.asarray(image).mean() / 255 for image in images]

`scorer("my_package.my_module:Brightness")` makes it. This module imports no torch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from chats.errors import UserError


class Scorer(Protocol):
    """Judges pictures; a picture's score depends on it and its prompt alone, not on the others."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Return one score for each picture with its own prompt, `(N,)`; higher is better."""


def score_pictures(
    judge: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]
) -> np.ndarray:
    """Score pictures, and hold the scorer to its promise.

    Args:
        judge: the scorer.
        images: N pictures of any mode; they are given to the scorer as RGB.
        prompts: N prompts.

    Returns:
        float64 `(N,)`.

    Raises:
        UserError: there are not as many prompts as pictures, or the scorer did not return one
            finite number for each picture.
    """
    if len(images) != len(prompts):
        raise UserError(f"{len(images)} pictures came with {len(prompts)} prompts; give one each.")
    if not images:
        return np.zeros(0)
    name = type(judge).__name__
    try:
        scores = np.asarray(judge.score([each.convert("RGB") for each in images], prompts), float)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} could not score {len(images)} pictures: {error}") from error
    if scores.shape != (len(images),):
        raise UserError(
            f"{name} returned scores of shape {scores.shape} for {len(images)} pictures. Its score "
            "method must return one number for each picture."
        )
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(
            f"{name} returned {scores[index]} for picture {index}, with the prompt "
            f"{prompts[index][:80]!r}. Scores must be finite."
        )
    return scores


def in_batches(
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    batch_size: int,
    score: Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray],
) -> np.ndarray:
    """Score a few pictures at a time; `(N,)` in their order."""
    batches = list(_batches(images, prompts, batch_size))
    return np.concatenate([score(*batch) for batch in batches]) if batches else np.zeros(0)


def _batches(
    images: Sequence[Image.Image], prompts: Sequence[str], size: int
) -> Iterator[tuple[Sequence[Image.Image], Sequence[str]]]:
    for start in range(0, len(images), size):
        yield images[start : start + size], list(prompts[start : start + size])
