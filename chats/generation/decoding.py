"""How large pictures are decoded: in tiles, in the memory of one of them."""

import contextlib
from collections.abc import Iterator
from typing import Any

TILED_ABOVE_PX = 1536 * 1536
"""Pixels of a picture above which it is decoded in tiles. Fixed, and not by what is free: the same
settings must give the same picture on every machine."""


@contextlib.contextmanager
def decoded_to_fit(vae: Any, *, num_pixels: int) -> Iterator[bool]:
    """Have an autoencoder decode a large picture in tiles while the context is open.

    Args:
        vae: the pipeline's; other requests wait meanwhile.
        num_pixels: of one picture.

    Yields:
        Whether it does.
    """
    is_large = num_pixels > TILED_ABOVE_PX and hasattr(vae, "use_tiling")
    if not is_large:
        yield False
        return
    before = vae.use_tiling
    vae.enable_tiling()
    try:
        yield True
    finally:
        vae.use_tiling = before
