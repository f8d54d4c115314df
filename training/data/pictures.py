"""From a picture's file to RGB pixels of one size: everything about formats is here; no torch."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from chats.generation.png import MAX_PIXELS
from training.preferences.bad_rows import RowFault

FORMATS = ("PNG", "JPEG", "WEBP")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}
_SMALLEST_PX = 16
"""A picture that is only checked need not be larger."""

_STILL_WITH_PREVIEWS = "MPO"
"""What Pillow calls the JPEGs of many cameras; their other frames are no animation."""

_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise on damaged files."""


def decode(content: bytes, *, name: str) -> Image.Image:
    """Decode a picture into the RGB that a viewer would show.

    It is turned as its EXIF says, laid on white where it is transparent, and 16-bit gray is
    scaled down, not clipped. Colour profiles are not applied.

    Args:
        content: The file's content.
        name: How messages call it.

    Raises:
        RowFault: It is no whole still PNG, JPEG or WebP picture, or has too many pixels.
    """
    with _opened(content, name=name) as image:
        try:
            image.load()
            return _as_rgb(_turned(image))
        except _DAMAGE as error:
            raise RowFault(
                "damaged picture", f"{name} can't be read: {error}. Is it cut short?"
            ) from error


def size_px(content: bytes, *, name: str) -> tuple[int, int]:
    """Return a picture's width and height as it is shown, read from the file's head.

    Raises:
        RowFault: As `decode` does, but for what only decoding can show.
    """
    with _opened(content, name=name) as image:
        try:
            is_sideways = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
        except _DAMAGE:
            is_sideways = False
        return image.size[::-1] if is_sideways else image.size


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What a picture's file is."""

    width: int
    height: int
    suffix: str
    """What its name should end in, whatever it is called."""


def check(content: bytes, *, name: str) -> PictureFacts:
    """Decode a picture once, only to see that it is whole; its pixels are not kept.

    Raises:
        RowFault: As `decode` does.
    """
    with _opened(content, name=name) as image:
        facts = PictureFacts(image.width, image.height, _SUFFIXES[image.format])
        _load(image, name=name, side_px=_SMALLEST_PX)
        return facts


def thumbnail(content: bytes, *, name: str, side_px: int) -> Image.Image:
    """Decode a picture and scale it down, if it is larger, to fit a square.

    Raises:
        RowFault: As `decode` does.
    """
    with _opened(content, name=name) as image:
        _load(image, name=name, side_px=side_px)
        small = image.convert("RGBA") if image.mode == "P" else image
        small.thumbnail((side_px, side_px))
        return _as_rgb(_turned(small))


def fit(image: Image.Image, *, width: int, height: int) -> np.ndarray:
    """Scale a picture (bilinear) until it just covers a size, and cut out the middle.

    For a square this is the short side resized and the centre cropped. Only what is kept is
    computed, so a very long picture costs no memory.

    Args:
        image: RGB.
        width: In pixels.
        height: In pixels.

    Returns:
        Pixels from 0 to 255, uint8 `(height, width, 3)`.
    """
    scale = max(width / image.width, height / image.height)
    scaled = (
        max(width, int(image.width * scale)),
        max(height, int(image.height * scale)),
    )
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    across, down = image.width / scaled[0], image.height / scaled[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def _opened(content: bytes, *, name: str) -> Image.Image:
    """Read a file's head and judge it before anything is decoded."""
    if not content:
        raise RowFault("empty file", f"{name} is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        num_frames = getattr(image, "n_frames", 1)
    except UnidentifiedImageError:
        raise RowFault("no picture", f"{name} is no PNG, JPEG or WebP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowFault("too many pixels", f"{name} has too many pixels: {error}") from None
    except _DAMAGE as error:
        raise RowFault("damaged picture", f"{name} can't be read: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise RowFault(
            "too many pixels",
            f"{name} has {image.width} × {image.height} pixels; at most "
            f"{MAX_PIXELS // 10**6} million are read",
        )
    if num_frames > 1 and image.format != _STILL_WITH_PREVIEWS:
        raise RowFault("animated picture", f"{name} is animated ({num_frames} frames)")
    return image


def _load(image: Image.Image, *, name: str, side_px: int) -> None:
    """Decode in place; a JPEG at a fraction of its size, but not below `side_px`."""
    try:
        image.draft(None, (side_px, side_px))
        image.load()
    except _DAMAGE as error:
        raise RowFault(
            "damaged picture", f"{name} can't be read: {error}. Is it cut short?"
        ) from error


def _turned(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says; EXIF that can't be read says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((gray * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
