"""A step of a LoRA pair: both adapters in one forward, as it is trained, or a forward for each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from benchmarks.speed.device import this_device, wait
from chats.denoising.adapter_rows import adapter_rows
from chats.denoising.calls import call_denoiser
from chats.denoising.families import denoiser_of, family_of
from chats.objective import OBJECTIVES, Prediction
from training.config import ModelSettings, TrainingConfig
from training.data.draws import draw_batch
from training.data.encoded_pairs import encode_preferences
from training.loop.noise import NoiseSchedule
from training.loop.pair_model import PairModel
from training.loop.trainer import load_base
from training.preferences import read_preferences

NAME_WIDTH = 44


def print_forwards(settings: TrainingConfig, *, batch_size: int, rounds: int) -> None:
    """One line for each way to make the predictions of a LoRA pair's step."""
    pipeline = load_base(settings.model.base)
    (dataset,) = encode_preferences(read_preferences(settings.data), pipeline, settings.data)
    device = this_device()
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
    autocast = torch.autocast(device.type, torch.bfloat16, settings.run.mixed_precision == "bf16")

    def step(predict: Callable[[], Mapping[Prediction, Tensor]]) -> None:
        with autocast:
            outputs = predict()
        sum(each.square().mean() for role, each in outputs.items() if _learns(role)).backward()
        model.end_step()
        model.zero_grad()
        wait()

    speeds = measured({name: partial(step, way) for name, way in ways.items()}, rounds)
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
    print(f"{title:{NAME_WIDTH}} pairs/s  ratio  (quartiles)")
    baseline = [1 / each for each in next(iter(seconds.values()))]
    for name, values in seconds.items():
        speeds = [1 / each for each in values]
        low, middle, high = quartiles(speeds, baseline)
        rate = unit * statistics.median(speeds)
        line = f"{name:{NAME_WIDTH}} {rate:7.2f}  {middle:5.2f}  ({low:.2f} to {high:.2f})"
        print(line, flush=True)


def quartiles(speeds: list[float], baseline: list[float]) -> Iterator[float]:
    """Quartiles of the ratios of speeds, round by round."""
    ratios = [speed / base for speed, base in zip(speeds, baseline, strict=True)]
    return iter(statistics.quantiles(ratios, n=4))


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
