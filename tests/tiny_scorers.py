"""Tiny models that scorers are made of, as folders and files, and pictures for them."""

import numpy as np
from PIL import Image
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPModel,
)

from tests.tiny_parts import CLIP_LENGTH, big, clip_tokenizer, clip_vocabulary

SIZE_PX = 8
PROMPTS = ("a cat", "two red dogs", "b")


def clip_config() -> CLIPConfig:
    shared = {"num_attention_heads": 2, "hidden_act": "gelu", "projection_dim": 12}
    return CLIPConfig(
        text_config={
            **shared,
            "vocab_size": len(clip_vocabulary()),
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "max_position_embeddings": CLIP_LENGTH,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={
            **shared,
            "hidden_size": 20,
            "intermediate_size": 28,
            "num_hidden_layers": 3,
            "image_size": SIZE_PX,
            "patch_size": 4,
        },
        projection_dim=12,
    )


def tiny_clip(seed: int = 0) -> CLIPModel:
    return big(CLIPModel(clip_config()), seed=seed)


def clip_folder(folder, seed: int = 0) -> CLIPModel:
    """Write a tiny CLIP with its tokenizer, and return it."""
    model = tiny_clip(seed)
    model.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return model


def blip_configs() -> tuple[BlipVisionConfig, BlipTextConfig]:
    vision = BlipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE_PX,
        patch_size=4,
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=len(clip_vocabulary()),
        hidden_size=12,
        encoder_hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=40,
        is_decoder=True,
        pad_token_id=1,
    )
    return vision, text


def pictures(count: int = 3, *, size: tuple[int, int] = (13, 10)) -> list[Image.Image]:
    """Noise of this width and height."""
    rng = np.random.default_rng(7)
    return [
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        for _ in range(count)
    ]
