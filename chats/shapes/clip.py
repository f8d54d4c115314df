"""The Shapes world's CLIP: a text encoder and a picture encoder that met over captions.

The text half is Shapes' own text encoder before the denoiser was trained on it, as in Stable
Diffusion; the picture half reads latents. Together they score how well a picture fits a prompt.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTEXT_LENGTH = 24
TEXT_WIDTH = 128
_WEIGHTS_NAME = "picture_encoder.safetensors"


class PictureEncoder(nn.Module):
    """Convolutions over latents `(B, 4, 16, 16)` to embeddings `(B, 128)`."""

    def __init__(self, latent_channels: int = 4, latent_size: int = 16) -> None:
        super().__init__()
        widths = (48, 64, 96, 96, 128, 128)
        strides = (1, 1, 2, 1, 2, 1)
        layers: list[nn.Module] = []
        previous = latent_channels
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(previous, width, 3, stride, 1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
            previous = width
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(previous * (latent_size // 4) ** 2, TEXT_WIDTH)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Embed scaled latents `(B, C, H, W)` as `(B, 128)`, not normalised."""
        return self.project(self.layers(latents).flatten(1))


class ShapesClip(nn.Module):
    """Both encoders, the text projection and the learned temperature."""

    def __init__(self, text_encoder: CLIPTextModel, pictures: PictureEncoder) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.pictures = pictures
        self.text_projection = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        self.log_temperature = nn.Parameter(torch.tensor(2.6))

    def embed_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Token ids `(B, L)` to unit vectors `(B, 128)`, read at the end-of-text token."""
        hidden = self.text_encoder(token_ids)[0]
        end = (token_ids == self.text_encoder.config.eos_token_id).int().argmax(1)
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), end]
        return F.normalize(self.text_projection(pooled).float(), dim=1)

    def embed_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents `(B, 4, 16, 16)` to unit vectors `(B, 128)`."""
        return F.normalize(self.pictures(latents).float(), dim=1)

    def score(self, latents: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Cosine similarity of each picture with its own prompt, `(B,)` in [−1, 1]."""
        return (self.embed_latents(latents) * self.embed_text(token_ids)).sum(1)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder for this vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=TEXT_WIDTH,
        )
    )


def save_clip(clip: ShapesClip, folder: Path) -> None:
    """Write the whole CLIP as float16 safetensors: `text_encoder/` and the picture half."""
    folder.mkdir(parents=True, exist_ok=True)
    clip.text_encoder.half().save_pretrained(folder / "text_encoder")
    clip.text_encoder.float()
    own = {k: v for k, v in clip.state_dict().items() if not k.startswith("text_encoder.")}
    save_file({k: v.half().contiguous() for k, v in own.items()}, folder / _WEIGHTS_NAME)


def load_clip(folder: Path) -> ShapesClip:
    """Read what `save_clip` wrote, as float32 in evaluation mode.

    Raises:
        FileNotFoundError: the folder holds no CLIP.
    """
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    clip = ShapesClip(text_encoder, PictureEncoder())
    own = {k: v.float() for k, v in load_file(folder / _WEIGHTS_NAME).items()}
    missing, unexpected = clip.load_state_dict(own, strict=False)
    assert not unexpected
    assert all(key.startswith("text_encoder.") for key in missing)
    return clip.eval()
