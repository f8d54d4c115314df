"""One call of a denoiser outside of a pipeline, the same way for every family."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from chats.denoising.families import Family


def call_denoiser(
    denoiser: nn.Module,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    *,
    family: Family,
) -> torch.Tensor:
    """Return what the denoiser predicts, `(B, C, h, w)`.

    Args:
        denoiser: A UNet or transformer of the family.
        latents: z_t, `(B, C, h, w)`.
        timesteps: What the denoiser is told of the noise level, `(B,)`.
        conditions: Its text arguments by name, dotted where nested, each `(B, ...)`.
        family: Knows the arguments that are the same in every call.
    """
    arguments: dict[str, Any] = {name: dict(value) for name, value in family.constants.items()}
    for path, value in conditions.items():
        *parents, last = path.split(".")
        place = arguments
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    output = denoiser(latents, timestep=timesteps, **arguments, return_dict=False)[0]
    # Some denoisers (PixArt) predict a variance behind the noise; no objective here uses it.
    return output[:, : latents.shape[1]]
