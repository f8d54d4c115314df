"""Latents as tokens and back: the order in which Flux and its relatives take them."""

from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """Return one token for 2 × 2 latents: `(B, C, h, w)` → `(B, h/2 · w/2, 4·C)`."""
    rows, channels, height, width = latents.shape
    parts = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, *, height: int, width: int) -> Tensor:
    """Return the latents of `pack`: `(B, h/2 · w/2, 4·C)` → `(B, C, h, w)`.

    Args:
        tokens: The tokens.
        height: h of the latents.
        width: w of the latents.
    """
    parts = tokens.unflatten(1, (height // 2, width // 2)).unflatten(3, (-1, 2, 2))
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
