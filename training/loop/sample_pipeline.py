"""The pipeline that makes pictures during a training: stock, but for denoiser and prompts.

Prompts are encoded once, beforehand, so that text encoders need not stay on the device.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from chats.denoising.calls import plain_encoding
from chats.denoising.families import Family, family_of
from chats.denoising.schedulers import build_scheduler
from training.config import SampleSettings
from training.preferences import PreferencePair


@dataclass(frozen=True)
class SamplePrompts:
    """Prompts of the pictures, encoded.

    Attributes:
        prompts: The prompts.
        encoded: For each of them and for "" what the pipeline's `encode_prompt` returned, in main
            memory.
    """

    prompts: tuple[str, ...]
    encoded: Mapping[str, tuple[Any, ...]]

    def rows(self, prompts: Sequence[str], *, family: Family, device: torch.device) -> tuple:
        """Return what `encode_prompt` would return of these prompts."""
        batched = {*family.conditions.values(), *family.masks.values()}
        columns = zip(*(self.encoded[prompt] for prompt in prompts), strict=True)
        parts = (
            torch.cat(column) if place in batched else column[0]
            for place, column in enumerate(columns)
        )
        return tuple(part.to(device) if torch.is_tensor(part) else part for part in parts)


def sample_prompts(
    settings: SampleSettings, pairs: Sequence[PreferencePair], pipeline: DiffusionPipeline
) -> SamplePrompts | None:
    """Choose the prompts of the pictures and encode them; none if no pictures are asked for.

    Args:
        settings: May name the prompts.
        pairs: Whose first prompts are taken if it does not.
        pipeline: Has the text encoders.
    """
    prompts = settings.prompts
    if settings.every == 0:
        return None
    if not prompts:
        prompts = tuple(dict.fromkeys(pair.prompt for pair in pairs))[: settings.num_prompts]
    return encode_samples(prompts, pipeline) if prompts else None


@torch.no_grad()
def encode_samples(prompts: Sequence[str], pipeline: DiffusionPipeline) -> SamplePrompts:
    """Encode prompts with the pipeline's own text encoders, where they are."""
    encoded = {}
    for prompt in ("", *prompts):
        parts = pipeline.encode_prompt(
            prompt=[prompt],
            device=pipeline.text_encoder.device,
            **plain_encoding(pipeline.encode_prompt),
            **family_of(pipeline).encode_arguments,
        )
        encoded[prompt] = tuple(part.cpu() if torch.is_tensor(part) else part for part in parts)
    return SamplePrompts(tuple(prompts), encoded)


def pipeline_around(
    denoiser: nn.Module,
    *,
    stock: DiffusionPipeline,
    prompts: SamplePrompts,
    device: torch.device,
) -> DiffusionPipeline:
    """Return a pipeline like `stock` with this denoiser, which has its prompts encoded already."""
    family, kind = family_of(stock), type(stock)

    class Sampling(kind):
        @property
        def _execution_device(self) -> torch.device:
            return device

        @functools.wraps(kind.encode_prompt)
        def encode_prompt(self, prompt: Sequence[str], *args: Any, **kwargs: Any) -> tuple:
            return prompts.rows(prompt, family=family, device=device)

    pipeline = copy.copy(stock)
    pipeline.__class__ = Sampling
    # Past the pipeline's own __setattr__, which would write to the configuration that they share.
    vars(pipeline).update(
        {
            family.denoiser: denoiser,
            "scheduler": build_scheduler("default", model_scheduler=stock.scheduler),
            "_progress_bar_config": {"disable": True},
        }
    )
    return pipeline
