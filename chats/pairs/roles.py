"""Which module predicts in which role: a pipeline's denoiser and a pair become `Models`."""

from typing import Any

from torch import nn

from chats.denoising.adapter_rows import (
    BASE,
    DISPREFERRED,
    PREFERRED,
    AdaptedLayers,
    adapter_names,
    carried_adapters,
    refuse_fused,
)
from chats.denoising.denoiser import Models
from chats.denoising.families import family_of
from chats.denoising.methods import Role
from chats.errors import UserError
from chats.pairs.pair import Pair, check_fits, layers_of_pair


def models_of(pipe: Any, pair: Pair | None, *, roles: set[Role]) -> Models:
    """Return the model of every role in `roles`; the pipeline's denoiser is not changed.

    Raises:
        UserError: a role has no model, or the pair does not fit the pipeline.
    """
    family = family_of(pipe)
    denoiser = getattr(pipe, family.denoiser)
    if pair is None:
        return _models_without_pair(denoiser, roles)
    check_fits(pair, denoiser, family=family)
    for role in sorted(roles - {"reference"}):
        pair.half(role)
    if pair.metadata.kind == "full":
        return _models_of_full_pair(pipe, denoiser, pair, roles)
    refuse_fused(denoiser)
    device = pipe._execution_device
    return _mixed(denoiser, layers_of_pair(pair, denoiser, device=device, dtype=denoiser.dtype))


def _models_without_pair(denoiser: nn.Module, roles: set[Role]) -> Models:
    carried = adapter_names(denoiser) & {PREFERRED, DISPREFERRED}
    missing = sorted(roles - {"reference"} - carried)
    if missing:
        raise UserError(
            f"The method needs a {' and a '.join(missing)} model, but there is no pair. Pass "
            "pair=chats.load_pair(...), or use the methods 'standard' and 'cfg', which need none."
        )
    if carried:
        return _mixed(denoiser, carried_adapters(denoiser))
    return Models(modules={"reference": denoiser})


def _mixed(denoiser: nn.Module, layers: AdaptedLayers) -> Models:
    adapters: dict[Role, str] = {
        "reference": BASE,
        "preferred": PREFERRED,
        "dispreferred": DISPREFERRED,
    }
    modules = dict.fromkeys(adapters, denoiser)
    return Models(modules=modules, adapters=adapters, layers=layers)


def _models_of_full_pair(pipe: Any, denoiser: nn.Module, pair: Pair, roles: set[Role]) -> Models:
    modules: dict[Role, nn.Module] = {"reference": denoiser}
    if "reference" in roles and denoiser in (pair.preferred, pair.dispreferred):
        raise UserError(
            "The pipeline's denoiser is one half of the pair itself, so there is no reference "
            "model for this method. Load the pair's base into a pipeline of its own, or use "
            "'preferred-cfg'."
        )
    if roles != {"reference"} and hasattr(denoiser, "_hf_hook"):
        raise UserError(
            "A full pair cannot run on a pipeline with CPU offload: its models must be on the "
            "device together. Move the pipeline there with pipe.to(...), or use a LoRA pair."
        )
    device, dtype = pipe._execution_device, denoiser.dtype
    for role in roles - {"reference"}:
        half = pair.half(role)
        if (half.device, half.dtype) != (device, dtype):
            half.to(device=device, dtype=dtype)
        modules[role] = half.eval()
    return Models(modules=modules)
