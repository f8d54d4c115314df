"""Throughput of the methods as ratios of one run: `make bench`.

    python -m benchmarks.throughput --rounds 7

The baseline, stock diffusers with its own classifier-free guidance, runs before and after every
contestant in every round, so that whatever else the machine does hits both; a ratio is the median
over rounds, its spread the interquartile range.

The levers that make sampling cheaper, or change its guidance, come with what they do to quality on
Shapes: the share of promises that the checker finds kept, and its paired difference to CFG.

CFG makes one forward of 2 rows a picture, a full pair two forwards of 1 row a picture. "CFG's rows"
is a full pair at twice the pictures: its forwards then have as many rows as CFG's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import Field

import chats
from benchmarks.levers import CHATS, LEVERS, quality, quality_notes
from benchmarks.random_pairs import random_full_pair, random_lora_pair
from benchmarks.speed.report import printed_to
from chats.config import FrozenSettings, GenerationConfig, Shaping
from chats.generation.generate import generate
from chats.models.manager import ModelManager
from chats.shapes import BASE, PAIR, SHAPES_NUM_STEPS

PROMPT = "a photo of three red stars on a black background"


class BenchConfig(FrozenSettings):
    """What is measured, and how often."""

    rounds: int = Field(7, ge=3)
    """Rounds; in each of them every contestant runs once."""
    num_steps: int = Field(SHAPES_NUM_STEPS, ge=1)
    """Sampling steps on Shapes."""
    batch_size: int = Field(4, ge=1)
    """Pictures per call on Shapes."""
    large_steps: int = Field(5, ge=1)
    """Sampling steps on the random UNet of about 100M parameters, one picture a call."""
    num_threads: int = Field(2, ge=1)
    """CPU threads of torch."""
    quality_prompts: int = Field(300, ge=0, le=600)
    """Test prompts painted for the quality beside each lever; 0 leaves quality out."""
    with_compiled: bool = True
    """Whether compiled blocks are measured, which takes a minute to compile."""
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
    print_levers(config)
    print_second_request(config)
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
        name: str,
        method: str,
        pair: chats.Pair | None = None,
        num_images: int = batch_size,
        **settings: Any,
    ) -> Contestant:
        def paint() -> object:
            with chats.guidance(pipeline, pair, method=method, scale=2.0, alpha=0.5, **settings):
                return pipeline([PROMPT] * num_images, num_inference_steps=num_steps)

        return Contestant(name, paint, num_images)

    return [
        Contestant("CFG, stock diffusers", stock, batch_size),
        guided("Standard", "standard"),
        guided("CFG", "cfg"),
        guided("CHATS, LoRA pair", "chats", lora),
        guided("CHATS, LoRA, from 0 to 0.6", "chats", lora, interval=(0.0, 0.6)),
        guided("CHATS, LoRA, every 2", "chats", lora, shaping=Shaping(refresh_every=2)),
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


def print_levers(config: BenchConfig) -> None:
    """Measure each lever's speed against stock CFG, and its quality beside it."""
    scores = {}
    print(f"\nLevers on Shapes, {config.num_steps} steps, {config.batch_size} pictures a call")
    if config.quality_prompts:
        scores = quality(num_prompts=config.quality_prompts, num_steps=config.num_steps)
        print(
            f"Promises kept in percent, ± a standard error: {config.quality_prompts} test prompts"
        )
    contestants = lever_contestants(shapes_pipeline(), config)
    print_ratios(contestants, rounds=config.rounds, notes=quality_notes(scores))


def lever_contestants(pipeline: StableDiffusionPipeline, config: BenchConfig) -> list[Contestant]:
    """Stock CFG, then every lever; compiled blocks are those of a pipeline of their own."""
    pair = chats.load_pair(PAIR)
    prompts = [PROMPT] * config.batch_size

    def contestant(
        name: str, settings: Mapping[str, Any], pipeline: StableDiffusionPipeline
    ) -> Contestant:
        def paint() -> object:
            with chats.guidance(pipeline, pair, **settings):
                return pipeline(prompts, num_inference_steps=config.num_steps)

        return Contestant(name, paint, config.batch_size)

    def stock() -> object:
        return pipeline(prompts, num_inference_steps=config.num_steps, guidance_scale=3.0)

    found = [
        Contestant("CFG, stock diffusers", stock, config.batch_size),
        *(contestant(name, settings, pipeline) for name, settings in LEVERS.items()),
    ]
    if config.with_compiled:
        compiled = shapes_pipeline()
        compiled.unet.compile_repeated_blocks()
        found += [
            contestant(f"{name}, compiled", LEVERS[name], compiled) for name in ("CFG", CHATS)
        ]
    return found


def print_second_request(config: BenchConfig) -> None:
    """Tell the seconds of a first request, which loads the model, and of the next one."""
    manager = ModelManager(device="cpu")
    request = GenerationConfig(prompt=PROMPT, num_steps=config.num_steps, preview_every=0)
    first, second = (list(generate(manager, request))[-1].seconds for _ in range(2))
    print(f"\nOne picture by request: {first:.2f} s with loading, then {second:.2f} s")


def print_ratios(
    contestants: list[Contestant], *, rounds: int, notes: Mapping[str, str] | None = None
) -> None:
    """One line a contestant: pictures per second, the ratio to the first one, and its note."""
    notes = notes or {}
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
        line = f"{name:34} {speed:6.2f}   {middle:5.2f}  ({low:.2f} to {high:.2f})"
        print(f"{line}   {notes.get(name, '')}".rstrip(), flush=True)


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
