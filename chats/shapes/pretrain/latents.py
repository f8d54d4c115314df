"""Stage 2: the captioned scenes as latents and token ids, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from chats.shapes.clip import CONTEXT_LENGTH
from chats.shapes.pretrain.autoencoder import to_tensor
from chats.shapes.pretrain.config import PretrainConfig
from chats.shapes.pretrain.scenes import scene_chunks
from chats.shapes.pretrain.tokenizer import new_tokenizer


@dataclass(frozen=True)
class EncodedScenes:
    """All training scenes: scaled latents `(N, 4, 16, 16)` float16, token ids `(N, 3, L)`.

    Along the second dimension of the ids: two wordings of the caption, then a near miss.
    """

    latents: torch.Tensor
    token_ids: torch.Tensor
    tokenizer: CLIPTokenizer


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, config: PretrainConfig) -> EncodedScenes:
    """Render and encode the scenes, or read them where an earlier start left them."""
    tokenizer = new_tokenizer()
    path = config.workdir / "scenes.safetensors"
    if path.exists():
        return EncodedScenes(**load_file(path), tokenizer=tokenizer)
    latents, ids = [], []
    chunks = scene_chunks(
        config.num_scenes,
        seed=config.seed,
        caption_noise=config.caption_noise,
        blur_rate=config.blur_rate,
        num_processes=config.num_threads,
    )
    for chunk in chunks:
        for pictures in to_tensor(chunk.pictures).split(50):
            with torch.autocast("cpu", torch.bfloat16):
                means = vae.encode(pictures).latent_dist.mean
            latents.append((means.float() * vae.config.scaling_factor).half())
        captions = [text for texts in chunk.captions for text in texts]
        ids.append(tokenize(tokenizer, captions).view(-1, 3, CONTEXT_LENGTH))
    tensors = {"latents": torch.cat(latents).contiguous(), "token_ids": torch.cat(ids)}
    save_file(tensors, path)
    return EncodedScenes(**tensors, tokenizer=tokenizer)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids `(N, L)`, padded and truncated to the context length."""
    padded = tokenizer(captions, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True)
    return torch.tensor(padded.input_ids)
