"""Pictures as the CLIP and BLIP models read them; PIL does the resizing, no torchvision is needed.

A centre crop rounds down, as transformers does; torchvision rounds to the nearest, which is one
pixel further for some pictures that are not square.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def cropped_pixels(images: Sequence[Image.Image], size_px: int) -> torch.Tensor:
    """Resize the short side (bicubic), crop the middle, normalise.

    Args:
        images: RGB pictures.
        size_px: side of the square that the model reads.

    Returns:
        float32 `(N, 3, size_px, size_px)`.
    """
    return _normalized([_cropped(image, size_px) for image in images])


def padded_pixels(images: Sequence[Image.Image], size_px: int) -> torch.Tensor:
    """Resize the long side (bicubic), pad with black to a square around it, normalise.

    Returns:
        float32 `(N, 3, size_px, size_px)`.
    """
    return _normalized([_padded(image, size_px) for image in images])


def _cropped(image: Image.Image, size_px: int) -> Image.Image:
    short = min(image.size)
    width, height = (max(size_px, size_px * side // short) for side in image.size)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size_px, top + size_px))


def _padded(image: Image.Image, size_px: int) -> Image.Image:
    scale = size_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size_px, size_px))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((size_px - width) // 2, (size_px - height) // 2))
    return square


def _normalized(images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    values = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
    return (values - mean) / std
