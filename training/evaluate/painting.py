"""Who makes the pictures: Shapes as its evidence is measured, other models through the manager."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

import chats
from chats.config import GenerationConfig, Row
from chats.denoising.methods import needs_pair
from chats.generation.noise import starting_noise
from chats.generation.painter import plain_options
from chats.models.manager import ModelManager
from chats.shapes import BASE, PAIR, SHAPES_MODEL, SHAPES_NUM_STEPS
from chats.shapes.sampling import Sampler
from training.evaluation_config import Contestant, EvaluateConfig


class Painter(Protocol):
    """Makes pictures of several prompts by one method."""

    def paint(
        self, contestant: Contestant, prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """One picture for each prompt and seed, in one call of the pipeline."""


class AnyPainter:
    """Gives every method to the painter of its model; nothing is loaded before it is needed."""

    def __init__(self, config: EvaluateConfig, *, device: str | None) -> None:
        self._is_plain = config.size_px is None and config.scheduler == "default"
        self._config = config
        self._shapes = ShapesPainter(config)
        self._others = ModelPainter(config, device=device)

    def paint(
        self, contestant: Contestant, prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """See `Painter`."""
        model = contestant.model or self._config.model
        is_shapes = model == SHAPES_MODEL and self._is_plain
        return (self._shapes if is_shapes else self._others).paint(contestant, prompts, seeds)


class ShapesPainter:
    """Bit for bit the pictures of docs/evidence.md: on the CPU, in bfloat16."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config
        self._samplers: dict[str | None, Sampler] = {}

    def paint(
        self, contestant: Contestant, prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """See `Painter`."""
        pair = None
        if needs_pair(contestant.method):
            pair = contestant.pair or self._config.pair or str(PAIR)
        if pair not in self._samplers:
            steps = self._config.num_steps or SHAPES_NUM_STEPS
            self._samplers[pair] = Sampler(BASE, Path(pair) if pair else None, num_steps=steps)
        pictures = self._samplers[pair].sample(
            prompts,
            seeds,
            method=contestant.method,
            scale=contestant.scale,
            alpha=contestant.alpha,
        )
        return [Image.fromarray(each) for each in pictures]


class ModelPainter:
    """Any model that the manager knows, on this process's device."""

    def __init__(self, config: EvaluateConfig, *, device: str | None) -> None:
        self._config = config
        self._manager = ModelManager(device=device)

    def paint(
        self, contestant: Contestant, prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """See `Painter`."""
        config, manager = self._config, self._manager
        pair = contestant.pair or config.pair
        model = contestant.model or config.model
        with manager.lease(model, pair, scheduler=config.scheduler) as lease:
            pipeline = lease.pipeline
            size_px = config.size_px or lease.default_size_px
            size = {"width": size_px, "height": size_px}
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            noise = starting_noise(pipeline, generators, **size)
            guided = chats.guidance(
                pipeline,
                lease.pair if needs_pair(contestant.method) else None,
                method=contestant.method,
                scale=contestant.scale,
                alpha=contestant.alpha,
            )
            with guided:
                return pipeline(
                    list(prompts),
                    num_inference_steps=config.num_steps or lease.default_num_steps,
                    generator=generators,
                    latents=noise.to(manager.device, manager.dtype),
                    **size,
                    **plain_options(pipeline),
                ).images


def settings_of(
    config: EvaluateConfig, contestant: Contestant, *, prompt: str, seed: int, size_px: int
) -> GenerationConfig:
    """What a picture's file says of itself."""
    row = Row(method=contestant.method, scale=contestant.scale, alpha=contestant.alpha, seed=seed)
    return GenerationConfig(
        prompt=prompt,
        rows=(row,),
        num_steps=config.num_steps,
        width=size_px,
        height=size_px,
        scheduler=config.scheduler,
        model=contestant.model or config.model,
        pair=contestant.pair or config.pair,
    )
