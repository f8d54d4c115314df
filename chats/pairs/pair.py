"""A preference pair on disk and on the Hub: two denoisers, or two LoRA adapters on one.

Our layout is a folder with `pair.json`, `preferred/` and `dispreferred/`; each half is a diffusers
denoiser folder (full) or a LoRA file that `pipe.load_lora_weights` reads as well. The layout of the
weights that the paper's authors released is read as it is. Nothing but safetensors is loaded.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, JsonValue, ValidationError, model_validator
from safetensors.torch import save_file
from torch import nn

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, FrozenSettings
from chats.denoising.adapter_rows import AdaptedLayers, LowRank, adapter_weights
from chats.denoising.families import family_named
from chats.denoising.family import Family
from chats.denoising.methods import Role
from chats.errors import UserError, explain_validation
from chats.pairs import hub, released
from chats.pairs.halves import (
    adapted_layers,
    check_adapter_fits,
    check_denoiser_fits,
    load_adapter,
    load_denoiser,
)
from chats.pairs.weight_files import local_folder, read_json

LORA_FILE = "pytorch_lora_weights.safetensors"
HALVES: tuple[Role, ...] = ("preferred", "dispreferred")

Half = nn.Module | Mapping[str, torch.Tensor]
"""A denoiser, or the weights of a LoRA adapter by layer name."""


class Recommended(FrozenSettings):
    """The setting that served this pair best."""

    scale: float = Field(DEFAULT_SCALE, ge=0)
    """Guidance scale, the paper's s."""

    alpha: float = DEFAULT_ALPHA
    """Proxy strength α."""


class PairMetadata(FrozenSettings):
    """What `pair.json` says of a pair."""

    format_version: Literal[1] = 1
    """Version of this layout."""

    kind: Literal["lora", "full"]
    """Two LoRA adapters, or two whole denoisers."""

    base: str
    """The model that both halves were trained from: a folder or a Hub id."""

    family: str
    """Name of its family in `chats.denoising.families`."""

    null_prompt: Literal["empty", "zeros"] = "empty"
    """What the dropped prompt was: the encoding of "", or zeros."""

    rank: int | None = Field(None, ge=1)
    """LoRA's rank; none for a full pair."""

    lora_alpha: float | None = Field(None, gt=0)
    """LoRA's alpha; none for a full pair."""

    target_modules: tuple[str, ...] | None = None
    """Ends of the names of the adapted layers; none for a full pair."""

    objective: str = "chats"
    """The training objective that made it."""

    recommended: Recommended = Recommended()
    """The setting to start from."""

    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    """How it was made: data, settings, seed, versions."""

    @model_validator(mode="after")
    def _lora_says_its_size(self) -> "PairMetadata":
        if self.kind == "lora" and None in (self.rank, self.lora_alpha, self.target_modules):
            raise ValueError("a LoRA pair needs rank, lora_alpha and target_modules")
        return self


@dataclass(frozen=True, eq=False)
class Pair:
    """Two halves and what is known of them; one half may be absent."""

    metadata: PairMetadata
    preferred: Half | None = None
    dispreferred: Half | None = None

    def half(self, role: Role) -> Any:
        """Return one half.

        Raises:
            UserError: the pair does not have it.
        """
        half = {"preferred": self.preferred, "dispreferred": self.dispreferred}[role]
        if half is None:
            other = "preferred" if role == "dispreferred" else "dispreferred"
            raise UserError(
                f"The pair has no {role} half, which this method needs; it has only a {other} one. "
                "A preferred half alone can be sampled with 'preferred-cfg', a dispreferred one "
                "with 'npo'."
            )
        return half

    def halves(self) -> dict[Role, Any]:
        """Return the halves that are there."""
        both: dict[Role, Any] = {"preferred": self.preferred, "dispreferred": self.dispreferred}
        return {role: half for role, half in both.items() if half is not None}


def load_pair(source: str | Path, *, dtype: torch.dtype | None = None) -> Pair:
    """Load a pair from a folder or the Hub.

    Args:
        source: a folder in our layout or in the released one, or a Hub id such as `owner/name`.
        dtype: dtype of a full pair's weights; none keeps the files' own.

    Raises:
        UserError: there is no such pair, or its files are refused; says why.
    """
    folder = locate_pair(str(source))
    if released.is_released(folder):
        metadata = PairMetadata(**released.describe(folder, source=str(source)))
        places = released.HALVES
    else:
        metadata = _read_metadata(folder)
        places = {role: role for role in HALVES}
    family = family_named(metadata.family)
    found: dict[str, Half] = {}
    for role, place in places.items():
        if not (folder / place).exists():
            continue
        if metadata.kind == "full":
            found[role] = load_denoiser(folder / place, family=family, dtype=dtype)
        else:
            found[role] = load_adapter(
                folder / place / LORA_FILE,
                family=family,
                rank=metadata.rank,
                alpha=metadata.lora_alpha,
            )
    if not found:
        raise UserError(f"{folder.name} has neither a preferred nor a dispreferred half.")
    return Pair(metadata, **found)


def locate_pair(name: str) -> Path:
    """Return the local folder of a pair, fetching it from the Hub where it is not here yet.

    Raises:
        UserError: there is no such pair, or the Hub cannot be reached.
    """
    if (folder := local_folder(name)) is not None:
        return folder
    with contextlib.suppress(OSError):  # too long to be the name of a file
        if Path(name).is_file():
            raise UserError(
                f"{Path(name).name} is a file; a pair is a folder with pair.json, preferred and "
                "dispreferred in it. Pickled weights (.bin, .pt, .ckpt) are never read."
            )
    if hub.is_hub_id(name):
        return hub.fetch(name)
    raise UserError(
        f"Unknown pair {name!r}. A pair is a folder with a pair.json, or a Hub id such as "
        "owner/name."
    )


def save_pair(pair: Pair, folder: str | Path) -> None:
    """Write a pair in our layout; `pair.json` comes last, so half a pair is never taken for one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pair.json").unlink(missing_ok=True)
    for role, half in pair.halves().items():
        if pair.metadata.kind == "full":
            save_denoiser(half, folder / role)
        else:
            _save_adapter(half, folder / role / LORA_FILE, metadata=pair.metadata)
    staged = folder / ".pair.json.partial"
    staged.write_text(pair.metadata.model_dump_json(indent=2) + "\n", "utf-8")
    staged.rename(folder / "pair.json")


def save_denoiser(denoiser: nn.Module, folder: Path) -> None:
    """Write a denoiser as a diffusers folder that does not say where it was loaded from."""
    denoiser.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    # Where it was loaded from is a path of this machine; nobody else can use it.
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def pair_from_adapters(denoiser: nn.Module, metadata: PairMetadata) -> Pair:
    """Make a pair of a copy of the adapters that a denoiser carries, for instance after training.

    Raises:
        UserError: the denoiser does not carry both adapters.
    """
    return Pair(metadata, **{role: adapter_weights(denoiser, role) for role in HALVES})


def layers_of_pair(
    pair: Pair, denoiser: nn.Module, *, device: torch.device, dtype: torch.dtype
) -> AdaptedLayers:
    """Return where a LoRA pair's adapters belong on a denoiser, on a device and in a dtype."""
    scaling = pair.metadata.lora_alpha / pair.metadata.rank
    layers: dict[nn.Module, dict[str, LowRank]] = {}
    for role, half in pair.halves().items():
        for path in adapted_layers(half):
            down, up = (
                half[f"{path}.lora_{part}.weight"].to(device=device, dtype=dtype) for part in "AB"
            )
            layer = denoiser.get_submodule(path)
            layers.setdefault(layer, {})[role] = LowRank(down, up, scaling)
    return layers


def check_fits(pair: Pair, denoiser: nn.Module, *, family: Family) -> None:
    """Check that a pair belongs to this architecture, before anything is changed.

    Raises:
        UserError: another family, or layers of other names or shapes.
    """
    if pair.metadata.family != family.name:
        raise UserError(
            f"The pair is for the family {pair.metadata.family!r} (base {pair.metadata.base!r}), "
            f"this pipeline is {family.name!r}. Load the pair's base, or another pair."
        )
    for role, half in pair.halves().items():
        if pair.metadata.kind == "full":
            check_denoiser_fits(half, denoiser, role=role, base=pair.metadata.base)
        else:
            check_adapter_fits(half, denoiser, role=role, base=pair.metadata.base)


def _read_metadata(folder: Path) -> PairMetadata:
    if not (folder / "pair.json").is_file():
        raise UserError(
            f"{folder.name} is not a pair: it has neither pair.json (our layout) nor unet_win and "
            "unet_lose (the released layout). Two LoRA files or two fine-tuned models become one "
            "with `python -m chats convert` or chats.join_pair."
        )
    try:
        return PairMetadata.model_validate(read_json(folder / "pair.json"))
    except ValidationError as error:
        raise UserError(f"pair.json in {folder.name}: {explain_validation(error)}") from None


def _save_adapter(
    tensors: Mapping[str, torch.Tensor], path: Path, *, metadata: PairMetadata
) -> None:
    prefix = family_named(metadata.family).denoiser
    adapter = {
        "r": metadata.rank,
        "lora_alpha": metadata.lora_alpha,
        "target_modules": list(metadata.target_modules),
    }
    # The keys that diffusers writes and reads, so that load_lora_weights keeps rank and alpha.
    header = json.dumps({f"{prefix}.{key}": value for key, value in adapter.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{prefix}.{name}": tensor.contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt", "lora_adapter_metadata": header},
    )
