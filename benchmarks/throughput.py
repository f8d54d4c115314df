"""Throughput of the methods as ratios of one run: `make bench`.

    python -m benchmarks.throughput --rounds 7

The baseline, stock diffusers with its own classifier-free guidance, runs before and after every
contestant in every round, so that whatever else the machine does hits both; a ratio is the median
over rounds, its spread the interquartile range.

CFG makes one forward of 2 rows a picture, a full pair two forwards of 1 row a picture. "CFG's rows"
is a full pair at twice the pictures: its forwards then have as many rows as CFG's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import Field

import chats
from benchmarks.random_pairs import random_full_pair, random_lora_pair
from benchmarks.speed.report import printed_to
from chats.config import FrozenSettings
from chats.shapes import BASE, SHAPES_NUM_STEPS

PROMPT = "a photo of three red stars on a black background"


class BenchConfig(FrozenSettings):
    """What is measured, and how often."""

    rounds: int = Field(7, ge=3)
    """Rounds; in each of them every contestant runs once."""
    num_steps: int = Field(SHAPES_NUM_STEPS, ge=1)
    """Sampling steps on Shapes."""
    batch_size: int = Field(4, ge=1)
    """Pictures per call on Shapes."""
    large_steps: int = Field(4, ge=1)
    """Sampling steps on the random UNet of about 100M parameters, one picture a call."""
    num_threads: int = Field(2, ge=1)
    """CPU threads of torch."""
    write: Path | None = None
    """The page that gets the tables too; none only prints them."""


@dataclass(frozen=True)
class Contestant:
    """One way to paint `num_images` pictures."""

    name: str
    paint: Callable[[], object]
    num_images: int


def main(config: BenchConfig) -> None:
    """Print the table of Shapes, then that of the large random UNet, to the page as well."""
    torch.set_num_threads(config.num_threads)
    with printed_to(config.write, "make bench"):
        print_tables(config)


def print_tables(config: BenchConfig) -> None:
    """Measure and print."""
    size = {"num_steps": config.num_steps, "batch_size": config.batch_size}
    print(f"\nShapes, {config.num_steps} steps, {config.batch_size} pictures a call")
    contestants = [*methods(shapes_pipeline(), **size), *columns(shapes_pipeline(), config)]
    print_ratios(contestants, rounds=config.rounds)
    large = large_pipeline()
    count = sum(parameter.numel() for parameter in large.unet.parameters())
    print(f"\nRandom UNet, {count / 1e6:.0f}M parameters, {config.large_steps} steps, 1 picture")
    print_ratios(methods(large, num_steps=config.large_steps, batch_size=1), rounds=config.rounds)


def methods(
    pipeline: StableDiffusionPipeline, *, num_steps: int, batch_size: int
) -> list[Contestant]:
    """Stock diffusers CFG first: it is the baseline."""
    lora, full = random_lora_pair(pipeline), random_full_pair(pipeline)

    def stock() -> object:
        prompts = [PROMPT] * batch_size
        return pipeline(prompts, num_inference_steps=num_steps, guidance_scale=3.0)

    def guided(
        name: str, method: str, pair: chats.Pair | None = None, num_images: int = batch_size
    ) -> Contestant:
        def paint() -> object:
            with chats.guidance(pipeline, pair, method=method, scale=2.0, alpha=0.5):
                return pipeline([PROMPT] * num_images, num_inference_steps=num_steps)

        return Contestant(name, paint, num_images)

    return [
        Contestant("CFG, stock diffusers", stock, batch_size),
        guided("Standard", "standard"),
        guided("CFG", "cfg"),
        guided("CHATS, LoRA pair", "chats", lora),
        guided("CHATS, full pair", "chats", full),
        guided("CHATS, full pair, CFG's rows", "chats", full, 2 * batch_size),
        guided("CHATS exact (eq. 16), full pair", "chats-exact", full),
    ]


def columns(pipeline: StableDiffusionPipeline, config: BenchConfig) -> list[Contestant]:
    """Standard, CFG and CHATS at one seed: in one call, and in three."""
    pair = random_lora_pair(pipeline)
    names = ["standard", "cfg", "chats"]

    def call(methods: list[str]) -> None:
        with chats.guidance(pipeline, pair, method=methods, scale=2.0, alpha=0.5):
            pipeline([PROMPT] * len(methods), num_inference_steps=config.num_steps)

    return [
        Contestant("three columns in one call", lambda: call(names), 3),
        Contestant("three columns in three calls", lambda: [call([name]) for name in names], 3),
    ]


def print_ratios(contestants: list[Contestant], *, rounds: int) -> None:
    """One line a contestant: pictures per second, and the ratio to the first one."""
    baseline = contestants[0]
    speeds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    ratios: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for contestant in contestants:
        contestant.paint()
    for _ in range(rounds):
        before = measure_speed(baseline)
        for contestant in contestants:
            speed, after = measure_speed(contestant), measure_speed(baseline)
            speeds[contestant.name].append(speed)
            ratios[contestant.name].append(speed / statistics.mean((before, after)))
            before = after
    print(f"{'':34}  img/s   ratio  (quartiles)")
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        speed = statistics.median(speeds[name])
        print(f"{name:34} {speed:6.2f}   {middle:5.2f}  ({low:.2f} to {high:.2f})", flush=True)


def measure_speed(contestant: Contestant) -> float:
    """Pictures per second of one call."""
    start = time.perf_counter()
    contestant.paint()
    return contestant.num_images / (time.perf_counter() - start)


def shapes_pipeline() -> StableDiffusionPipeline:
    """The embedded base in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)
    return _quiet(pipeline)


def large_pipeline() -> StableDiffusionPipeline:
    """Shapes' text encoder and autoencoder around a random UNet of about 100M parameters."""
    shapes = shapes_pipeline()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(160, 320, 480),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=shapes.unet.config.cross_attention_dim,
        attention_head_dim=8,
    ).eval()
    parts = shapes.components | {
        "unet": unet,
        "scheduler": DDIMScheduler.from_config(shapes.scheduler.config),
    }
    return _quiet(StableDiffusionPipeline(**parts, requires_safety_checker=False))


def _quiet(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
