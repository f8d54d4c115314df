"""Speed of training as ratios of one run: `make bench-train`.

    python -m benchmarks.training
    python -m benchmarks.training --base FOLDER --resolution 1024

The first table times one step's forwards and backward of a LoRA pair: both adapters in one forward,
as it is trained, against a forward for each prediction. The second trains: encoded in the loop,
ahead, and read from a cache, the reference's errors with it; and with gradient checkpointing. What
comes before the first step counts only in the last column. The third compares steps with a
re-creation of the released settings, see `benchmarks.speed`. Within a round all contestants take
turns; a ratio is the median over rounds, its spread the quartiles.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import torch
import tyro
from pydantic import Field

from benchmarks.speed.report import printed_to, table, title
from benchmarks.speed.trained import StepSettings
from benchmarks.speed.training import measure_training
from benchmarks.speed.turns import Clock
from benchmarks.training_forwards import NAME_WIDTH, print_forwards, quartiles
from chats.config import FrozenSettings
from chats.shapes.pairs import PairsConfig, make_pairs, write_pairs
from training.config import TrainingConfig
from training.loop.state import TrainingState
from training.loop.trainer import train

_STEP_SECONDS = 2.0


class BenchConfig(FrozenSettings):
    """What is measured, and how often."""

    base: str = "shapes"
    """The base model: `shapes`, a folder, or a Hub id."""
    resolution: int | None = Field(None, ge=8)
    """Side of the pictures in pixels; none means the model's own."""
    kinds: tuple[Literal["lora", "full"], ...] = ("lora", "full")
    """Kinds of pair."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Batch sizes of the first table."""
    batch_size: int = Field(16, ge=1)
    """Pairs in a step of the second table."""
    num_steps: int = Field(12, ge=2)
    """Optimizer steps of each training."""
    num_pairs: int = Field(64, ge=8)
    """Pairs of the data set."""
    rounds: int = Field(5, ge=3)
    """Rounds; in each of them every contestant runs once."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    """Number format of the forwards."""
    num_threads: int = Field(2, ge=1)
    """CPU threads of torch."""
    write: Path | None = None
    """The page that gets the tables too; none only prints them."""


def main(config: BenchConfig) -> None:
    """Print the tables, to the page as well."""
    torch.set_num_threads(config.num_threads)
    with printed_to(config.write, "make bench-train"):
        print_tables(config)


def print_tables(config: BenchConfig) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="chats-bench-") as folder:
        pairs = Path(folder) / "pairs"
        write_pairs(make_pairs(PairsConfig(source="rendered", num_prompts=config.num_pairs)), pairs)
        print(f"{config.base}, {config.mixed_precision}, {config.num_threads} threads")
        print("\nA step of a LoRA pair, one forward against separate ones")
        for batch_size in config.batch_sizes:
            settings = _training_config(config, pairs, kind="lora", output=pairs / "unused")
            print_forwards(settings, batch_size=batch_size, rounds=config.rounds)
        for kind in config.kinds:
            print(f"\nTrainings of a {kind} pair, {config.batch_size} pairs a step")
            print_trainings(config, pairs, kind=kind, folder=Path(folder))
            print_steps(config, kind=kind, folder=Path(folder))


def print_trainings(config: BenchConfig, pairs: Path, *, kind: str, folder: Path) -> None:
    """One line for each way to get at the data and to spend memory; the first is the baseline."""
    cache = folder / "cache"
    ways = {
        "encoded in the loop": {"data": {"encode": "online"}},
        "encoded ahead": {},
        "from the cache": {"data": {"cache": cache}},
        "from the cache, the reference's errors too": {
            "data": {"cache": cache},
            "objective": {"cache_reference": True},
        },
        "from the cache, gradient checkpointing": {
            "data": {"cache": cache},
            "optimizer": {"gradient_checkpointing": True},
        },
    }
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in ways}
    for number in range(config.rounds):
        for name, changes in ways.items():
            output = folder / f"{kind}-{number}-{name.replace(' ', '-')}"
            settings = _training_config(config, pairs, kind=kind, output=output, changes=changes)
            found[name].append(measured_training(settings))
    baseline = [each["pairs_per_second"] for each in found["encoded in the loop"]]
    print(f"{'':{NAME_WIDTH}} pairs/s  ratio  (quartiles)     waits  memory   save   in all")
    for name, runs in found.items():
        speeds = [each["pairs_per_second"] for each in runs]
        low, middle, high = quartiles(speeds, baseline)
        median = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        wait = median["data_wait_seconds"] * median["pairs_per_second"] / config.batch_size
        print(
            f"{name:{NAME_WIDTH}} {median['pairs_per_second']:7.2f}  {middle:5.2f}  "
            f"({low:.2f} to {high:.2f})  {wait:6.1%}  {median['memory_gb']:4.1f} GB "
            f"{median['save_seconds']:5.2f} s {median['seconds']:6.1f} s",
            flush=True,
        )


def print_steps(config: BenchConfig, *, kind: Literal["lora", "full"], folder: Path) -> None:
    """One line for each way to make a step, the first as the released script does."""
    settings = StepSettings(
        base=config.base,
        resolution=config.resolution,
        mixed_precision=config.mixed_precision,
        pairs_per_step=16,
        seconds=_STEP_SECONDS,
        num_pairs=config.num_pairs,
    )
    found = measure_training(
        settings,
        kind=kind,
        batch_sizes=(config.batch_size,),
        rounds=config.rounds,
        path=folder / f"{kind}.json",
        clock=Clock(math.inf),
    )
    print("\n".join(["", title(found), *table(found)]), flush=True)


def measured_training(settings: TrainingConfig) -> dict[str, float]:
    """Train; return its last line of metrics, the seconds of a checkpoint, and those of all."""
    saves: list[float] = []
    save = TrainingState.save

    def timed_save(*arguments: object, **named: object) -> None:
        start = time.perf_counter()
        save(*arguments, **named)
        saves.append(time.perf_counter() - start)

    start = time.perf_counter()
    with patch.object(TrainingState, "save", timed_save):
        metrics = train(settings).metrics
    seconds = time.perf_counter() - start
    return {**metrics, "save_seconds": statistics.mean(saves), "seconds": seconds}


def _training_config(
    config: BenchConfig, pairs: Path, *, kind: str, output: Path, changes: Mapping | None = None
) -> TrainingConfig:
    settings = {
        "model": {"base": config.base, "kind": kind, "rank": 32, "lora_alpha": 32},
        "data": {"path": pairs, "resolution": config.resolution},
        "optimizer": {"num_steps": config.num_steps, "batch_size": config.batch_size},
        "samples": {"every": 0},
        "run": {
            "output": output,
            "mixed_precision": config.mixed_precision,
            "log_every": config.num_steps,
            "save_every": config.num_steps // 2,
        },
    }
    for group, values in (changes or {}).items():
        settings[group] = settings.get(group, {}) | values
    return TrainingConfig.model_validate(settings)


if __name__ == "__main__":
    main(tyro.cli(BenchConfig, description=__doc__))
