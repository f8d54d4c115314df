"""Fine-tunes the embedded Shapes model in minutes and scores it: `make train-demo`.

    python -m benchmarks.train_demo

Renders preference pairs of what the base finds hard, trains a LoRA pair by the recipe shapes_demo,
and lets the checker count on held-out prompts how many promises CFG on the base keeps, and CHATS
with the new pair: the same prompts, noise, scale and steps.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import tyro
from pydantic import Field

from chats.config import FrozenSettings
from chats.shapes import BASE
from chats.shapes.pairs import PairsConfig, make_pairs, write_pairs
from chats.shapes.prompts import NUM_TEST_PROMPTS, evaluation_specs
from chats.shapes.sampling import Sampler, first_seed
from chats.statistics import estimate, paired_difference
from training.config import parse_command_line
from training.loop.trainer import train

RECIPE = Path("training/recipes/shapes_demo.yaml")

HARD_CATEGORIES = ("two_object", "counting", "position")
"""What the base does not always keep."""


class DemoConfig(FrozenSettings):
    """What the demo makes."""

    workdir: Path = Path("build/train-demo")
    """Folder of pairs and run; an earlier one is replaced."""
    num_pairs: int = Field(1_500, ge=2)
    """Preference pairs that are rendered."""
    num_prompts: int = Field(NUM_TEST_PROMPTS, ge=2, le=NUM_TEST_PROMPTS)
    """Held-out prompts that are scored."""
    num_seeds: int = Field(2, ge=1)
    """Pictures of each prompt, each from its own noise."""
    scale: float = Field(2.0, ge=0)
    """The guidance scale s of CFG and CHATS."""
    alpha: float = Field(0.0, ge=-1, le=2)
    """The α of CHATS."""


def main(config: DemoConfig) -> None:
    """Make pairs, train, score."""
    shutil.rmtree(config.workdir, ignore_errors=True)
    config.workdir.mkdir(parents=True)
    start = time.monotonic()
    folder = config.workdir / "pairs"
    wanted = PairsConfig(
        source="rendered", categories=HARD_CATEGORIES, num_prompts=config.num_pairs
    )
    num_pairs = write_pairs(make_pairs(wanted), folder)
    print(f"{num_pairs} pairs in {folder}, {_minutes(start)}", flush=True)
    settings = parse_command_line(
        [
            "--config",
            str(RECIPE),
            "--data.path",
            str(folder),
            "--run.output",
            f"{config.workdir}/run",
        ]
    )
    start = time.monotonic()
    pair = train(settings).pair
    print(f"A pair in {pair}, {_minutes(start)}", flush=True)
    start = time.monotonic()
    jobs = [(each, seed, config) for each in (None, pair) for seed in range(config.num_seeds)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        kept = list(pool.map(kept_promises, *zip(*jobs, strict=True)))
    base, tuned = 100.0 * np.stack(kept).reshape(2, 1, config.num_seeds, -1)
    print(
        f"\n{config.num_prompts} held-out prompts × {config.num_seeds} seeds, "
        f"s = {config.scale:g}, {_minutes(start)}"
    )
    print(f"CFG on the base           {estimate(base)}% of the promises kept")
    print(f"CHATS with the new pair   {estimate(tuned)}%, α = {config.alpha:g}")
    print(f"difference, paired        {paired_difference(tuned, base)} percentage points")


def kept_promises(pair: Path | None, seed: int, config: DemoConfig) -> np.ndarray:
    """Which promises CFG keeps, or CHATS where there is a pair; bool `(prompts,)`."""
    torch.set_num_threads(1)
    return Sampler(BASE, pair).promises_kept(
        evaluation_specs()[: config.num_prompts],
        method="chats" if pair else "cfg",
        scale=config.scale,
        alpha=config.alpha,
        first_seed=first_seed(seed),
    )


def _minutes(start: float) -> str:
    return f"{(time.monotonic() - start) / 60:.1f} minutes"


if __name__ == "__main__":
    main(tyro.cli(DemoConfig, description=__doc__))
