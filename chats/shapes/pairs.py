"""Preference pairs of the Shapes world.

    python -m chats.shapes.pairs --output build/pairs

Sampled pairs are the base model's own pictures: several of one prompt are ranked by the checker;
the best that keeps its promise and the worst that breaks it make a pair. Rendered pairs need no
model and come in seconds: a scene that keeps the promise, and one that breaks it in one thing. The
folder has the Hugging Face ImageFolder layout: metadata.jsonl with the columns prompt,
chosen_file_name, rejected_file_name.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import tyro
from PIL import Image
from pydantic import Field

from chats.config import FrozenSettings
from chats.shapes import BASE
from chats.shapes.checker import keeps_promise, read, sharpness
from chats.shapes.prompts import pair_specs
from chats.shapes.sampling import Sampler
from chats.shapes.world import Spec, caption, place, render, violate

PairCategory = Literal["two_object", "counting", "colors", "position", "color_attribution"]
"""Categories that pairs are made of; single objects have nothing to learn."""

_PROMPTS_PER_BATCH = 15


class PairsConfig(FrozenSettings):
    """How preference pairs are made."""

    output: Path = Path("build/pairs")
    """Folder that receives the pairs; an earlier one is replaced as a whole."""
    source: Literal["sampled", "rendered"] = "sampled"
    """Where the pictures come from: the base model, or the renderer of the world."""
    categories: tuple[PairCategory, ...] = Field(get_args(PairCategory), min_length=1)
    """Categories of the promises."""
    num_prompts: int = Field(2_000, ge=1)
    """Prompts tried; sampled ones give a pair if their pictures differ in keeping the promise."""
    pictures_per_prompt: int = Field(4, ge=2)
    """Sampled pictures that are ranked for each prompt."""
    scale: float = Field(1.5, ge=0)
    """The paper's guidance scale s of the CFG that paints them."""
    num_steps: int = Field(15, ge=1)
    """Sampling steps."""
    num_threads: int = Field(2, ge=1)
    """CPU threads of torch."""


@dataclass(frozen=True)
class ShapesPair:
    """One preference: two uint8 pictures `(64, 64, 3)` of one promise."""

    spec: Spec
    chosen: np.ndarray
    rejected: np.ndarray


def make_pairs(config: PairsConfig) -> Iterator[ShapesPair]:
    """Yield the pairs in the order of their prompts."""
    wanted = (spec for spec in pair_specs() if spec.category in config.categories)
    specs = itertools.islice(wanted, config.num_prompts)
    return rendered_pairs(specs) if config.source == "rendered" else sampled_pairs(specs, config)


def rendered_pairs(specs: Iterator[Spec]) -> Iterator[ShapesPair]:
    """Render a scene of each promise, and one arranged like it with one thing wrong."""
    for number, spec in enumerate(specs):
        seed = f"shapes-rendered-pairs-{number}"
        broken = violate(spec, random.Random(seed))
        chosen, rejected = (place(each, random.Random(seed)) for each in (spec, broken))
        yield ShapesPair(spec, render(chosen), render(rejected))


def sampled_pairs(specs: Iterator[Spec], config: PairsConfig) -> Iterator[ShapesPair]:
    """Sample several pictures of each promise and rank them."""
    sampler = Sampler(BASE, num_steps=config.num_steps)
    num_pictures = config.pictures_per_prompt
    for first in itertools.count(step=_PROMPTS_PER_BATCH):
        batch = list(itertools.islice(specs, _PROMPTS_PER_BATCH))
        if not batch:
            return
        prompts = [caption(spec) for spec in batch for _ in range(num_pictures)]
        seeds = range(
            10_000_000 + first * num_pictures, 10_000_000 + first * num_pictures + len(prompts)
        )
        pictures = sampler.sample(prompts, list(seeds), method="cfg", scale=config.scale)
        for index, spec in enumerate(batch):
            pair = rank(spec, pictures[index * num_pictures : (index + 1) * num_pictures])
            if pair:
                yield pair


def rank(spec: Spec, pictures: np.ndarray) -> ShapesPair | None:
    """The best picture against the worst, or None where all keep the promise or none does."""
    seen = [read(picture) for picture in pictures]
    kept = [keeps_promise(scene, spec) for scene in seen]
    if all(kept) or not any(kept):
        return None
    scores = [good + 0.5 * sharpness(scene) for good, scene in zip(kept, seen, strict=True)]
    best, worst = int(np.argmax(scores)), int(np.argmin(scores))
    return ShapesPair(spec, pictures[best], pictures[worst])


def write_pairs(pairs: Iterator[ShapesPair], folder: Path) -> int:
    """Write the ImageFolder beside its place, then move it there; returns how many pairs."""
    staged = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    count = 0
    with (staged / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for count, pair in enumerate(pairs, start=1):
            row = {"prompt": caption(pair.spec)}
            for side in ("chosen", "rejected"):
                name = f"{count:05d}-{side}.png"
                Image.fromarray(getattr(pair, side)).save(staged / name)
                row[f"{side}_file_name"] = name
            table.write(json.dumps(row) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)
    return count


def main(config: PairsConfig) -> None:
    """Make the pairs and say how many came out."""
    if config.output.exists() and not (config.output / "metadata.jsonl").is_file():
        sys.exit(f"{config.output} holds something else than pairs. Choose another --output.")
    torch.set_num_threads(config.num_threads)
    count = write_pairs(make_pairs(config), config.output)
    print(f"{count} pairs of {config.num_prompts} prompts in {config.output}")  # noqa: T201


if __name__ == "__main__":
    main(tyro.cli(PairsConfig))
