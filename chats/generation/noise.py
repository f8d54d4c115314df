"""The noise that pictures start from, the same on every machine."""

from collections.abc import Sequence
from typing import Any

import torch

from chats.denoising.families import denoiser_of, family_of
from chats.denoising.packing import pack
from chats.denoising.sizes import latent_channels


def starting_noise(
    pipeline: Any, generators: Sequence[torch.Generator], *, width: int, height: int
) -> torch.Tensor:
    """Draw in float32 on the CPU, so that a seed means the same noise everywhere.

    Args:
        pipeline: a text-to-image pipeline of a known family.
        generators: one for each picture.
        width: of the pictures in pixels.
        height: of the pictures in pixels.

    Returns:
        Latents as the pipeline takes them: `(B, C, h, w)`, packed where its family packs them.
    """
    family = family_of(pipeline)
    channels = latent_channels(denoiser_of(pipeline).config, family)
    factor = pipeline.vae_scale_factor
    shape = (1, channels, height // factor, width // factor)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    return pack(noise) if family.packed else noise
