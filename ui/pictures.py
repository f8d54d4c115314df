"""Pictures for the browser: data URIs, so that nothing is left on the server's disk."""

import base64
import io

from PIL import Image

from chats.config import GenerationConfig
from chats.generation.png import png_info

MIN_DISPLAY_PX = 512


def png_uri(image: Image.Image, config: GenerationConfig | None = None) -> str:
    """Write a picture as it is, with its settings inside when they are given."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=png_info(config) if config else None)
    return _uri(stream, "image/png")


def display_uri(image: Image.Image, *, min_px: int = MIN_DISPLAY_PX) -> str:
    """Write a picture for the eye: small ones enlarged, compressed a little."""
    stream = io.BytesIO()
    enlarge(image, min_px=min_px).save(stream, format="WEBP", quality=92)
    return _uri(stream, "image/webp")


def open_uri(uri: str) -> Image.Image:
    """Read a picture that was written here."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def enlarge(image: Image.Image, *, min_px: int = MIN_DISPLAY_PX) -> Image.Image:
    """Enlarge a small picture by a whole factor; large ones stay as they are.

    Browsers blur (or show blocks) where Lanczos keeps edges clean.
    """
    factor = -(-min_px // image.width)
    if factor <= 1:
        return image
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS)


def _uri(stream: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
