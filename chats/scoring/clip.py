"""Scorers that are a CLIP: CLIP score and PickScore."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from chats.scoring.preprocessing import cropped_pixels
from chats.scoring.scorer import in_batches
from chats.scoring.weights import loaded, model_folder, ready

CLIP_L = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"
_TOKENIZER_FILES = ("*.json", "merges.txt", "vocab.json")
_BATCH_SIZE = 32


class ClipCosine:
    """Cosine similarity of pictures with their prompts, by any CLIP of transformers."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pixels: Callable[[Sequence[Image.Image], int], torch.Tensor] = cropped_pixels,
    ) -> None:
        self.model, self.tokenizer, self.pixels = model, tokenizer, pixels

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Return cos(image, text), `(N,)` in [−1, 1]."""
        return in_batches(images, prompts, batch_size=_BATCH_SIZE, score=self._batch)

    def _batch(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        model = self.model
        tokens = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(model.device)
        pixels = self.pixels(images, model.config.vision_config.image_size)
        found = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=pixels.to(model.device, model.dtype),
        )
        cosines = (found.image_embeds.float() * found.text_embeds.float()).sum(-1)
        return cosines.double().cpu().numpy()


class ClipScore:
    """CLIP score, max(100·cos, 0), of OpenAI's ViT-L/14 (Hessel et al. 2021 in percent).

    Args:
        device: where it runs; none chooses.
        dtype: of the weights; none means float32.
        source: another CLIP: a folder or a Hub id.
    """

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        source: str = CLIP_L,
    ) -> None:
        self.cosine = load_clip_cosine(source, device=device, dtype=dtype)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)` in [0, 100]."""
        return np.maximum(100 * self.cosine(images, prompts), 0)


class PickScore:
    """PickScore (Kirstain et al. 2023), exp(logit_scale)·cos of a ViT-H/14; about 18 to 24.

    Args:
        device: where it runs; none chooses.
        dtype: of the weights; none means float32.
        source: a folder or a Hub id.
    """

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        source: str = PICKSCORE,
    ) -> None:
        self.cosine = load_clip_cosine(source, device=device, dtype=dtype)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Scores `(N,)`."""
        scale = self.cosine.model.logit_scale.double().exp().item()
        return scale * self.cosine(images, prompts)


def load_clip_cosine(
    source: str, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> ClipCosine:
    """Load a CLIP and its tokenizer from a folder or the Hub.

    Raises:
        UserError: it is not here and cannot be fetched, or is no CLIP.
    """
    folder = model_folder(source, *_TOKENIZER_FILES, "model.safetensors")
    model = loaded(
        lambda: CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True),
        name=source,
    )
    return ClipCosine(ready(model, device=device, dtype=dtype), load_tokenizer(source))


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the Hub.

    Raises:
        UserError: See `load_clip_cosine`.
    """
    folder = model_folder(source, *_TOKENIZER_FILES)
    return loaded(lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True), name=source)
