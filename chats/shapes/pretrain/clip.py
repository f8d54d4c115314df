"""Stage 3: CLIP. Text and pictures of one scene attract, all others and near misses repel."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from chats.shapes.clip import PictureEncoder, ShapesClip, load_clip, new_text_encoder, save_clip
from chats.shapes.pretrain.config import PretrainConfig
from chats.shapes.pretrain.latents import EncodedScenes
from chats.shapes.pretrain.loop import Loop

_MAX_TEMPERATURE = 60.0


def train_clip(scenes: EncodedScenes, config: PretrainConfig) -> ShapesClip:
    """Train (or load the finished) CLIP.

    Each picture also meets a near miss of its caption, one attribute off, as a negative:
    without it nothing in a batch of random scenes asks the text encoder for word order.
    """
    folder = config.workdir / "clip"
    if folder.exists():
        return load_clip(folder)
    torch.manual_seed(config.seed)
    clip = ShapesClip(new_text_encoder(scenes.tokenizer), PictureEncoder())
    loop = Loop(
        name="clip",
        workdir=config.workdir,
        modules={"clip": clip},
        rates={"clip": config.clip_learning_rate},
        num_steps=config.clip_steps,
        seed=config.seed,
        save_every=config.save_every,
    )

    def step(_: int, generator: torch.Generator) -> torch.Tensor:
        size = config.clip_batch
        rows = torch.randint(len(scenes.latents), (size,), generator=generator)
        wording = torch.randint(2, (size,), generator=generator)
        ids = torch.cat([scenes.token_ids[rows, wording], scenes.token_ids[rows, 2]])
        with torch.autocast("cpu", torch.bfloat16):
            texts = clip.embed_text(ids)
            pictures = clip.embed_latents(scenes.latents[rows].float())
        return contrastive_loss(pictures, texts, clip.log_temperature)

    loop.run(step)
    save_clip(clip, folder)
    return clip.eval()


def contrastive_loss(
    pictures: torch.Tensor, texts: torch.Tensor, log_temperature: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE of pictures `(B, D)` with texts `(2B, D)`, whose last B are near misses."""
    logits = log_temperature.exp().clamp(max=_MAX_TEMPERATURE) * pictures @ texts.T
    target = torch.arange(len(pictures))
    own = logits[:, : len(pictures)]
    return (F.cross_entropy(logits, target) + F.cross_entropy(own.T, target)) / 2
