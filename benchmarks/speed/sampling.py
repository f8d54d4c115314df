"""The stage that samples: every method against stock diffusers with its own guidance.

The full pair under CHATS makes two forwards of a row a picture where CFG makes one of two; the LoRA
pair's rows share one forward, as CFG's do. Compiled blocks are measured where diffusers says which
blocks of a denoiser are repeated.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import chats
from benchmarks.random_pairs import random_full_pair, random_lora_pair
from benchmarks.speed.device import begin_memory, memory_gb, place, this_device, wait
from benchmarks.speed.turns import Clock, Contestant, Turn, take_turns
from chats.config import Shaping
from chats.denoising.families import denoiser_of
from chats.models.loading import load_model, resolve_model
from chats.pairs.pair import Pair

PAPER = {1: 0.89, 4: 0.97}
"""CHATS against CFG in the paper's Table 6 (SDXL, A100, bf16, 50 steps), by batch size."""

FULL, LORA = "CHATS, full pair", "CHATS, LoRA pair"
_INTERVAL = (0.2, 0.8)
_PROMPT = "a photo of three red stars on a black background"


@dataclass(frozen=True)
class SamplingSettings:
    """What is measured.

    Attributes:
        base: The model: `shapes`, a folder, or a Hub id.
        resolution: Width and height in pixels; none means the model's own.
        dtype: Number format.
        num_steps: Sampling steps.
        batch_size: Pictures per call.
        compiled: Whether CFG and CHATS are measured with compiled blocks too.
    """

    base: str
    resolution: int | None
    dtype: Literal["bfloat16", "float32"]
    num_steps: int
    batch_size: int
    compiled: bool = False


def measure_sampling(
    settings: SamplingSettings,
    *,
    rounds: int,
    path: Path,
    clock: Clock,
    make_base: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure, or go on measuring; return what the file of results holds.

    `make_base` is called before the model is read, where anything is left to measure.

    Raises:
        OutOfTime: The file is not complete yet.
    """

    def contestants() -> list[Contestant]:
        make_base()
        return _contestants(settings)

    return take_turns(
        contestants,
        path=path,
        settings=vars(settings),
        rounds=rounds,
        clock=clock,
    )


def _contestants(settings: SamplingSettings) -> list[Contestant]:
    dtype = getattr(torch, settings.dtype)
    folder = resolve_model(settings.base)
    pipeline = load_model(folder, device=this_device(), dtype=dtype).pipeline
    pipeline.set_progress_bar_config(disable=True)
    denoiser_of(pipeline).to("cpu")
    lora, full = random_lora_pair(pipeline), random_full_pair(pipeline)
    own = denoiser_of(pipeline)
    halves = list(full.halves().values())
    movable = [own, *halves]

    def stock() -> Any:
        return _call(pipeline, settings, guidance_scale=6.0)

    def guided(method: str, pair: Pair | None = None, **more: Any) -> Callable[[], Any]:
        def paint() -> Any:
            with chats.guidance(pipeline, pair, method=method, **more):
                return _call(pipeline, settings)

        return paint

    def with_blocks_compiled(paint: Callable[[], Any]) -> Callable[[], Any]:
        def compiled_paint() -> Any:
            with compiled.switched_on():
                return paint()

        return compiled_paint

    compiled = _CompiledBlocks(own)
    start, end = _INTERVAL
    paints: Mapping[str, tuple[Callable[[], Any], Sequence[nn.Module]]] = {
        "CFG, diffusers' own": (stock, [own]),
        "Standard (no guidance)": (guided("standard"), [own]),
        "CFG": (guided("cfg"), [own]),
        LORA: (guided("chats", lora), [own]),
        f"{LORA}, guided from {start} to {end}": (guided("chats", lora, interval=_INTERVAL), [own]),
        f"{LORA}, new difference every 2": (
            guided("chats", lora, shaping=Shaping(refresh_every=2)),
            [own],
        ),
        FULL: (guided("chats", full), movable),
        f"{FULL}, guided from {start} to {end}": (
            guided("chats", full, interval=_INTERVAL),
            movable,
        ),
    }
    if settings.compiled and own._repeated_blocks:
        paints = {
            **paints,
            "CFG, compiled blocks": (with_blocks_compiled(guided("cfg")), [own]),
            f"{LORA}, compiled blocks": (with_blocks_compiled(guided("chats", lora)), [own]),
        }
    return [
        _contestant(name, paint, settings, needed=needed, movable=movable)
        for name, (paint, needed) in paints.items()
    ]


class _CompiledBlocks:
    """A denoiser whose repeated blocks are compiled, or not, as a turn wants it."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser
        self._compiled: dict[nn.Module, Any] = {}

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[None]:
        if not self._compiled:
            self._denoiser.compile_repeated_blocks()
            blocks = self._denoiser.modules()
            self._compiled = {
                block: block._compiled_call_impl for block in blocks if block._compiled_call_impl
            }
        for block, call in self._compiled.items():
            block._compiled_call_impl = call
        try:
            yield
        finally:
            for block in self._compiled:
                block._compiled_call_impl = None


def _contestant(
    name: str,
    paint: Callable[[], Any],
    settings: SamplingSettings,
    *,
    needed: Sequence[nn.Module],
    movable: Sequence[nn.Module],
) -> Contestant:
    def prepare() -> Mapping[str, float]:
        place(needed, movable, this_device())
        pictures = paint()
        if not torch.isfinite(pictures).all():
            raise FloatingPointError("pictures that are not finite")
        return {}

    def take() -> Turn:
        place(needed, movable, this_device())
        begin_memory()
        wait()
        start = time.perf_counter()
        paint()
        wait()
        seconds = time.perf_counter() - start
        return Turn(speed=settings.batch_size / seconds, memory_gb=memory_gb())

    return Contestant(name, prepare, take)


def _call(pipeline: Any, settings: SamplingSettings, **more: Any) -> torch.Tensor:
    return pipeline(
        [_PROMPT] * settings.batch_size,
        num_inference_steps=settings.num_steps,
        height=settings.resolution,
        width=settings.resolution,
        output_type="pt",
        **more,
    ).images
