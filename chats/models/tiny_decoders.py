"""Tiny autoencoders for previews (TAESD), used where they are on this machine; never fetched."""

import logging

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline

from chats.errors import UserError
from chats.pairs import hub
from chats.pairs.weight_files import check_weight_file

logger = logging.getLogger("chats")

_REPOSITORIES = {
    0.18215: "madebyollin/taesd",
    0.13025: "madebyollin/taesdxl",
    1.5305: "madebyollin/taesd3",
    0.3611: "madebyollin/taef1",
}
"""Scaling factor of an autoencoder, which tells whose latents they are -> its tiny twin."""

_PUBLISHED_FACTOR_PX = 8
_WEIGHTS = "diffusion_pytorch_model.safetensors"


def tiny_decoder(
    pipeline: DiffusionPipeline, *, device: torch.device, dtype: torch.dtype
) -> AutoencoderTiny | None:
    """Return the tiny autoencoder of a pipeline's latents; none where it is not on this machine.

    Its decoder takes the latents as the denoiser has them, and costs a fraction of the model's own.
    """
    config = pipeline.vae.config
    name = _REPOSITORIES.get(config.get("scaling_factor"))
    if name is None or pipeline.vae_scale_factor != _PUBLISHED_FACTOR_PX:
        return None
    weights = hub.file_at_hand(name, _WEIGHTS)
    if weights is None or hub.file_at_hand(name, "config.json") is None:
        return None
    try:
        check_weight_file(weights)
        decoder = AutoencoderTiny.from_pretrained(
            weights.parent, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (UserError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        logger.warning("%s is not used for previews, it does not load: %s", name, error)
        return None
    if decoder.config.latent_channels != config.latent_channels:
        return None
    return decoder.to(device).eval()
