"""Preference pairs encoded once, into latents and text embeddings in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from chats.denoising.families import default_size_px, family_of
from chats.errors import UserError
from chats.generation.png import MAX_PIXELS
from training.preferences import PreferencePair

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class EncodedPairs:
    """A dataset as the training loop reads it; N pairs, P distinct prompts.

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

    preferred: Tensor
    dispreferred: Tensor
    prompt_rows: Tensor
    conditions: Mapping[str, Tensor]
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


def load_image(path: Path, *, resolution: int) -> Tensor:
    """Load an image: short side resized (bilinear), centre cropped, `(3, R, R)` in [−1, 1].

    Raises:
        UserError: The file is no whole PNG, JPEG or WebP image, or has too many pixels.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path.name} has {image.width} × {image.height} pixels; "
                    f"at most {MAX_PIXELS // 10**6} million are read. Scale it down."
                )
            image = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"{path.name} is no PNG, JPEG or WebP image.") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path.name} can't be read: {error}. Is it cut short?") from error
    scale = resolution / min(image.size)
    width, height = (max(resolution, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    image = image.crop((left, top, left + resolution, top + resolution))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


@torch.no_grad()
def encode_pairs(
    pairs: Sequence[PreferencePair],
    pipeline: Any,
    *,
    resolution: int | None = None,
    null_prompt: Literal["empty", "zeros"] = "empty",
    name: str = "",
    batch_size: int = 8,
) -> EncodedPairs:
    """Encode images and prompts with the pipeline's own VAE and text encoder, on its device.

    The mean and the log variance of the latents are kept, so that a training still samples them;
    equal prompts are encoded once. The result lies in main memory.

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
    resolution = _checked_resolution(resolution, pipeline)
    moments = {
        half: _encode_images(
            [(pair.row, getattr(pair, half)) for pair in pairs],
            pipeline.vae,
            resolution=resolution,
            batch_size=batch_size,
            description=f"Encoding {half} images",
        )
        for half in ("preferred", "dispreferred")
    }
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    row_of_prompt = {prompt: row for row, prompt in enumerate(prompts, start=1)}
    conditions = encode_prompts(["", *prompts], pipeline, batch_size=batch_size)
    if null_prompt == "zeros":
        for condition in conditions.values():
            condition[0] = 0
    return EncodedPairs(
        preferred=moments["preferred"],
        dispreferred=moments["dispreferred"],
        prompt_rows=torch.tensor([row_of_prompt[pair.prompt] for pair in pairs]),
        conditions=conditions,
        scaling_factor=pipeline.vae.config.scaling_factor,
        shift_factor=pipeline.vae.config.shift_factor or 0.0,
        null_prompt=null_prompt,
        name=name,
    )


@torch.no_grad()
def encode_prompts(
    prompts: Sequence[str], pipeline: Any, *, batch_size: int = 8
) -> dict[str, Tensor]:
    """Encode prompts into the denoiser's arguments, each `(len(prompts), ...)`, in main memory."""
    family = family_of(pipeline)
    places = {**family.conditions, **family.masks}
    chunks = [
        pipeline.encode_prompt(
            prompt=list(chunk),
            device=pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        for chunk in _chunks(prompts, batch_size)
    ]
    return {
        name: torch.cat([encoded[place].cpu() for encoded in chunks])
        for name, place in places.items()
    }


def _checked_resolution(resolution: int | None, pipeline: Any) -> int:
    if resolution is None:
        return default_size_px(pipeline)
    factor = pipeline.vae_scale_factor
    if resolution % factor:
        raise UserError(
            f"data.resolution {resolution} must be divisible by {factor}, "
            f"the factor by which this model's latents are smaller than its pictures."
        )
    return resolution


def _encode_images(
    images: Sequence[tuple[int, Path]],
    vae: Any,
    *,
    resolution: int,
    batch_size: int,
    description: str,
) -> Tensor:
    moments = []
    for chunk in tqdm(list(_chunks(images, batch_size)), desc=description, leave=False):
        pixels = torch.stack([_load_row(row, path, resolution) for row, path in chunk])
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        moments.append(torch.cat([posterior.mean, posterior.logvar], dim=1).float().cpu())
    return torch.cat(moments)


def _load_row(row: int, path: Path, resolution: int) -> Tensor:
    try:
        return load_image(path, resolution=resolution)
    except UserError as error:
        raise UserError(f"Row {row}: {error}") from error


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
