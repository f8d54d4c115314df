"""The rows of one expanded call: which prediction of which picture each is, and their sum."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from chats.denoising.methods import Term


@dataclass(frozen=True)
class RowPlan:
    """The rows of one expanded call: term 0 of every picture, then term 1 of those with one..."""

    terms: tuple[tuple[Term, ...], ...]

    reused: frozenset[int] = frozenset()
    """Pictures whose guidance difference is that of an earlier step: they have one row."""

    @property
    def fresh(self) -> list[int]:
        """Pictures whose guidance difference is made in this call."""
        return [i for i, own in enumerate(self.terms) if len(own) > 1]

    @cached_property
    def rows(self) -> list[tuple[int, Term]]:
        """Picture and term of each row."""
        blocks = range(max(len(own) for own in self.terms))
        return [(i, own[k]) for k in blocks for i, own in enumerate(self.terms) if len(own) > k]

    @cached_property
    def blocks(self) -> list[list[int]]:
        """Pictures of each block of rows, in the rows' order."""
        blocks = range(max(len(own) for own in self.terms))
        return [[i for i, own in enumerate(self.terms) if len(own) > k] for k in blocks]

    def reduce(self, predictions: torch.Tensor) -> torch.Tensor:
        """Σ wₖ·prediction over each picture's rows, (rows, ...) -> (pictures, ...).

        Predictions in half precision are added in float32, and the sum stays so.
        """
        predictions = at_least_float32(predictions)
        weights = predictions.new_tensor([term.weight for _, term in self.rows])
        weighted = predictions * weights.view(-1, *[1] * (predictions.ndim - 1))
        first, *others = weighted.split([len(block) for block in self.blocks])
        for block, part in zip(self.blocks[1:], others, strict=True):
            if len(block) < len(first):
                part = torch.zeros_like(first).index_copy(0, index_of(block, part), part)
            first = first + part
        return first


def at_least_float32(value: torch.Tensor) -> torch.Tensor:
    """Return numbers of half precision as float32, others as they are."""
    return value.float() if torch.finfo(value.dtype).bits < 32 else value


def take_rows(value: Any, rows: list[int], num_rows: int) -> Any:
    """Pick rows of every batched tensor in a nested argument; what has no batch axis stays."""
    if torch.is_tensor(value):
        is_batched = value.ndim > 0 and value.shape[0] == num_rows
        return value.index_select(0, index_of(rows, value)) if is_batched else value
    if isinstance(value, dict):
        return {key: take_rows(part, rows, num_rows) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(take_rows(part, rows, num_rows) for part in value)
    return value


def stacked(output: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """Return predictions as one tensor; some denoisers give a list with one per row."""
    return torch.stack(output) if isinstance(output, list) else output


def index_of(places: list[int], like: torch.Tensor) -> torch.Tensor:
    """Return places as a tensor beside another one."""
    return torch.tensor(places, device=like.device)


def get_nested(kwargs: dict[str, Any], path: str) -> Any:
    """Return the argument at a dotted path; none where there is none."""
    value: Any = kwargs
    for key in path.split("."):
        value = None if value is None else value.get(key)
    return value


def set_nested(kwargs: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a dotted path."""
    *parents, last = path.split(".")
    for key in parents:
        kwargs = kwargs[key]
    kwargs[last] = value
