"""Speed of training as ratios of one run: `make bench-train`.

    python -m benchmarks.training
    python -m benchmarks.training --base FOLDER --resolution 1024

The first table times one step's forwards and backward of a LoRA pair: both adapters in one forward,
as it is trained, against a forward for each prediction. The second trains: encoded in the loop,
ahead, and read from a cache, the reference's errors with it; and with gradient checkpointing. What
comes before the first step counts only in the last column. Within a round all contestants take
turns; a ratio is the median over rounds, its spread the quartiles.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import torch
import tyro
from diffusers import DiffusionPipeline
from pydantic import Field
from torch import Tensor

from chats.config import FrozenSettings
from chats.denoising.adapter_rows import adapter_rows
from chats.denoising.calls import call_denoiser
from chats.denoising.families import denoiser_of, family_of
from chats.objective import OBJECTIVES, Prediction
from chats.shapes.pairs import PairsConfig, make_pairs, write_pairs
from training.config import ModelSettings, TrainingConfig
from training.data.draws import draw_batch
from training.data.encoded_pairs import encode_preferences
from training.loop.noise import NoiseSchedule
from training.loop.pair_model import PairModel
from training.loop.state import TrainingState
from training.loop.trainer import load_base, train
from training.preferences import read_preferences

_NAME_WIDTH = 44


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
    batch_size: int = Field(4, ge=1)
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


def main(config: BenchConfig) -> None:
    """Print both tables."""
    torch.set_num_threads(config.num_threads)
    with tempfile.TemporaryDirectory(prefix="chats-bench-") as folder:
        pairs = Path(folder) / "pairs"
        write_pairs(make_pairs(PairsConfig(source="rendered", num_prompts=config.num_pairs)), pairs)
        print(f"{config.base}, {config.mixed_precision}, {config.num_threads} threads")
        print("\nA step of a LoRA pair, one forward against separate ones")
        for batch_size in config.batch_sizes:
            print_forwards(config, pairs, batch_size=batch_size)
        for kind in config.kinds:
            print(f"\nTrainings of a {kind} pair, {config.batch_size} pairs a step")
            print_trainings(config, pairs, kind=kind, folder=Path(folder))


def print_forwards(config: BenchConfig, pairs: Path, *, batch_size: int) -> None:
    """One line for each way to make a step's predictions."""
    pipeline = load_base(config.base)
    settings = _training_config(config, pairs, kind="lora", output=pairs / "unused")
    (dataset,) = encode_preferences(read_preferences(settings.data), pipeline, settings.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _pair_model(pipeline).to(device)
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler)
    batch = draw_batch(
        dataset,
        range(batch_size),
        seed=0,
        level_at=lambda uniform: schedule.level_at(uniform, settings.noise),
        prompt_drop=0.0,
        dispreferred_prompt_drop=0.5,
    ).to(device)
    inputs = (batch.latents, schedule.to(device).timesteps[batch.levels], batch.conditions)
    ways = {
        "separate forwards": partial(separate_forwards, model, *inputs),
        "adapters in one forward": partial(model, *inputs),
    }
    autocast = torch.autocast(device.type, torch.bfloat16, config.mixed_precision == "bf16")

    def step(predict: Callable[[], Mapping[Prediction, Tensor]]) -> None:
        with autocast:
            outputs = predict()
        sum(each.square().mean() for role, each in outputs.items() if _learns(role)).backward()
        model.end_step()
        model.zero_grad()
        _wait(device)

    speeds = measured({name: partial(step, way) for name, way in ways.items()}, config.rounds)
    print_ratios(speeds, unit=batch_size, title=f"batch {batch_size}")


def separate_forwards(
    model: PairModel, latents: Mapping, timesteps: Tensor, conditions: Mapping
) -> dict[Prediction, Tensor]:
    """Make each prediction of a LoRA pair in a forward of its own."""
    denoiser = model.denoisers["reference"]
    outputs = {}
    for each in model.predictions:
        role = "__base__" if each.model == "reference" else each.model
        with torch.set_grad_enabled(_learns(each)), adapter_rows(denoiser, [role] * len(timesteps)):
            outputs[each] = call_denoiser(
                denoiser,
                latents[each.half],
                timesteps,
                conditions[each.condition],
                family=model.family,
            )
    return outputs


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
    print(f"{'':{_NAME_WIDTH}} pairs/s  ratio  (quartiles)     waits  memory   save   in all")
    for name, runs in found.items():
        speeds = [each["pairs_per_second"] for each in runs]
        low, middle, high = _quartiles(speeds, baseline)
        median = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        wait = median["data_wait_seconds"] * median["pairs_per_second"] / config.batch_size
        print(
            f"{name:{_NAME_WIDTH}} {median['pairs_per_second']:7.2f}  {middle:5.2f}  "
            f"({low:.2f} to {high:.2f})  {wait:6.1%}  {median['memory_gb']:4.1f} GB "
            f"{median['save_seconds']:5.2f} s {median['seconds']:6.1f} s",
            flush=True,
        )


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


def measured(contestants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def print_ratios(seconds: Mapping[str, list[float]], *, unit: int, title: str) -> None:
    """Pairs per second and the ratio to the first contestant."""
    print(f"{title:{_NAME_WIDTH}} pairs/s  ratio  (quartiles)")
    baseline = [1 / each for each in next(iter(seconds.values()))]
    for name, values in seconds.items():
        speeds = [1 / each for each in values]
        low, middle, high = _quartiles(speeds, baseline)
        rate = unit * statistics.median(speeds)
        line = f"{name:{_NAME_WIDTH}} {rate:7.2f}  {middle:5.2f}  ({low:.2f} to {high:.2f})"
        print(line, flush=True)


def _quartiles(speeds: list[float], baseline: list[float]) -> Iterator[float]:
    ratios = [speed / base for speed, base in zip(speeds, baseline, strict=True)]
    return iter(statistics.quantiles(ratios, n=4))


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


def _pair_model(pipeline: DiffusionPipeline) -> PairModel:
    return PairModel(
        denoiser_of(pipeline),
        objective=OBJECTIVES["chats"],
        settings=ModelSettings(rank=32, lora_alpha=32),
        family=family_of(pipeline),
        seed=0,
    )


def _learns(prediction: Prediction) -> bool:
    return prediction.model != "reference"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(tyro.cli(BenchConfig, description=__doc__))
