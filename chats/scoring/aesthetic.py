"""LAION's aesthetic predictor: five linear layers on CLIP's picture embedding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import CLIPVisionModelWithProjection

from chats.scoring.clip import CLIP_L
from chats.scoring.preprocessing import cropped_pixels
from chats.scoring.scorer import in_batches
from chats.scoring.weights import REWARDS, load_exactly, loaded, model_folder, ready, state_dict

WEIGHTS = "aesthetic-predictor/sac+logos+ava1-l14-linearMSE.safetensors"
_BATCH_SIZE = 32


class RewardHead(nn.Module):
    """`(N, width)` to `(N,)`: linear layers of 1024, 128, 64, 16 and 1, nothing between them.

    The published heads number their layers with the dropouts that stood between them in training;
    these are kept so that the names fit.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Score embeddings."""
        return self.layers(embeddings)[:, 0]


class LaionAesthetic:
    """How pleasing a picture is on its own, about 1 to 10 (sac+logos+ava1, linear, MSE).

    The prompts are not looked at.

    Args:
        device: where it runs; none chooses.
        dtype: of the weights; none means float32.
        source: the CLIP ViT-L/14: a folder or a Hub id.
        weights: the head as a safetensors file, or a Hub id that has `aesthetic-predictor/…`.
    """

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        source: str = CLIP_L,
        weights: str | Path = REWARDS,
    ) -> None:
        folder = model_folder(source, "config.json", "model.safetensors")
        clip = loaded(
            lambda: CLIPVisionModelWithProjection.from_pretrained(
                folder, use_safetensors=True, local_files_only=True
            ),
            name=source,
        )
        head = RewardHead(clip.config.projection_dim)
        load_exactly(head, state_dict(weights, WEIGHTS), name="the LAION aesthetic predictor")
        self.clip, self.head = (ready(each, device=device, dtype=dtype) for each in (clip, head))

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)`."""
        return in_batches(images, prompts, batch_size=_BATCH_SIZE, score=self._batch)

    def _batch(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        pixels = cropped_pixels(images, self.clip.config.image_size)
        embeddings = self.clip(pixels.to(self.clip.device, self.clip.dtype)).image_embeds
        return self.head(F.normalize(embeddings, dim=-1)).double().cpu().numpy()
