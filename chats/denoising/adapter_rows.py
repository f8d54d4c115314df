"""One forward, each row of the batch with its own LoRA adapter or none.

A pair of LoRA adapters on one denoiser then costs what one model costs: the preferred, dispreferred
and reference predictions are rows of one batch. Sampling and training both use it. A forward hook
on each adapted layer adds scaling·B·A·x to the rows that name the adapter; the layer itself is not
changed, so an adapter from a file needs no surgery on the model and leaves no trace.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from chats.errors import UserError

PREFERRED = "preferred"
DISPREFERRED = "dispreferred"
BASE = "__base__"
"""Row name of the denoiser without adapters: the reference."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """One adapter on one layer: adds scaling·up·down·x."""

    down: torch.Tensor
    """A, (rank, in) or (rank, in, height, width) on a convolution."""

    up: torch.Tensor
    """B, (out, rank) or (out, rank, 1, 1)."""

    scaling: float
    """alpha / rank."""

    def add_to(self, output: torch.Tensor, inputs: torch.Tensor, layer: nn.Module) -> None:
        """Add scaling·B·A·x to the layer's output in place; no copy of it is made.

        Args:
            output: rows of what the layer itself returned.
            inputs: the same rows of its inputs.
            layer: the layer that the adapter sits on.
        """
        inputs = inputs.to(self.down.dtype)
        if self.down.ndim == 2:
            low = functional.linear(inputs, self.down).flatten(0, -2).to(output.dtype)
            flat = output.view(-1, output.shape[-1])
            flat.addmm_(low, self.up.T.to(output.dtype), alpha=self.scaling)
            return
        base = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        shape = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
        update = functional.conv2d(functional.conv2d(inputs, self.down, **shape), self.up)
        output.add_(update.to(output.dtype), alpha=self.scaling)


AdaptedLayers = Mapping[nn.Module, Mapping[str, LowRank]]
"""Layer -> adapter name -> its matrices."""


def adapter_rows(
    denoiser: nn.Module, names: Sequence[str]
) -> contextlib.AbstractContextManager[None]:
    """Give each row of the denoiser's batch its own adapter while the context is open.

    Gradients reach every adapter that has rows. With gradient checkpointing call backward() inside
    the context, so that the recomputed forward sees the same rows.

    Args:
        denoiser: a model that carries LoRA adapters, see `add_pair_adapters`.
        names: one adapter name per row, `preferred`, `dispreferred` or `__base__`. It is read at
            every forward, so a list may be changed in place between forwards.

    Raises:
        UserError: there is no adapter, a name is unknown, or an adapter cannot be mixed by rows.
    """
    return mixed_rows(carried_adapters(denoiser), names)


@contextlib.contextmanager
def mixed_rows(layers: AdaptedLayers, names: Sequence[str]) -> Iterator[None]:
    """Do the same with adapters that are not part of the denoiser, on its plain layers."""
    known = frozenset({BASE, *(name for adapters in layers.values() for name in adapters)})
    with contextlib.ExitStack() as hooks:
        for layer, adapters in layers.items():
            hook = _Hook(adapters, names=names, known=known)
            hooks.callback(layer.register_forward_hook(hook).remove)
        yield


def carried_adapters(denoiser: nn.Module) -> AdaptedLayers:
    """Return the LoRA adapters that a denoiser carries, if rows of one batch can have each its own.

    Raises:
        UserError: there are none, or they are fused, switched on for all rows, or no plain LoRA.
    """
    layers = lora_layers(denoiser)
    if not layers:
        raise UserError(f"{type(denoiser).__name__} carries no LoRA adapters.")
    refuse_fused(denoiser)
    if any(layer.lora_variant or any(layer.use_dora.values()) for layer in layers):
        raise UserError(
            "The denoiser carries a DoRA or another variant of LoRA; rows can only mix plain LoRA "
            "adapters. Train the pair with use_dora=False."
        )
    if any(
        layer.lora_bias.get(name) or layer.lora_embedding_A for layer in layers for name in layer.r
    ):
        raise UserError("Rows can only mix adapters without bias on linear and convolution layers.")
    if any(
        isinstance(drop, nn.Dropout) for layer in layers for drop in layer.lora_dropout.values()
    ):
        raise UserError("Rows can only mix adapters without dropout. Set lora_dropout to 0.")
    active = {name for layer in layers for name in layer.active_adapters if name in layer.r}
    if active and not all(layer.disable_adapters for layer in layers):
        raise UserError(
            f"The adapters {sorted(active)} are switched on for every row. Switch them off "
            "(layer.set_adapter([]) on each of their layers) and let the rows name them."
        )
    return {layer: _Carried(layer) for layer in layers}


def add_pair_adapters(
    denoiser: nn.Module,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    generator: torch.Generator | None = None,
) -> None:
    """Add both adapters of a pair, ready to be trained: the denoiser still is its own reference.

    The base is frozen, both adapters require gradients, B is zero. Without rows (see
    `adapter_rows`) a forward gives the reference.

    Args:
        denoiser: the base model; changed in place.
        rank: rank r of each adapter.
        alpha: LoRA's alpha; the update is (alpha / r)·B·A.
        targets: ends of the names of the layers to adapt.
        generator: where A's start values come from; none means torch's global one.

    Raises:
        UserError: the denoiser already carries adapters, or no layer has such a name.
    """
    if any(isinstance(module, BaseTunerLayer) for module in denoiser.modules()):
        raise UserError(
            f"The denoiser already carries the adapters {sorted(adapter_names(denoiser))}. Unload "
            "them first: pipe.unload_lora_weights()."
        )
    if not any(_is_target(name, targets) for name, _ in denoiser.named_modules()):
        raise UserError(
            f"No layer of {type(denoiser).__name__} has a name that ends with one of "
            f"{list(targets)}. Set the target modules to ends of its layers' names."
        )
    configs = {}
    for name in (PREFERRED, DISPREFERRED):
        configs[name] = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        # peft warns when it meets its own attribute of the adapter before: set it aside meanwhile.
        vars(denoiser).pop("peft_config", None)
        inject_adapter_in_model(configs[name], denoiser, name)
    denoiser.peft_config = configs
    denoiser.requires_grad_(False)
    for layer in lora_layers(denoiser):
        layer.set_adapter([])
        for name in (PREFERRED, DISPREFERRED):
            down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            down.requires_grad_(True)
            up.requires_grad_(True)


def adapter_weights(denoiser: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return a copy of one adapter's weights on the CPU, named '<layer>.lora_A.weight' and so on.

    Raises:
        UserError: the denoiser has no such adapter.
    """
    return {
        path: weight.detach().to("cpu", copy=True).contiguous()
        for path, weight in adapter_parameters(denoiser, name).items()
    }


def adapter_parameters(denoiser: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Return one adapter's weights themselves, named '<layer>.lora_A.weight' and so on.

    Raises:
        UserError: the denoiser has no such adapter.
    """
    found = adapter_names(denoiser)
    if name not in found:
        raise UserError(f"Unknown adapter name {name!r}; the denoiser has {sorted(found)}.")
    return {
        f"{path}.{part}.weight": modules[name].weight
        for path, layer in denoiser.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_A
        for part, modules in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }


def lora_layers(denoiser: nn.Module) -> list[LoraLayer]:
    """Return the layers of the denoiser that carry LoRA adapters."""
    return [module for module in denoiser.modules() if isinstance(module, LoraLayer)]


def adapter_names(denoiser: nn.Module) -> set[str]:
    """Return the names of the LoRA adapters that the denoiser carries."""
    return {name for layer in lora_layers(denoiser) for name in layer.r}


def refuse_fused(denoiser: nn.Module) -> None:
    """Refuse a denoiser with an adapter fused into its weights.

    Raises:
        UserError: there is one: the denoiser is not the base that an adapter was trained on.
    """
    if any(module.merged for module in denoiser.modules() if isinstance(module, BaseTunerLayer)):
        raise UserError(
            "A LoRA is fused into the denoiser's weights, so it is no longer the base that the "
            "pair was trained from. Call pipe.unfuse_lora() first."
        )


class _Carried(Mapping[str, LowRank]):
    """The adapters of a layer, as they are when they are asked for.

    FSDP puts a layer's whole weights in the place of its shards only while it computes.
    """

    def __init__(self, layer: LoraLayer) -> None:
        self._layer = layer

    def __getitem__(self, name: str) -> LowRank:
        layer = self._layer
        return LowRank(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer.lora_A)

    def __len__(self) -> int:
        return len(self._layer.lora_A)


class _Hook:
    """Adds the adapters of one layer to the rows of its output that name them."""

    def __init__(
        self, adapters: Mapping[str, LowRank], *, names: Sequence[str], known: frozenset[str]
    ) -> None:
        self._adapters = adapters
        self._names = names
        self._known = known

    def __call__(self, layer: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        """Return output + Σ scaling·B·A·x, row by row its own adapter."""
        rows, inputs = self._names, args[0]
        if not self._known.issuperset(rows):
            unknown = sorted(set(rows) - self._known)
            raise UserError(f"Unknown adapter names {unknown}; known are {sorted(self._known)}.")
        check_rows(rows, inputs, layer)
        if self._adapters.keys().isdisjoint(rows):
            return None
        for name, part in row_runs(rows):
            if name in self._adapters:
                # A layer's own output is nobody else's yet, so it may be changed in place.
                self._adapters[name].add_to(output[part], inputs[part], layer)
        return output


def check_rows(rows: Sequence[str], inputs: torch.Tensor, layer: nn.Module) -> None:
    """Refuse inputs that have not one row for each name.

    Raises:
        UserError: says how many of each there are.
    """
    if len(rows) != len(inputs):
        raise UserError(
            f"{len(rows)} adapter names for {len(inputs)} rows at a {type(layer).__name__} "
            "layer. Give one name per row, and adapt only layers that keep the batch first."
        )


def row_runs(rows: Sequence[str]) -> Iterator[tuple[str, slice]]:
    """Yield each stretch of neighbouring rows with the same adapter."""
    first = 0
    for name, stretch in itertools.groupby(rows):
        last = first + sum(1 for _ in stretch)
        yield name, slice(first, last)
        first = last


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)
