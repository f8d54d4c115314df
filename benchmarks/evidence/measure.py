"""One measurement: a contestant at one scale on one prompt set; results are kept as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.evidence.plan import CONTESTANTS, EvidenceConfig, training_config
from chats.shapes import BASE
from chats.shapes.prompts import evaluation_specs, tuning_specs
from chats.shapes.sampling import Sampler, first_seed
from chats.shapes.world import CATEGORIES, caption
from training.loop.trainer import train

PROMPT_SETS = {"test": evaluation_specs, "tuning": tuning_specs}


@dataclass(frozen=True)
class Measurement:
    """What is measured; its name is the name of its result file."""

    contestant: str
    prompts: str
    scale: float
    alpha: float
    training_seed: int | None
    image_seed: int
    shuffled: bool = False
    """Whether each picture is painted from another prompt of its category: a chance level."""

    @property
    def name(self) -> str:
        """A file name that tells every field."""
        trained = "base" if self.training_seed is None else f"train{self.training_seed}"
        return (
            f"{self.contestant}_{self.prompts}_s{self.scale:g}_a{self.alpha:g}"
            f"_{trained}_image{self.image_seed}{'_shuffled' * self.shuffled}"
        )


def train_once(name: str, seed: int, config: EvidenceConfig) -> float:
    """Train one model of the table unless it is there; returns the seconds it took."""
    torch.set_num_threads(1)
    pair = trained_pair(name, seed, config)
    if (pair / "pair.json").exists():
        return 0.0
    start = time.monotonic()
    pairs = config.workdir / "pairs"
    train(training_config(name, seed=seed, pairs=pairs, output=pair.parent))
    return time.monotonic() - start


def trained_pair(name: str, seed: int, config: EvidenceConfig) -> Path:
    """Where a training of the table leaves its pair."""
    return config.workdir / "models" / f"{name}-{seed}" / "pair"


def measure(measurement: Measurement, config: EvidenceConfig) -> np.ndarray:
    """Which promises were kept, bool `(N,)`; read from the result file where there is one."""
    path = config.workdir / "results" / f"{measurement.name}.json"
    if path.exists():
        return np.array(json.loads(path.read_text()), bool)
    torch.set_num_threads(1)
    contestant = CONTESTANTS[measurement.contestant]
    pair = None
    if contestant.training:
        pair = trained_pair(contestant.training, measurement.training_seed, config)
    specs = PROMPT_SETS[measurement.prompts]()
    prompts = [caption(spec) for spec in specs]
    if measurement.shuffled:  # categories take turns, so the next of a category is a round away
        prompts = [*prompts[len(CATEGORIES) :], *prompts[: len(CATEGORIES)]]
    kept = Sampler(BASE, pair, num_steps=config.num_steps).promises_kept(
        specs,
        method=contestant.method,
        scale=measurement.scale,
        alpha=measurement.alpha,
        first_seed=first_seed(measurement.image_seed),
        prompts=prompts,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(kept.astype(int).tolist()))
    staged.replace(path)
    return kept
