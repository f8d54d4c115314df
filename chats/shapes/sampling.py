"""Many Shapes pictures at once, as numbers: what measurements and pair making need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

import chats
from chats.shapes import SHAPES_NUM_STEPS
from chats.shapes.checker import keeps_promise, read
from chats.shapes.world import Spec, caption

BATCH_SIZE = 60
"""Pictures painted together in a measurement; another number changes the last bits of some."""


def first_seed(image_seed: int) -> int:
    """The seed of the first picture of a measurement; that of picture i is i higher."""
    return 1_000_000 * (image_seed + 1)


class Sampler:
    """Paints batches with any method through `chats.guidance`; bfloat16 autocast on the CPU."""

    def __init__(
        self, base: Path, pair: Path | None = None, *, num_steps: int = SHAPES_NUM_STEPS
    ) -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(
            base, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.unet.to(memory_format=torch.channels_last)
        self.pipeline = pipeline
        self.pair = chats.load_pair(pair) if pair else None
        self.num_steps = num_steps

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        method: str,
        scale: float = 0.0,
        alpha: float = 0.0,
        **guidance: Any,
    ) -> np.ndarray:
        """One picture for each prompt and seed, uint8 `(N, H, W, 3)`, in one pipeline call.

        `guidance` holds further settings of `chats.guidance`.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        guided = chats.guidance(
            self.pipeline, self.pair, method=method, scale=scale, alpha=alpha, **guidance
        )
        with guided, torch.autocast("cpu", torch.bfloat16):
            result = self.pipeline(
                list(prompts),
                generator=generators,
                num_inference_steps=self.num_steps,
                output_type="np",
            )
        return (result.images * 255).round().astype(np.uint8)

    def promises_kept(
        self,
        specs: Sequence[Spec],
        *,
        method: str,
        scale: float = 0.0,
        alpha: float = 0.0,
        first_seed: int = 0,
        prompts: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        **guidance: Any,
    ) -> np.ndarray:
        """Whether each promise is kept, bool `(N,)`; picture i has the seed first_seed + i.

        `prompts` are painted instead of the promises' own captions: a chance level.
        """
        prompts = prompts or [caption(spec) for spec in specs]
        kept = []
        for start in range(0, len(specs), batch_size):
            batch = specs[start : start + batch_size]
            seeds = range(first_seed + start, first_seed + start + len(batch))
            pictures = self.sample(
                prompts[start : start + len(batch)],
                list(seeds),
                method=method,
                scale=scale,
                alpha=alpha,
                **guidance,
            )
            kept += [
                keeps_promise(read(image), spec)
                for image, spec in zip(pictures, batch, strict=True)
            ]
        return np.array(kept)
