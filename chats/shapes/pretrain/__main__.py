"""Makes the Shapes base model: autoencoder, CLIP, denoiser, then the diffusers folder.

    python -m chats.shapes.pretrain --workdir build/shapes

Every stage is seeded and resumable: start the same command again after an interruption.
"""

from __future__ import annotations

import torch
import tyro

from chats.shapes.pretrain.autoencoder import train_autoencoder
from chats.shapes.pretrain.clip import train_clip
from chats.shapes.pretrain.config import PretrainConfig
from chats.shapes.pretrain.denoiser import train_denoiser
from chats.shapes.pretrain.export import export_base
from chats.shapes.pretrain.latents import encode_scenes


def main(config: PretrainConfig) -> None:
    """Run all stages that are not finished yet."""
    torch.set_num_threads(config.num_threads)
    config.workdir.mkdir(parents=True, exist_ok=True)
    vae = train_autoencoder(config)
    scenes = encode_scenes(vae, config)
    clip = train_clip(scenes, config)
    unet = train_denoiser(clip.text_encoder, scenes, config)
    export_base(vae=vae, clip=clip, unet=unet, config=config)


if __name__ == "__main__":
    main(tyro.cli(PretrainConfig))
