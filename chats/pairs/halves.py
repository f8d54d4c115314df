"""One half of a pair: read from disk with every check, and compared with a denoiser.

Every refusal comes before a model is changed.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from chats.denoising.family import Family
from chats.errors import UserError
from chats.pairs.weight_files import check_weight_files, read_json

_PLAIN_LORA = {"use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}


def load_denoiser(folder: Path, *, family: Family, dtype: torch.dtype | None) -> nn.Module:
    """Load a denoiser from a diffusers folder.

    Raises:
        UserError: another class, or weights that are missing, damaged, pickled or not finite.
    """
    check_weight_files(folder)
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != family.denoiser_class:
        raise UserError(
            f"{folder.name} holds a {kind}; a pair of the family {family.name!r} needs a "
            f"{family.denoiser_class}."
        )
    try:
        denoiser, report = getattr(diffusers, kind).from_pretrained(
            folder,
            dtype=dtype or _own_dtype(folder),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"The weights in {folder.name} do not load: {error}") from None
    wrong = {name: report[name] for name in ("missing_keys", "mismatched_keys") if report[name]}
    if wrong:
        # diffusers would leave these at random values, with no more than a warning.
        raise UserError(f"The weights in {folder.name} do not match its config.json: {wrong}")
    check_finite(denoiser.state_dict(), where=folder.name)
    return denoiser.eval()


def load_adapter(path: Path, *, family: Family, rank: int, alpha: float) -> dict[str, torch.Tensor]:
    """Load a LoRA adapter, as '<layer>.lora_A.weight' and '<layer>.lora_B.weight'.

    Raises:
        UserError: no such file; a DoRA or another variant; other rank or alpha than `pair.json`
            says; weights that are damaged, pickled or not finite.
    """
    where = f"{path.parent.name}/{path.name}"
    check_weight_files(path.parent)
    if not path.is_file():
        raise UserError(f"The pair has no {where}.")
    tensors = load_file(path)
    header = adapter_header(path, where=where)
    said = {key.removeprefix(f"{family.denoiser}."): value for key, value in header.items()}
    _check_plain(tensors, said, where=where)
    if said.get("r", rank) != rank or said.get("lora_alpha", alpha) != alpha:
        raise UserError(
            f"{where} was trained with rank {said.get('r')} and alpha {said.get('lora_alpha')}, "
            f"pair.json says {rank} and {alpha}. One of the two files belongs to another pair."
        )
    adapter = {key.removeprefix(f"{family.denoiser}."): value for key, value in tensors.items()}
    for layer in adapted_layers(adapter):
        down, up = (adapter.get(f"{layer}.lora_{part}.weight") for part in "AB")
        if down is None or up is None or down.shape[0] != rank or up.shape[1] != rank:
            raise UserError(f"{where} has no pair of matrices of rank {rank} for layer {layer}.")
    check_finite(adapter, where=where)
    return adapter


def adapted_layers(adapter: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the layers that an adapter's weights belong to."""
    return sorted({key.rsplit(".lora_", 1)[0] for key in adapter})


def check_finite(tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        UserError: the first tensor that has one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"{where} has values that are not finite, in {name}: a training that went wrong, "
                "or a damaged copy. Use an earlier checkpoint."
            )


def check_denoiser_fits(half: nn.Module, denoiser: nn.Module, *, role: str, base: str) -> None:
    """Refuse a half whose weights have other names or shapes than the denoiser's.

    Raises:
        UserError: the first difference.
    """
    ours, theirs = _shapes(half), _shapes(denoiser)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"The pair is for another architecture (base {base!r}): {name} is "
                f"{ours.get(name, 'absent')} in its {role} half and {theirs.get(name, 'absent')} "
                "in the pipeline's denoiser."
            )


def check_adapter_fits(
    half: Mapping[str, torch.Tensor], denoiser: nn.Module, *, role: str, base: str
) -> None:
    """Refuse an adapter whose layers the denoiser does not have, or has in another shape.

    Raises:
        UserError: the first difference.
    """
    layers = dict(denoiser.named_modules())
    if any(getattr(module, "fused_projections", False) for module in layers.values()):
        raise UserError(
            "The denoiser's attention projections are fused, so adapters on them would have no "
            "effect. Call pipe.unfuse_qkv_projections() first."
        )
    for key, tensor in half.items():
        name, _, part = key.removesuffix(".weight").rpartition(".")
        layer = layers.get(name)
        weight = getattr(layer, "weight", None)
        sides = {"lora_A": slice(1, None), "lora_B": slice(0, 1)}[part]
        if weight is None or weight.shape[sides] != tensor.shape[sides]:
            found = "absent" if weight is None else tuple(weight.shape)
            raise UserError(
                f"The pair is for another architecture (base {base!r}): its {role} half has "
                f"{key} of shape {tuple(tensor.shape)}, the denoiser's layer {name} is {found}."
            )


def adapter_header(path: Path, *, where: str) -> dict[str, object]:
    """Read what diffusers and peft write of an adapter into a safetensors header."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{where} has a header that cannot be read: it is damaged.")
    return header


def _check_plain(
    tensors: Mapping[str, torch.Tensor], said: Mapping[str, object], *, where: str
) -> None:
    variants = [name for name, plain in _PLAIN_LORA.items() if said.get(name, plain) != plain]
    strange = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if variants or strange or not tensors:
        what = variants or strange[:3] or "no weights"
        raise UserError(
            f"{where} is not a plain LoRA ({what}); rows can only mix plain LoRA adapters, no DoRA "
            "or other variant. Train the pair with use_dora=False."
        )


def _own_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of the weights on disk; diffusers would load any as float32."""
    path = next(iter(sorted(folder.glob("*.safetensors"))), None)
    if path is None:
        raise UserError(f"{folder.name} has no safetensors file.")
    with safe_open(path, framework="pt") as file:
        return next(file.get_tensor(key).dtype for key in file.keys())  # noqa: SIM118


def _shapes(denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name.replace(".base_layer.", "."): tuple(tensor.shape)
        for name, tensor in denoiser.state_dict().items()
        if ".lora_" not in name
    }
