"""Fixed prompt sets of the Shapes world: test, tuning, and prompts for preference pairs.

The sets are pure functions of their name. No prompt of the pairs is in the test or the tuning set,
and no tuning prompt in the test set, but for `single_object`, which has only 30 wordings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from chats.shapes.world import CATEGORIES, Spec, caption, sample_spec

NUM_TEST_PROMPTS = 600
NUM_TUNING_PROMPTS = 240
_PAIR_CATEGORIES = (
    "two_object",
    "counting",
    "counting",
    "colors",
    "position",
    "position",
    "color_attribution",
)


def evaluation_specs() -> list[Spec]:
    """The 600 test promises, 100 of each category in turn."""
    return _draw("test", NUM_TEST_PROMPTS, taken=set())


def tuning_specs() -> list[Spec]:
    """The 240 promises on which guidance scales and training settings are chosen."""
    return _draw("tuning", NUM_TUNING_PROMPTS, taken=_captions(evaluation_specs()))


def pair_specs() -> Iterator[Spec]:
    """An endless stream of promises for preference pairs, none of them in the other two sets."""
    taken = _captions(evaluation_specs()) | _captions(tuning_specs())
    rng = random.Random("shapes-prompts-pairs")
    while True:
        spec = sample_spec(rng, rng.choice(_PAIR_CATEGORIES))
        if caption(spec) not in taken:
            yield spec


def _draw(name: str, count: int, *, taken: set[str]) -> list[Spec]:
    rng = random.Random(f"shapes-prompts-{name}")
    specs: list[Spec] = []
    while len(specs) < count:
        spec = sample_spec(rng, CATEGORIES[len(specs) % len(CATEGORIES)])
        if spec.category == "single_object" or caption(spec) not in taken:
            specs.append(spec)
    return specs


def _captions(specs: list[Spec]) -> set[str]:
    return {caption(spec) for spec in specs}
