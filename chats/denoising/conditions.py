"""The text condition of every row of an expanded call: c, ∅ or c̃, of whatever lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chats.denoising.family import Family
from chats.denoising.methods import Condition, proxy_condition
from chats.errors import UserError

Value = Tensor | list[Tensor] | None
"""What a denoiser's argument holds: `(pictures, tokens, ...)`, one tensor for each picture, or, of
a mask, nothing where all tokens count."""

_ORDER: tuple[Condition, ...] = ("prompt", "null", "proxy")


def condition_rows(
    prompt: Mapping[str, Value],
    null: Mapping[str, Value],
    *,
    family: Family,
    alphas: Sequence[float],
    rows: Sequence[tuple[int, Condition]],
) -> dict[str, Value]:
    """Return the denoiser's text arguments for rows that have each its own condition.

    The proxy takes the prompt's length and its mask: tokens of ∅ behind them do not count, and
    where ∅ has ended it is zero.

    Args:
        prompt: c of every picture: denoiser argument -> value.
        null: ∅ of every picture likewise; may lack what no row needs.
        family: which arguments are embeddings and which are masks.
        alphas: α of every picture.
        rows: picture and condition of each row.

    Raises:
        UserError: embeddings that do not fit those of the null prompt.
    """
    built: dict[str, Value] = {}
    for name in family.conditions:
        c = prompt[name]
        empty = null.get(name, c)
        if isinstance(c, list):
            built[name] = _rows_of_lists(c, empty, alphas=alphas, rows=rows)
        elif c is not None:
            empty = empty.to(c.device, c.dtype)
            if family.varying_length:
                c, empty = same_length(c, empty)
            _check_shapes(name, c, empty)
            alpha = c.new_tensor(alphas).view(-1, *[1] * (c.ndim - 1))
            built[name] = _choose((c, empty, proxy_condition(c, empty, alpha)), rows)
    for name in family.masks:
        mask, empty = prompt[name], null.get(name, prompt[name])
        if family.varying_length:
            (embeddings,) = family.conditions
            mask = all_tokens(prompt[embeddings]) if mask is None else mask
            empty = all_tokens(null.get(embeddings, prompt[embeddings])) if empty is None else empty
            mask, empty = same_length(mask, empty)
        if mask is None:
            continue
        empty = empty.to(mask.device, mask.dtype)
        # Chroma's masks go on over the tokens of the picture, which are the same in every row.
        empty = torch.cat([empty, mask[:, empty.shape[1] :]], dim=1)
        built[name] = _choose((mask, empty, mask), rows)
    return built


def same_length(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Fill the shorter of two `(pictures, tokens, ...)` with zeros."""
    length = max(one.shape[1], other.shape[1])
    return _lengthened(one, length), _lengthened(other, length)


def all_tokens(embeddings: Tensor) -> Tensor:
    """Return the mask of embeddings `(pictures, tokens, width)` without one: all tokens count."""
    return torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)


def _lengthened(value: Tensor, length: int) -> Tensor:
    missing = length - value.shape[1]
    return functional.pad(value, (*[0, 0] * (value.ndim - 2), 0, missing)) if missing else value


def _rows_of_lists(
    prompt: list[Tensor],
    null: list[Tensor],
    *,
    alphas: Sequence[float],
    rows: Sequence[tuple[int, Condition]],
) -> list[Tensor]:
    def value(picture: int, condition: Condition) -> Tensor:
        c = prompt[picture]
        if condition == "prompt":
            return c
        empty = null[picture].to(c.device, c.dtype)
        if condition == "null":
            return empty
        empty = _lengthened(empty[None, : len(c)], len(c))[0]
        return proxy_condition(c, empty, alphas[picture])

    return [value(picture, condition) for picture, condition in rows]


def _choose(values: tuple[Tensor, ...], rows: Sequence[tuple[int, Condition]]) -> Tensor:
    """Pick rows of (c, ∅, c̃)."""
    num_pictures = len(values[0])
    places = [picture + num_pictures * _ORDER.index(condition) for picture, condition in rows]
    return torch.cat(values)[torch.tensor(places, device=values[0].device)]


def _check_shapes(name: str, prompt: Any, null: Any) -> None:
    if null.shape != prompt.shape:
        raise UserError(
            f"The prompt's {name} has shape {tuple(prompt.shape)}, the null prompt's "
            f"{tuple(null.shape)}. Pass the prompt as text, or embeddings made with the "
            "pipeline's own encode_prompt."
        )
