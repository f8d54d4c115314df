"""Pictures of latents that are still noisy, cheap enough to make one at every step."""

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch.nn import functional

_MAX_SIDE = 32  # latents; a larger picture is previewed smaller: 1/16 of the cost at 1024 px


@torch.no_grad()
def preview_images(pipeline: DiffusionPipeline, latents: torch.Tensor) -> tuple[Image.Image, ...]:
    """Decode current latents `(B, C, h, w)` into one small picture each.

    Latents of samplers that let the noise grow with σ are first brought back to the size of data.
    Returns nothing for an autoencoder that overflows in float16, which pipelines decode in float32.
    """
    vae = pipeline.vae
    if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
        return ()
    latents = latents.float()
    latents = latents / latents.std(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    shrink = _MAX_SIDE / max(latents.shape[-2:])
    if shrink < 1:
        latents = functional.interpolate(latents, scale_factor=shrink, mode="area")
    scaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
    decoded = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    return tuple(pipeline.image_processor.postprocess(decoded.float(), output_type="pil"))
