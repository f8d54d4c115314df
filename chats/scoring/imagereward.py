"""ImageReward (Xu et al. 2023): BLIP reads the picture and the prompt, a head turns it to a score.

BLIP's parts are those of transformers; only names differ from the published weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    PreTrainedTokenizerBase,
)

from chats.scoring.aesthetic import RewardHead
from chats.scoring.clip import load_tokenizer
from chats.scoring.preprocessing import cropped_pixels
from chats.scoring.scorer import in_batches
from chats.scoring.weights import REWARDS, load_exactly, ready, state_dict

WEIGHTS = "ImageReward/ImageReward.safetensors"
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of raw scores over the authors' pictures; scores are standardised by them."""
_MAX_TOKENS = 35
_BATCH_SIZE = 32

_VISION = {
    "visual_encoder.cls_token": "vision.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj.": "vision.embeddings.patch_embedding.",
    "visual_encoder.norm.": "vision.post_layernorm.",
    "visual_encoder.blocks.": "vision.encoder.layers.",
    "text_encoder.": "text.",
}
_BLOCK = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}
_UNUSED = ("vision_proj.", "text_proj.", "text_encoder.embeddings.position_ids")


class RewardModel(nn.Module):
    """A picture encoder, a text encoder that looks at it by cross-attention, and a head."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = RewardHead(text.hidden_size)

    def forward(
        self, pixels: torch.Tensor, token_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Score pictures `(N, 3, H, W)` with token ids `(N, L)`; `(N,)`, not standardised."""
        seen = self.vision(pixels).last_hidden_state
        read = self.text(
            token_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device),
        ).last_hidden_state
        return self.head(read[:, 0])


def blip_large() -> tuple[BlipVisionConfig, BlipTextConfig]:
    """The architecture of the published weights: ViT-L/16 at 224 px, and BERT base."""
    vision = BlipVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(encoder_hidden_size=1024, num_attention_heads=12, is_decoder=True)
    return vision, text


class ImageReward:
    """ImageReward v1.0, standardised; about −2 to 2.

    Args:
        device: where it runs; none chooses.
        dtype: of the weights; none means float32.
        weights: a safetensors file with the published names, or a Hub id that has `ImageReward/…`.
        tokenizer: BERT's; none fetches it.
        configs: the architecture of picture and text encoder; none means BLIP large.
    """

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: str | Path = REWARDS,
        tokenizer: PreTrainedTokenizerBase | None = None,
        configs: tuple[BlipVisionConfig, BlipTextConfig] | None = None,
    ) -> None:
        state = renamed(state_dict(weights, WEIGHTS))
        model = RewardModel(*(configs or blip_large()))
        load_exactly(model, state, name="ImageReward")
        self.model = ready(model, device=device, dtype=dtype)
        self.tokenizer = tokenizer or load_tokenizer(TOKENIZER)

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)`."""
        return in_batches(images, prompts, batch_size=_BATCH_SIZE, score=self._batch)

    def _batch(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        vision = self.model.vision
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        ).to(vision.device)
        pixels = cropped_pixels(images, vision.config.image_size).to(vision.device, vision.dtype)
        raw = self.model(pixels, tokens.input_ids, tokens.attention_mask)
        return (raw.double().cpu().numpy() - MEAN) / STD


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the published weights the names of `RewardModel`."""
    return {
        _new_name(bare): value
        for key, value in state.items()
        if not (bare := key.removeprefix("blip.")).startswith(_UNUSED)
    }


def _new_name(key: str) -> str:
    for old, new in _VISION.items():
        if key.startswith(old):
            key = new + key.removeprefix(old)
            break
    if key.startswith("vision.encoder.layers."):
        for old, new in _BLOCK.items():
            key = key.replace(old, new)
    return "head." + key.removeprefix("mlp.") if key.startswith("mlp.") else key
