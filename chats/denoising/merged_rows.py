"""Adapters of rows whose rank is large for their layer: each row its own merged weights.

B·A·x costs 2·r/width of the layer itself. Where that is a large part, as of a small model's layers,
W + scaling·B·A is made once and each row multiplied by its own matrix: no more work than W·x.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from chats.denoising.adapter_rows import AdaptedLayers, LowRank, check_rows, row_runs
from chats.denoising.rows import at_least_float32

_LARGE = 4
"""Weights are merged where the rank is at least a fourth of the layer's smaller side; usual pairs
of large models stay far below, and would take their adapted layers' memory twice."""

_ADDED = ("_row_names", "_row_weights")


def worth_merging(layer: nn.Module, adapters: Mapping[str, LowRank]) -> bool:
    """Say whether a layer is plain, and its adapters so large that merging them is cheaper."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    rank = min(len(each.down) for each in adapters.values())
    return _LARGE * rank >= min(layer.weight.shape)


@contextlib.contextmanager
def merged_rows(layers: AdaptedLayers, names: Sequence[str]) -> Iterator[None]:
    """Have linear layers multiply each row by its adapter's merged weights in the context.

    Args:
        layers: layer -> adapter name -> its matrices; see `worth_merging`.
        names: one adapter name per row, read at every forward; `__base__` has the layer's own.

    Raises:
        UserError: in a forward, where there is not one name per row.
    """
    with contextlib.ExitStack() as undo:
        for layer, adapters in layers.items():
            undo.callback(_restore, layer)
            merged = {name: _merged(layer, each) for name, each in adapters.items()}
            # Past the module's own __setattr__: nothing of this is a part of it.
            vars(layer).update(zip(_ADDED, (names, merged), strict=True))
            layer.__class__ = _MergedLinear
        yield


@torch.no_grad()
def _merged(layer: nn.Linear, adapter: LowRank) -> torch.Tensor:
    weight, up, down = (at_least_float32(each) for each in (layer.weight, adapter.up, adapter.down))
    return (weight + adapter.scaling * (up @ down)).to(layer.weight.dtype)


def _restore(layer: nn.Module) -> None:
    layer.__class__ = nn.Linear
    for name in _ADDED:
        vars(layer).pop(name, None)


class _MergedLinear(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        check_rows(self._row_names, inputs, self)
        weights = self._row_weights
        parts = [
            functional.linear(inputs[part], weights.get(name, self.weight), self.bias)
            for name, part in row_runs(self._row_names)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
