"""Scorers by name, alone or as a weighted sum. This module imports no torch.

A name with a colon is a class of the user's own and runs the user's code: names that come from a
browser must be looked up in `SCORERS`, never given to `scorer`.
"""

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from chats.errors import UserError
from chats.scoring.scorer import Scorer, score_pictures

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KnownScorer:
    """What can be said of a scorer before it is loaded."""

    label: str
    place: str
    """Its module and class."""
    needs: str | None
    """The repository on the Hub that its weights are from; none means that they are embedded."""
    in_percent: bool = False
    """Whether scores are 0 or 1, so that means are shown in percent."""


_REWARDS = "DiffSynth-Studio/QualityMetric_reward_pretrained"

SCORERS: Mapping[str, KnownScorer] = {
    "shapes": KnownScorer(
        "Shapes checker", "chats.scoring.shapes:ShapesChecker", None, in_percent=True
    ),
    "shapes-clip": KnownScorer("Shapes CLIP", "chats.scoring.shapes:ShapesClipScorer", None),
    "clip": KnownScorer(
        "CLIP score", "chats.scoring.clip:ClipScore", "openai/clip-vit-large-patch14"
    ),
    "pickscore": KnownScorer(
        "PickScore", "chats.scoring.clip:PickScore", "yuvalkirstain/PickScore_v1"
    ),
    "hps": KnownScorer("HPS v2.1", "chats.scoring.hps:HpsV2", _REWARDS),
    "imagereward": KnownScorer("ImageReward", "chats.scoring.imagereward:ImageReward", _REWARDS),
    "aesthetic": KnownScorer("LAION aesthetic", "chats.scoring.aesthetic:LaionAesthetic", _REWARDS),
}

_TERM = re.compile(
    r"\s*(?:([+-])\s*)?(?:(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*\*\s*)?([A-Za-z_][\w.:-]*)\s*", re.I
)


class WeightedSum:
    """Σ wₖ·scoreₖ of raw scores.

    Scores are not standardised: a picture's z-score would depend on which others happen to be
    judged with it, so two processes would not agree on it. Choose weights with the scorers' units
    in mind; typical standard deviations over pictures are 1 to 1.5 for PickScore, 2 to 3 for HPS
    and 1 for ImageReward.
    """

    def __init__(self, terms: Sequence[tuple[float, Scorer]]) -> None:
        self.terms = tuple(terms)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Weighted sums `(N,)`."""
        return sum(weight * score_pictures(each, images, prompts) for weight, each in self.terms)


def scorer(
    name: str, *, device: "torch.device | str | None" = None, dtype: "torch.dtype | None" = None
) -> Scorer:
    """Make a scorer and load its weights, from the Hub the first time.

    Args:
        name: a name of `SCORERS`, a class of your own as `package.module:Class`, or a weighted
            sum of such, `0.5*pickscore + 0.5*hps`, of raw scores.
        device: where it runs; none means CUDA, else an Apple GPU, else the CPU.
        dtype: of its weights; none means float32.

    Raises:
        UserError: there is no such scorer, or its weights are not here and cannot be fetched.
    """
    terms = parse_terms(name)
    made = {each: _made(each, device=device, dtype=dtype) for _, each in terms}
    if len(terms) == 1 and terms[0][0] == 1:
        return made[terms[0][1]]
    return WeightedSum([(weight, made[each]) for weight, each in terms])


def parse_terms(text: str) -> list[tuple[float, str]]:
    """Split a weighted sum into (weight, name); `-` binds to the term that follows it.

    Raises:
        UserError: it is not written like one, or names an unknown scorer.
    """
    if text.strip() in SCORERS:
        return [(1.0, text.strip())]
    terms, position = [], 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or (terms and not match[1]):
            raise UserError(
                f"{text!r} is not a scorer. Write a name, or a weighted sum such as "
                "0.5*pickscore + 0.5*hps."
            )
        weight = float(match[2] or 1) * (-1 if match[1] == "-" else 1)
        terms += [(weight, match[3])]
        position = match.end()
    for _, name in terms:
        if name not in SCORERS and ":" not in name:
            raise UserError(_unknown(name))
    if not terms:
        raise UserError(_unknown(text))
    return terms


def _made(name: str, **options: Any) -> Scorer:
    place = SCORERS[name].place if name in SCORERS else name
    module_name, _, class_name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"The scorer {name} cannot be imported: {error}. Give it as package.module:Class, and "
            "start Python where that package is found."
        ) from error
    made = getattr(module, class_name, None)
    if made is None:
        raise UserError(f"The module {module_name} has no {class_name}.")
    try:
        inspect.signature(made).bind(**options)
    except TypeError as error:
        raise UserError(
            f"The scorer {name} cannot be made: {error}. Its __init__ must take the keywords "
            "device and dtype."
        ) from error
    return made(**options)


def _unknown(name: str) -> str:
    return (
        f"There is no scorer {name!r}. There are: {', '.join(SCORERS)}; your own is given as "
        "package.module:Class."
    )
