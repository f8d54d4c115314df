"""Human Preference Score v2 (Wu et al. 2023): a ViT-H/14 CLIP tuned on human choices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, PreTrainedTokenizerBase

from chats.scoring.clip import ClipCosine, load_tokenizer
from chats.scoring.open_clip import clip_from_open_clip, vit_h_14
from chats.scoring.preprocessing import padded_pixels
from chats.scoring.weights import REWARDS, ready, state_dict

WEIGHTS = "HPS_v2/HPS_v2.1_compressed.safetensors"
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class HpsV2:
    """HPS v2.1, 100·cos as papers print it; about 18 to 34.

    Its authors publish pickles only (xswu/HPSv2), which are never read here; these weights are a
    conversion to safetensors that keeps open_clip's names. Like the authors' code it fits the whole
    picture into the square, with black around one that is not square.

    Args:
        device: where it runs; none chooses.
        dtype: of the weights; none means float32.
        weights: a safetensors file in open_clip's layout, or a Hub id that has `HPS_v2/…`.
        tokenizer: the tokenizer of CLIP ViT-H/14; none fetches it.
        config: the architecture; none means ViT-H/14.
    """

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: str | Path = REWARDS,
        tokenizer: PreTrainedTokenizerBase | None = None,
        config: CLIPConfig | None = None,
    ) -> None:
        model = clip_from_open_clip(state_dict(weights, WEIGHTS), config or vit_h_14())
        self.cosine = ClipCosine(
            ready(model, device=device, dtype=dtype),
            tokenizer or load_tokenizer(TOKENIZER),
            pixels=padded_pixels,
        )

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)`."""
        return 100 * self.cosine(images, prompts)
