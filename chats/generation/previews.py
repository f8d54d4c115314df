"""Pictures of latents that are still noisy, cheap enough to make one at every step."""

from typing import Any

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline
from PIL import Image
from torch.nn import functional

from chats.denoising.families import family_of
from chats.denoising.packing import unpack

_MAX_SIDE_PX = 256  # a larger picture is previewed smaller: 1/16 of the cost at 1024 px
_MAX_SIDE_TINY_PX = 512  # by a tiny autoencoder, which costs far less


@torch.no_grad()
def preview_images(
    pipeline: DiffusionPipeline,
    latents: torch.Tensor,
    *,
    width: int,
    height: int,
    decoder: AutoencoderTiny | None = None,
) -> tuple[Image.Image, ...]:
    """Decode current latents `(B, C, h, w)` or packed into one small picture each.

    Latents of samplers that let the noise grow with σ are first brought back to the size of data.
    Returns nothing for an autoencoder that overflows in float16, which pipelines decode in float32.

    Args:
        pipeline: whose latents they are.
        latents: as the pipeline tells them to its callback.
        width: of the whole picture, in pixels.
        height: of the whole picture, in pixels.
        decoder: a tiny autoencoder to decode with; none takes the pipeline's own.
    """
    vae = pipeline.vae
    if decoder is None and vae.dtype == torch.float16 and vae.config.get("force_upcast"):
        return ()
    factor = pipeline.vae_scale_factor
    if family_of(pipeline).packed:
        latents = unpack(latents, height=height // factor, width=width // factor)
    latents = latents.float()
    latents = latents / latents.std(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    max_side = _MAX_SIDE_PX if decoder is None else _MAX_SIDE_TINY_PX
    shrink = max_side / (factor * max(latents.shape[-2:]))
    if shrink < 1:
        latents = functional.interpolate(latents, scale_factor=shrink, mode="area")
    if decoder is None:
        decoded = _decode(vae, latents).float()
    else:
        decoded = decoder.decode(latents.to(decoder.dtype), return_dict=False)[0].float()
    return tuple(pipeline.image_processor.postprocess(decoded, output_type="pil"))


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    if vae.config.get("latents_mean") is None:
        scaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        return vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    # Qwen-Image's autoencoder is one for videos: a picture is their first frame.
    mean, std = (
        latents.new_tensor(vae.config[name]).view(1, -1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    frames = (latents * std + mean).unsqueeze(2).to(vae.dtype)
    return vae.decode(frames, return_dict=False)[0][:, :, 0]
