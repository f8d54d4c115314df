"""A pair joined from what there is: two LoRA files, two fine-tuned denoisers, or one of them.

A Diffusion-DPO model is a preferred half, sampled with `preferred-cfg`; a Diffusion-NPO model is a
dispreferred half, sampled with `npo`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from chats.denoising.families import FAMILIES
from chats.denoising.family import Family
from chats.denoising.methods import Role
from chats.errors import UserError
from chats.pairs import hub
from chats.pairs.halves import load_denoiser
from chats.pairs.pair import LORA_FILE, Half, Pair, PairMetadata
from chats.pairs.plain_lora import load_plain_lora, padded, ranks, target_names
from chats.pairs.weight_files import local_folder, read_json
from chats.shapes import BASE, SHAPES_MODEL

_WHAT_A_HALF_IS = (
    "A half is a LoRA file (.safetensors), a folder with one, the folder of a diffusers denoiser "
    "or of a whole pipeline, or a Hub id of one of them (owner/name, or owner/name/file)."
)


def join_pair(
    *,
    base: str | Path,
    preferred: str | Path | None = None,
    dispreferred: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Pair:
    """Join two halves of a pair, or take one alone; `chats.save_pair` keeps it in our layout.

    Both must be LoRA adapters or both whole denoisers. Adapters may differ in rank, alpha and
    layers.

    Args:
        base: the model that both were made from: `shapes`, a folder or a Hub id; of a Hub id only
            the small files are fetched.
        preferred: the preferred half: a LoRA file, a folder, or a Hub id.
        dispreferred: the dispreferred half likewise.
        dtype: of whole denoisers; none keeps their files' own.

    Raises:
        UserError: neither half is given, one is not found or refused, or they are of two kinds.
    """
    given = {"preferred": preferred, "dispreferred": dispreferred}
    names = {role: str(name) for role, name in given.items() if name is not None}
    if not names:
        raise UserError("Give a preferred half, a dispreferred half, or both.")
    folder = _base_folder(str(base))
    family = _family_of_base(folder)
    places = {role: _locate(name, family=family) for role, name in names.items()}
    kinds = {role: "lora" if place.is_file() else "full" for role, place in places.items()}
    if len(set(kinds.values())) > 1:
        which = ", ".join(f"the {role} half is {_KINDS[kind]}" for role, kind in kinds.items())
        raise UserError(f"Both halves must be of one kind, but {which}.")
    halves: dict[Role, Half] = {
        role: load_plain_lora(place, family=family, base=folder)
        if kinds[role] == "lora"
        else load_denoiser(place, family=family, dtype=dtype)
        for role, place in places.items()
    }
    metadata: dict[str, Any] = {
        "kind": next(iter(kinds.values())),
        "base": str(base),
        "family": family.name,
        "objective": _OBJECTIVES[tuple(names)],
        "provenance": {"joined_from": names},
    }
    if metadata["kind"] == "lora":
        rank = max(max(ranks(half)) for half in halves.values())
        halves = {role: padded(half, rank) for role, half in halves.items()}
        targets = target_names(list(halves.values()))
        metadata |= {"rank": rank, "lora_alpha": float(rank), "target_modules": targets}
    _check_alike(halves)
    return Pair(PairMetadata(**metadata), **halves)


_KINDS = {"lora": "a LoRA", "full": "a whole denoiser"}
_OBJECTIVES: dict[tuple[str, ...], str] = {
    ("preferred", "dispreferred"): "joined",
    ("preferred",): "preferred only",
    ("dispreferred",): "dispreferred only",
}


def _base_folder(base: str) -> Path:
    if base == SHAPES_MODEL:
        return BASE
    if (folder := local_folder(base)) is not None:
        return folder
    if hub.is_hub_id(base):
        return hub.fetch_texts(base)
    raise UserError(
        f"Unknown base {base!r}. It is the model that the halves were made from: {SHAPES_MODEL}, a "
        "folder that diffusers' save_pretrained wrote, or a Hub id such as owner/name."
    )


def _family_of_base(folder: Path) -> Family:
    kind = read_json(folder / "model_index.json").get("_class_name")
    for family in FAMILIES:
        if kind in family.pipelines:
            return family
    raise UserError(f"The base {folder.name} is a {kind}, which is of no family that is known.")


def _locate(name: str, *, family: Family) -> Path:
    """Return the LoRA file, or the folder of the denoiser, that a half is."""
    if (folder := local_folder(name)) is not None:
        return _inside(folder, family=family, name=folder.name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not hub.is_hub_id(f"{owner}/{repository}") or ".." in file:
        raise UserError(f"There is no half {name!r}. {_WHAT_A_HALF_IS}")
    return _on_hub(f"{owner}/{repository}", file, family=family)


def _on_hub(repository: str, file: str, *, family: Family) -> Path:
    instead = "Give a folder or a file on this machine."
    if file:
        folder = hub.fetch_files(repository, (file,), instead=instead)
        if not (folder / file).is_file():
            raise UserError(f"{repository} has no file {file!r}.")
        return folder / file
    texts = hub.fetch_texts(repository)
    denoiser = family.denoiser
    if (texts / denoiser / "config.json").is_file():
        patterns = (f"{denoiser}/*.json", f"{denoiser}/*.safetensors")
    elif (texts / "config.json").is_file():
        patterns = ("*.json", "*.safetensors")
    else:
        patterns = (LORA_FILE,)
    folder = hub.fetch_files(repository, patterns, instead=instead)
    if patterns == (LORA_FILE,) and not (folder / LORA_FILE).is_file():
        raise UserError(
            f"{repository} has neither a {denoiser} folder nor a {LORA_FILE}. Name the LoRA file "
            f"in it: {repository}/<file>.safetensors."
        )
    return _inside(folder, family=family, name=repository)


def _inside(folder: Path, *, family: Family, name: str) -> Path:
    for place in (folder, folder / family.denoiser):
        if (place / "config.json").is_file():
            return place
    if (folder / LORA_FILE).is_file():
        return folder / LORA_FILE
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        some = ", ".join(file.name for file in files[:4])
        raise UserError(f"{name} holds {len(files)} safetensors files ({some}): name the one.")
    raise UserError(f"{name} holds no half of a pair. {_WHAT_A_HALF_IS}")


def _check_alike(halves: dict[Role, Half]) -> None:
    whole = [half for half in halves.values() if isinstance(half, nn.Module)]
    if len(whole) < 2:
        return
    shapes = [{key: value.shape for key, value in half.state_dict().items()} for half in whole]
    if shapes[0] != shapes[1]:
        first = next(
            key
            for key in sorted({**shapes[0], **shapes[1]})
            if shapes[0].get(key) != shapes[1].get(key)
        )
        raise UserError(f"The halves are of two architectures: they differ in {first}.")
