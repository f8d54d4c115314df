"""Stage 5: the finished parts as one diffusers folder, float16 safetensors."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from chats.shapes.clip import ShapesClip, load_clip, save_clip
from chats.shapes.pretrain.config import PretrainConfig
from chats.shapes.pretrain.denoiser import new_scheduler
from chats.shapes.pretrain.tokenizer import new_tokenizer


def export_base(
    *, vae: AutoencoderKL, clip: ShapesClip, unet: UNet2DConditionModel, config: PretrainConfig
) -> None:
    """Write `base/` (a StableDiffusionPipeline) and `clip/` under the output folder."""
    parts = {
        "vae": copy.deepcopy(vae),
        "text_encoder": copy.deepcopy(clip.text_encoder),
        "unet": copy.deepcopy(unet),
    }
    pipeline = StableDiffusionPipeline(
        **{name: part.to(torch.float16) for name, part in parts.items()},
        tokenizer=new_tokenizer(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(config.output / "base", safe_serialization=True)
    save_clip(load_clip(config.workdir / "clip"), config.output / "clip")
