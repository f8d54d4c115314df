"""Adapters of rows inside compiled blocks: one graph for every layout of rows.

`torch.compile` skips hooks that come after it, and would make a graph for each list of row names.
So a layer inside a compiled block gets another class while a context is open, which adds
B·(mask · A·x): the matrices of all adapters side by side, and a mask that says, as numbers, which
row has which adapter. Blocks that are alike share the graph.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from chats.denoising.adapter_rows import BASE, AdaptedLayers, LowRank
from chats.errors import UserError

_ADDED = ("_row_mask", "_row_down", "_row_up", "_row_columns")


class RowMask:
    """Which adapter each row of the forward under way has, as numbers."""

    def __init__(self, names: Sequence[str], *, like: torch.Tensor) -> None:
        """Make it; see `choose`.

        Args:
            names: the adapters, in the order of the columns.
            like: a tensor whose device and dtype the mask has.
        """
        self.names = tuple(names)
        self.values = like.new_zeros(0, len(self.names))

    def choose(self, rows: Sequence[str]) -> None:
        """Set the mask `(rows, adapters)`: 1 where a row has the adapter; `__base__` has none.

        Raises:
            UserError: a name is unknown.
        """
        unknown = sorted(set(rows) - {BASE, *self.names})
        if unknown:
            raise UserError(f"Unknown adapter names {unknown}; known are {list(self.names)}.")
        chosen = [[float(row == name) for name in self.names] for row in rows]
        self.values = self.values.new_tensor(chosen)


def in_compiled_blocks(denoiser: nn.Module) -> set[nn.Module]:
    """Return the modules that run inside a part of the denoiser that `compile()` was called on."""
    compiled = [module for module in denoiser.modules() if module._compiled_call_impl]
    return {part for module in compiled for part in module.modules()}


@contextlib.contextmanager
def masked_rows(layers: AdaptedLayers) -> Iterator[RowMask | None]:
    """Have layers add the adapters that a mask gives their rows while the context is open.

    Args:
        layers: layer -> adapter name -> its matrices; linear layers and convolutions.

    Yields:
        The mask, to be set before every forward; none where there are no layers.

    Raises:
        UserError: layers are offloaded one by one, which replaces their forward.
    """
    if any("forward" in vars(layer) for layer in layers):
        raise UserError(
            "The compiled blocks have layers that are offloaded one by one, where a LoRA pair has "
            "no effect. Offload whole models (enable_model_cpu_offload), or don't compile."
        )
    names = sorted({name for adapters in layers.values() for name in adapters})
    if not names:
        yield None
        return
    first = next(iter(next(iter(layers.values())).values()))
    mask = RowMask(names, like=first.down)
    with contextlib.ExitStack() as undo:
        for layer, adapters in layers.items():
            undo.callback(_restore, layer, type(layer))
            _adapt(layer, {name: adapters[name] for name in names if name in adapters}, mask)
        yield mask


def _adapt(layer: nn.Module, adapters: Mapping[str, LowRank], mask: RowMask) -> None:
    columns = [
        mask.names.index(name) for name, each in adapters.items() for _ in range(len(each.down))
    ]
    down = torch.cat([each.down.detach() for each in adapters.values()])
    up = torch.cat([each.scaling * each.up.detach() for each in adapters.values()], dim=1)
    # Past the module's own __setattr__: nothing of this is a part of it.
    added = (mask, down, up, torch.tensor(columns, device=down.device))
    vars(layer).update(zip(_ADDED, added, strict=True))
    layer.__class__ = _masked_class(type(layer))


def _restore(layer: nn.Module, kind: type) -> None:
    layer.__class__ = kind
    for name in _ADDED:
        vars(layer).pop(name, None)


@functools.cache
def _masked_class(kind: type) -> type:
    """Return one class for each kind of layer: torch makes a graph for each class it meets."""

    class Masked(kind):
        def forward(self, inputs: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
            output = kind.forward(self, inputs, *args, **kwargs)
            chosen = self._row_mask.values.index_select(1, self._row_columns)
            low_inputs = inputs.to(self._row_down.dtype)
            if self._row_down.ndim == 2:
                low = functional.linear(low_inputs, self._row_down)
                chosen = chosen.view(len(chosen), *[1] * (low.ndim - 2), -1)
                update = functional.linear(low * chosen, self._row_up)
            else:
                base = self.get_base_layer() if isinstance(self, BaseTunerLayer) else self
                low = functional.conv2d(
                    low_inputs, self._row_down, None, base.stride, base.padding, base.dilation
                )
                update = functional.conv2d(low * chosen[:, :, None, None], self._row_up)
            return output + update.to(output.dtype)

    Masked.__name__ = Masked.__qualname__ = f"Masked{kind.__name__}"
    return Masked
