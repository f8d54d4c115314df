"""Levers of sampling and what they do to quality on Shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chats.config import Shaping
from chats.shapes import BASE, PAIR
from chats.shapes.prompts import evaluation_specs
from chats.shapes.sampling import Sampler, first_seed
from chats.statistics import estimate, paired_difference

CHATS = "CHATS"
_CHATS = {"method": "chats", "scale": 4.0, "alpha": 0.0}
_EARLY, _MIDDLE = (0.0, 0.6), (0.2, 0.8)

LEVERS: Mapping[str, Mapping[str, Any]] = {
    "CFG": {"method": "cfg", "scale": 4.0},
    CHATS: _CHATS,
    "CHATS, guided from 0 to 0.6": {**_CHATS, "interval": _EARLY},
    "CHATS, guided from 0.2 to 0.8": {**_CHATS, "interval": _MIDDLE},
    "CHATS, new difference every 2": {**_CHATS, "shaping": Shaping(refresh_every=2)},
    "CHATS, new difference every 3": {**_CHATS, "shaping": Shaping(refresh_every=3)},
    "CHATS, from 0 to 0.6, every 2": {
        **_CHATS,
        "interval": _EARLY,
        "shaping": Shaping(refresh_every=2),
    },
    "CHATS, rescale 0.7": {**_CHATS, "shaping": Shaping(rescale=0.7)},
    "CHATS, APG eta 0, momentum −0.5": {
        **_CHATS,
        "shaping": Shaping(apg_eta=0.0, apg_momentum=-0.5),
    },
}
"""Name -> settings of `chats.guidance`, for the embedded pair at the scale that the tuning prompts
of docs/evidence.md chose."""


def quality(*, num_prompts: int, num_steps: int) -> dict[str, np.ndarray]:
    """Return whether each promise is kept, `(1, 1, prompts)`, for each lever; the same noise."""
    sampler = Sampler(BASE, PAIR, num_steps=num_steps)
    specs = evaluation_specs()[:num_prompts]
    return {
        name: sampler.promises_kept(specs, first_seed=first_seed(0), **settings)[None, None]
        for name, settings in LEVERS.items()
    }


def quality_notes(scores: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Say what each lever keeps, and by how much that differs from CFG, in percent."""
    notes = {}
    for name, kept in scores.items():
        notes[name] = f"kept {estimate(100.0 * kept)}"
        if name != "CFG":
            difference = paired_difference(100.0 * kept, 100.0 * scores["CFG"])
            notes[name] += f", to CFG {difference.mean:+.1f} ± {difference.error:.1f}"
    return notes
