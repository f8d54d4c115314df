"""One call of a pipeline's parts outside of it, the same way for every family."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from chats.denoising.family import Family
from chats.denoising.packing import pack, unpack


def plain_encoding(encode_prompt: Callable) -> dict[str, Any]:
    """Return arguments that have a pipeline's encode_prompt encode each prompt once, no more."""
    known = inspect.signature(encode_prompt).parameters
    plain = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    return {name: value for name, value in plain.items() if name in known}


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
        timesteps: The scheduler's timestep of the noise level, `(B,)`.
        conditions: Its text arguments by name, dotted where nested, each `(B, ...)`.
        family: Knows the arguments that are the same in every call.
    """
    time_argument, told = family.timestep
    arguments: dict[str, Any] = {name: dict(value) for name, value in family.constants.items()}
    arguments[time_argument] = told(timesteps, denoiser.config)
    for path, value in conditions.items():
        *parents, last = path.split(".")
        place = arguments
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    if not family.packed:
        output = denoiser(latents, **arguments, return_dict=False)[0]
        # Some denoisers (PixArt) predict a variance behind the noise; no objective here uses it.
        return output[:, : latents.shape[1]]
    height, width = latents.shape[2:]
    arguments |= _places(latents, num_tokens=arguments["encoder_hidden_states"].shape[1])
    if denoiser.config.get("guidance_embeds"):
        (guidance,) = family.embedded_guidance.values()
        arguments["guidance"] = latents.new_full((len(latents),), guidance)
    output = denoiser(pack(latents), **arguments, return_dict=False)[0]
    return unpack(output, height=height, width=width)


def _places(latents: torch.Tensor, *, num_tokens: int) -> dict[str, torch.Tensor]:
    """Return Flux's position ids: (0, row, column) of each token of the picture, 0 of the text."""
    height, width = latents.shape[2] // 2, latents.shape[3] // 2
    picture = latents.new_zeros(height, width, 3)
    picture[..., 1] += torch.arange(height, device=latents.device)[:, None]
    picture[..., 2] += torch.arange(width, device=latents.device)[None]
    return {"img_ids": picture.flatten(0, 1), "txt_ids": latents.new_zeros(num_tokens, 3)}
