"""A LoRA file of any program, as half of a pair: the layouts that diffusers reads, made plain."""

import inspect
import math
import types
from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional

from chats.denoising.family import Family
from chats.errors import UserError
from chats.pairs.halves import adapted_layers, adapter_header, check_finite
from chats.pairs.weight_files import check_weight_file, read_json

_OTHER_KINDS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_", "oft_", "boft_")


def load_plain_lora(path: Path, *, family: Family, base: Path) -> dict[str, torch.Tensor]:
    """Load a LoRA file as '<layer>.lora_A.weight' and '<layer>.lora_B.weight' of scaling 1.

    Alphas, one for all layers or for each, are multiplied into B.

    Args:
        path: a safetensors file in a layout of diffusers, peft or kohya.
        family: the base's.
        base: the base's folder; only its configuration is read.

    Raises:
        UserError: damaged or pickled; no plain LoRA; parts for a text encoder; values that are not
            finite; says why.
    """
    check_weight_file(path)
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    strange = [key for key in keys if any(mark in key for mark in _OTHER_KINDS)]
    if strange:
        raise UserError(
            f"{path.name} is not a plain LoRA ({strange[0]}); rows can only mix plain LoRA "
            "adapters, no DoRA, LoHa, LoKr or OFT."
        )
    tensors, alphas, said = _read(path, family=family, base=base)
    prefix = f"{family.denoiser}."
    foreign = [key for key in tensors if not key.startswith(prefix)]
    if any(key.startswith("text_encoder") for key in foreign):
        raise UserError(
            f"{path.name} also adapts a text encoder; a pair adapts the {family.denoiser} alone, "
            "because both halves share the encoders. Use a LoRA without that part."
        )
    if foreign:
        raise UserError(
            f"{path.name} is no LoRA for the {family.denoiser} of the family {family.name!r}: it "
            f"holds {foreign[0]!r}. Check that it was trained from this base."
        )
    adapter = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if adapter and not any(".lora_A." in key for key in adapter):
        adapter = convert_unet_state_dict_to_peft(adapter)
    bad = [key for key in adapter if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if bad or not adapter:
        raise UserError(f"{path.name} is not a LoRA that can be read ({bad[:2] or 'no weights'}).")
    check_finite(adapter, where=path.name)
    return _with_alpha(adapter, alphas, said, path=path)


def padded(adapter: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Fill A and B of every layer with zeros up to `rank`: B·A stays what it is."""
    grown = {}
    for key, value in adapter.items():
        axis = 0 if key.endswith(".lora_A.weight") else 1
        missing = rank - value.shape[axis]
        pad = [0] * (2 * (value.ndim - 1 - axis)) + [0, missing]
        grown[key] = functional.pad(value, pad).contiguous()
    return grown


def ranks(adapter: Mapping[str, torch.Tensor]) -> set[int]:
    """Return the ranks of an adapter's layers."""
    return {len(value) for key, value in adapter.items() if key.endswith(".lora_A.weight")}


def target_names(adapters: list[Mapping[str, torch.Tensor]]) -> tuple[str, ...]:
    """Return the ends of the names of the adapted layers, such as `to_q` and `to_out.0`."""
    ends = set()
    for layer in {layer for adapter in adapters for layer in adapted_layers(adapter)}:
        *before, last = layer.split(".")
        ends.add(f"{before[-1]}.{last}" if last.isdigit() and before else last)
    return tuple(sorted(ends))


def _read(
    path: Path, *, family: Family, base: Path
) -> tuple[dict[str, torch.Tensor], dict[str, float], dict[str, object]]:
    """Return weights by name in the pipeline, alphas by layer, and what the header says."""
    pipeline = getattr(diffusers, family.pipelines[0])
    prefix = f"{family.denoiser}."
    if not hasattr(pipeline, "lora_state_dict"):
        header = adapter_header(path, where=path.name)
        return load_file(path), {}, {key.removeprefix(prefix): header[key] for key in header}
    options: dict[str, object] = {}
    if family.denoiser == "unet":
        config = read_json(base / family.denoiser / "config.json")
        options["unet_config"] = types.SimpleNamespace(**config)
    if "return_alphas" in inspect.signature(pipeline.lora_state_dict).parameters:
        options["return_alphas"] = True
    try:
        tensors, *rest = pipeline.lora_state_dict(
            str(path.parent),
            weight_name=path.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"{path.name} is not a LoRA that diffusers can read: {error}") from None
    found = (rest[0] or {}) if len(rest) > 1 else {}
    alphas = convert_unet_state_dict_to_peft(
        {key.removeprefix(prefix).removesuffix(".alpha"): value for key, value in found.items()}
    )
    by_layer = {key.split(".lora_A.")[0]: float(value) for key, value in alphas.items()}
    said = {key.removeprefix(prefix): value for key, value in (rest[-1] or {}).items()}
    return tensors, by_layer, said


def _with_alpha(
    adapter: dict[str, torch.Tensor],
    alphas: Mapping[str, float],
    said: Mapping[str, object],
    *,
    path: Path,
) -> dict[str, torch.Tensor]:
    found = {}
    for layer in adapted_layers(adapter):
        down, up = (adapter.get(f"{layer}.lora_{part}.weight") for part in "AB")
        if down is None or up is None or len(down) != up.shape[1]:
            raise UserError(f"{path.name} has no pair of matrices that fit for layer {layer}.")
        alpha = alphas.get(layer, _alpha_said(layer, said, rank=len(down)))
        size = math.sqrt(len(down)) if said.get("use_rslora") else len(down)
        found[f"{layer}.lora_A.weight"] = down
        found[f"{layer}.lora_B.weight"] = up * (alpha / size)
    return found


def _alpha_said(layer: str, said: Mapping[str, object], *, rank: int) -> float:
    pattern = said.get("alpha_pattern") or {}
    return float(pattern.get(get_pattern_key(pattern, layer), said.get("lora_alpha", rank)))
