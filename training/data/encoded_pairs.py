"""Preference pairs encoded once, into latents and text embeddings, in memory or in a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chats.denoising.sizes import default_size_px, token_size_px
from chats.errors import UserError
from training.config import DataSettings
from training.data.buckets import bucket_sizes
from training.data.encoding import Size, encode_conditions, encode_pictures, size_ids
from training.data.shards import StoredRows
from training.preferences import PreferencePair, source_name


@dataclass(frozen=True)
class EncodedPairs:
    """A dataset as the training loop reads it; N pairs, P distinct prompts.

    What lies in a cache is read from there row by row, by lists of rows as a tensor would be.

    Attributes:
        preferred: Mean and log variance of x⁺'s latents, side by side, `(N, 2·C, H/f, W/f)`.
        dispreferred: The same of x⁻.
        prompt_rows: For each pair the row of `conditions` that holds its prompt, `(N,)`.
        conditions: What the text encoders say, by the name of the denoiser's argument; each
            `(1 + P, ...)`, row 0 being the null condition ∅.
        scaling_factor: Latents are (sample − shift) · scaling before noise is added.
        shift_factor: See `scaling_factor`.
        null_prompt: What ∅ is.
        name: The dataset's name, for the records of what was trained on it.
    """

    preferred: Tensor | StoredRows
    dispreferred: Tensor | StoredRows
    prompt_rows: Tensor
    conditions: Mapping[str, Tensor | StoredRows]
    scaling_factor: float
    shift_factor: float
    null_prompt: Literal["empty", "zeros"]
    name: str

    def __len__(self) -> int:
        return len(self.prompt_rows)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape `(C, H/f, W/f)` of one image's latents."""
        _, channels, height, width = self.preferred.shape
        return channels // 2, height, width


def encode_preferences(
    pairs: Sequence[PreferencePair], pipeline: Any, settings: DataSettings, *, batch_size: int = 8
) -> tuple[EncodedPairs, ...]:
    """Encode pictures and prompts with the pipeline's own VAE and text encoder, on its device.

    The mean and the log variance of the latents are kept, so that a training still samples them.
    Equal pictures and equal prompts are encoded once; with `settings.cache` once for all
    trainings with this model, and the rows stay on the disk. A cache that holds nothing yet gives
    bit for bit what memory does; later ones may batch otherwise and differ in the last bit.

    Args:
        pairs: What `training.preferences.read_preferences` returned.
        pipeline: A diffusers pipeline.
        settings: How to encode; where the pairs come from is only named in the records.
        batch_size: Pictures, or prompts, encoded at once.

    Returns:
        One set; with `settings.buckets` one for each shape that comes up, from tall to wide, all
        with the same `conditions` but for their size.

    Raises:
        UserError: Pictures that can't be read (with their rows), a size that the model can't
            have, fewer than two pairs that are left, or a cache that can't be written.
    """
    sizes = _sizes(settings, pipeline)
    placed, latents = encode_pictures(
        pairs, pipeline.vae, settings, sizes=sizes, batch_size=batch_size
    )
    prompts = list(dict.fromkeys(each.pair.prompt for each in placed))
    conditions = encode_conditions(prompts, pipeline, settings, batch_size=batch_size)
    row_of_prompt = {prompt: row for row, prompt in enumerate(prompts, start=1)}
    return tuple(
        EncodedPairs(
            preferred=latents.rows([each.preferred for each in in_bucket]),
            dispreferred=latents.rows([each.dispreferred for each in in_bucket]),
            prompt_rows=torch.tensor([row_of_prompt[each.pair.prompt] for each in in_bucket]),
            conditions=conditions | size_ids(size, pipeline, num_rows=len(prompts) + 1),
            scaling_factor=pipeline.vae.config.scaling_factor,
            shift_factor=pipeline.vae.config.shift_factor or 0.0,
            null_prompt=settings.null_prompt,
            name=source_name(settings.path),
        )
        for size in sizes
        if (in_bucket := [each for each in placed if each.size == size])
    )


def encode_pairs(
    pairs: Sequence[PreferencePair],
    pipeline: Any,
    *,
    resolution: int | None = None,
    null_prompt: Literal["empty", "zeros"] = "empty",
    name: str = "",
    batch_size: int = 8,
) -> EncodedPairs:
    """Encode squares into main memory, see `encode_preferences`.

    Args:
        pairs: What `training.preferences.read_pairs` returned.
        pipeline: A diffusers pipeline.
        resolution: Side of the pictures in pixels; none means the model's own size.
        null_prompt: What ∅ is: the encoding of the empty prompt, or zeros.
        name: Name of the dataset.
        batch_size: Images, or prompts, encoded at once.

    Raises:
        UserError: An image that can't be read (with its row), or a size that the model can't have.
    """
    settings = DataSettings(
        path=Path(name or "pairs"), resolution=resolution, null_prompt=null_prompt
    )
    (encoded,) = encode_preferences(pairs, pipeline, settings, batch_size=batch_size)
    return replace(encoded, name=name)


def _sizes(settings: DataSettings, pipeline: Any) -> tuple[Size, ...]:
    factor = token_size_px(pipeline)
    resolution = settings.resolution or default_size_px(pipeline)
    if resolution % factor:
        raise UserError(
            f"data.resolution {resolution} must be divisible by {factor}, "
            f"the side of one of this model's tokens or latents in pixels."
        )
    return (
        bucket_sizes(resolution, factor=factor) if settings.buckets else ((resolution, resolution),)
    )
