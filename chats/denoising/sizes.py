"""Pixels, latents and tokens of the pictures that a denoiser makes. Torch-free."""

import math
from collections.abc import Mapping
from typing import Any

from chats.denoising.families import denoiser_of, family_of
from chats.denoising.family import Family


def default_size_px(pipe: Any) -> int:
    """Return the width and height that the pipeline makes when none is asked for, in pixels."""
    return default_side(denoiser_of(pipe).config, family_of(pipe)) * pipe.vae_scale_factor


def default_side(config: Mapping[str, Any], family: Family) -> int:
    """Return the same in latents per side.

    Args:
        config: the denoiser's.
        family: the denoiser's.
    """
    size = family.default_side or config["sample_size"]
    return size if isinstance(size, int) else size[0]


def patch_size(config: Mapping[str, Any], family: Family) -> int:
    """Return how many latents a side of one of the denoiser's tokens covers."""
    return family.patch_size or config.get("patch_size") or 1


def token_size_px(pipe: Any) -> int:
    """Return how many pixels a side of one of the denoiser's tokens covers."""
    return pipe.vae_scale_factor * patch_size(denoiser_of(pipe).config, family_of(pipe))


def num_tokens(latent_shape: tuple[int, ...], config: Mapping[str, Any], family: Family) -> int:
    """Return how many tokens a picture has whose latents are `(C, h, w)`."""
    _, height, width = latent_shape
    return height * width // patch_size(config, family) ** 2


def size_factor_px(pipe: Any) -> int:
    """Return what width and height must be divisible by, in pixels.

    A picture is whole tokens, and the stock pipelines refuse what 8 does not divide.
    """
    return math.lcm(8, token_size_px(pipe))


def latent_channels(config: Mapping[str, Any], family: Family) -> int:
    """Return the number of channels of the latents that a denoiser takes, not yet packed."""
    return config["in_channels"] // (4 if family.packed else 1)
