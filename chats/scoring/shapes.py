"""Scorers of the embedded world: its exact checker, and its own small CLIP. Both work offline."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTokenizer

from chats.scoring.scorer import in_batches
from chats.scoring.weights import ready
from chats.shapes import BASE, CLIP
from chats.shapes.checker import keeps_promise, read
from chats.shapes.clip import CONTEXT_LENGTH, load_clip
from chats.shapes.grammar import parse_caption
from chats.shapes.world import IMAGE_SIZE_PX

_BATCH_SIZE = 64


class ShapesChecker:
    """1 where a picture keeps every promise of its caption, else 0; runs on the CPU."""

    def __init__(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Make it; device and dtype are taken like any scorer's, and not needed."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)`, each 0 or 1.

        Raises:
            UserError: a prompt is no caption of the Shapes world.
        """
        kept = [
            keeps_promise(read(np.asarray(image.convert("RGB"))), parse_caption(prompt))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return np.array(kept, float)


class ShapesClipScorer:
    """100·cos by the CLIP that Shapes' text encoder came from; it reads latents of 64 px pictures.

    Args:
        device: where it runs; none chooses.
        dtype: of the weights; none means float32.
    """

    def __init__(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.clip = ready(load_clip(CLIP), device=device, dtype=dtype)
        vae = AutoencoderKL.from_pretrained(
            BASE / "vae", local_files_only=True, use_safetensors=True
        )
        self.vae = ready(vae, device=device, dtype=dtype)
        self.tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)` in [−100, 100]."""
        return in_batches(images, prompts, batch_size=_BATCH_SIZE, score=self._batch)

    def _batch(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
        arrays = [
            np.asarray(each.convert("RGB").resize(size, Image.Resampling.BICUBIC))
            for each in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mean
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=CONTEXT_LENGTH,
            return_tensors="pt",
        )
        ids = tokens.input_ids.to(self.vae.device)
        return (
            100
            * self.clip.score(latents * self.vae.config.scaling_factor, ids).double().cpu().numpy()
        )
