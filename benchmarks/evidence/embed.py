"""Embeds the LoRA pair that served best on the tuning prompts, with the setting that did.

    python -m benchmarks.evidence.embed

Runs the part of the evidence that it needs, if that has not been run yet. The pair is the one of
the first training seed, its numbers are kept in float16.
"""

from __future__ import annotations

import dataclasses
import shutil

import torch
import tyro

from benchmarks.evidence.measure import trained_pair
from benchmarks.evidence.plan import CONTESTANTS, EvidenceConfig
from benchmarks.evidence.tuning import TuningTable, tuning_table
from chats import load_pair
from chats.pairs.pair import Pair, Recommended, save_pair
from chats.shapes import PAIR
from chats.shapes.prompts import NUM_TUNING_PROMPTS

_TRAINING = "chats-lora"


def main(config: EvidenceConfig) -> None:
    """Replace the embedded pair."""
    name, scale = best_setting(tuning_table(config), num_prompts=NUM_TUNING_PROMPTS)
    pair = load_pair(trained_pair(_TRAINING, config.training_seeds[0], config))
    recommended = Recommended(scale=scale, alpha=CONTESTANTS[name].alpha)
    shutil.rmtree(PAIR, ignore_errors=True)
    save_pair(in_float16(pair, recommended=recommended), PAIR)
    print(f"{PAIR}: s = {scale:g}, α = {recommended.alpha:g}")


def best_setting(table: TuningTable, *, num_prompts: int) -> tuple[str, float]:
    """The contestant with the LoRA pair that keeps most tuning promises, and the scale for it.

    The scale is the smallest one within a standard error of the best: more guidance that keeps no
    more promises only coarsens the pictures, which the checker does not see.
    """
    names = [name for name in table if CONTESTANTS[name].training == _TRAINING]
    name = max(names, key=lambda each: max(table[each].values()))
    best = max(table[name].values())
    error = (best * (1 - best) / num_prompts) ** 0.5
    return name, min(scale for scale, kept in table[name].items() if kept >= best - error)


def in_float16(pair: Pair, *, recommended: Recommended) -> Pair:
    """The same LoRA pair in float16, with the setting to start from."""
    halves = {
        role: {key: tensor.to(torch.float16) for key, tensor in half.items()}
        for role, half in pair.halves().items()
    }
    metadata = pair.metadata.model_copy(update={"recommended": recommended})
    return dataclasses.replace(pair, metadata=metadata, **halves)


if __name__ == "__main__":
    main(tyro.cli(EvidenceConfig))
