"""Stage 5: the finished parts as one diffusers folder of safetensors.

Autoencoder and denoiser are kept in float16, the small text encoder in float32: transformers loads
a model in the type of its file, diffusers in float32, and so a plain `from_pretrained` gives one.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

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
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).to(torch.float16),
        unet=copy.deepcopy(unet).to(torch.float16),
        text_encoder=clip.text_encoder,
        tokenizer=new_tokenizer(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = config.output / "base"
    pipeline.save_pretrained(folder, safe_serialization=True)
    _forget_where_it_came_from(folder / "vae" / "config.json")
    save_clip(load_clip(config.workdir / "clip"), config.output / "clip")


def _forget_where_it_came_from(path: Path) -> None:
    """Drop the folder that an autoencoder was read from: it exists on this machine alone."""
    settings = json.loads(path.read_text("utf-8"))
    settings.pop("_name_or_path", None)
    path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
