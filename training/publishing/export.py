"""A trained pair for others: in our layout, in the authors' or as plain LoRA files.

Nothing that is written names a path of this machine. A folder is complete or not there at all.
"""

import contextlib
import dataclasses
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import diffusers
import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from torch import Tensor, nn

from chats.denoising.families import family_named
from chats.denoising.methods import Role
from chats.errors import UserError
from chats.models.loading import resolve_model
from chats.pairs import hub, released
from chats.pairs.halves import adapted_layers, load_denoiser
from chats.pairs.pair import Pair, PairMetadata, check_fits, save_denoiser, save_pair
from chats.pairs.weight_files import VARIANT_MARKS, check_weight_files, local_folder, read_json
from chats.shapes import SHAPES_MODEL
from training.disk import sync
from training.publishing.card import Layout

_SD15_PARTS = {name: name for name in ("text_encoder", "tokenizer", "vae", "scheduler")}
_SDXL_PARTS = {"text_encoder_2": "text_encoder_two", "tokenizer_2": "tokenizer_two"}
_PARTS: Mapping[str, Mapping[str, str]] = {"sd15": _SD15_PARTS, "sdxl": _SD15_PARTS | _SDXL_PARTS}
"""Family -> part of a stock pipeline -> its name in the released layout."""

_PIPELINES = {"sd15": "ChatsSD15Pipeline", "sdxl": "ChatsSDXLPipeline"}
"""Classes of the authors' code, which is where their model_index.json points to."""

_COPIED_SUFFIXES = frozenset({".json", ".txt", ".safetensors"})
_ORIGINS = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")
"""What libraries write into a configuration to say where it came from."""


def export_pair(pair: Pair, folder: str | Path, *, layout: Layout, card: str | None = None) -> None:
    """Write a pair into a new folder.

    `ours` is what `save_pair` writes. `released` is a whole pipeline with two UNets, as the authors
    publish theirs: a LoRA pair is merged into its base, in 32 bits, because small updates vanish
    in 16. `lora` is `ours` with LoRA's alpha multiplied into B, so that stock diffusers, and
    programs that do not read alpha, load each half as it is.

    Args:
        pair: The pair; it stays as it is.
        folder: Where to; it must not exist, or be empty.
        layout: How to.
        card: Text of a README.md to put beside it.

    Raises:
        UserError: The folder is taken or can't be written to, the layout can't hold this pair, or
            its base is needed and not to be had.
    """
    folder = Path(folder).expanduser().resolve()
    check_export(pair, folder, layout=layout)
    base = _released_base(pair) if layout == "released" else None
    shared = dataclasses.replace(pair, metadata=public_metadata(pair.metadata))
    with _staged(folder) as partial:
        if base is not None:
            _write_released(shared, partial, base=base)
        else:
            save_pair(fold_alpha(shared) if layout == "lora" else shared, partial)
        if card is not None:
            (partial / "README.md").write_text(card, "utf-8")


def check_export(pair: Pair, folder: Path, *, layout: Layout) -> None:
    """Refuse what can be refused before anything is loaded or written.

    Raises:
        UserError: The folder is taken, or the layout can't hold this pair.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is no empty folder. Choose another output.")
    metadata = pair.metadata
    if layout == "lora" and metadata.kind == "full":
        raise UserError(
            "The pair is two whole denoisers, and the layout lora is for LoRA adapters. Choose the "
            "layout ours or released."
        )
    if layout != "released":
        return
    if metadata.family not in _PARTS:
        raise UserError(
            f"The released layout is known for {' and '.join(_PARTS)}; the pair is of the family "
            f"{metadata.family!r}. Choose the layout ours."
        )
    if len(halves := list(pair.halves())) == 1:
        raise UserError(
            f"The released layout holds two denoisers; the pair has only a {halves[0]} half. "
            "Choose the layout ours."
        )
    if metadata.null_prompt != "empty":
        raise UserError(
            "The released layout can't say that the pair's null prompt is zeros: it would be "
            'sampled with the encoding of "". Choose the layout ours.'
        )


def public_metadata(metadata: PairMetadata) -> PairMetadata:
    """Return the metadata with the names of folders in place of their paths."""
    provenance = {name: _without_paths(value) for name, value in metadata.provenance.items()}
    changes = {"base": _public_name(metadata.base), "provenance": provenance}
    return metadata.model_copy(update=changes)


def fold_alpha(pair: Pair) -> Pair:
    """Return a LoRA pair whose alpha is its rank: B becomes (alpha / r)·B."""
    scaling = pair.metadata.lora_alpha / pair.metadata.rank
    halves = {
        role: {key: scaling * each if ".lora_B." in key else each for key, each in half.items()}
        for role, half in pair.halves().items()
    }
    metadata = pair.metadata.model_copy(update={"lora_alpha": float(pair.metadata.rank)})
    return dataclasses.replace(pair, metadata=metadata, **halves)


def merge_adapter(denoiser: nn.Module, adapter: Mapping[str, Tensor], *, scaling: float) -> None:
    """Add an adapter to a denoiser's own weights, in place: W + (alpha / r)·B·A.

    Args:
        denoiser: A plain denoiser that the adapter fits.
        adapter: A, `(r, in)` or `(r, in, h, w)`, and B, `(out, r)` or `(out, r, 1, 1)`, by layer.
        scaling: alpha / r.
    """
    for layer in adapted_layers(adapter):
        weight = denoiser.get_submodule(layer).weight
        down, up = (adapter[f"{layer}.lora_{part}.weight"].to(weight).flatten(1) for part in "AB")
        with torch.no_grad():
            weight.add_((up @ down).reshape(weight.shape), alpha=scaling)


def _released_base(pair: Pair) -> Path:
    """Return the folder of the pair's base, as the trainer finds it."""
    metadata = pair.metadata
    base = resolve_model(metadata.base)
    if released.is_released(base):
        raise UserError(
            f"The pair is in the released layout already, in {base.name}. Copy that, or choose the "
            "layout ours."
        )
    check_weight_files(base)
    found = read_json(base / "model_index.json").get("_class_name")
    if found not in family_named(metadata.family).pipelines:
        raise UserError(
            f"The pair is for the family {metadata.family!r}, but its base {base.name} is a "
            f"{found}: the model in that place is another one than it was trained from."
        )
    return base


def _write_released(pair: Pair, folder: Path, *, base: Path) -> None:
    """Write the base's parts as they are, the two UNets, and the index that lists them."""
    family = pair.metadata.family
    kinds = read_json(base / "model_index.json")
    index = {"_class_name": _PIPELINES[family], "_diffusers_version": diffusers.__version__}
    for name, place in _PARTS[family].items():
        if not (base / name).is_dir():
            raise UserError(f"{base.name} has no {name}, which the released layout needs.")
        _copy_part(base / name, folder / place)
        index[place] = kinds.get(name)
    for role, place in released.HALVES.items():
        save_denoiser(_whole_denoiser(pair, role, base=base), folder / place)
        index[place] = ["diffusers", family_named(family).denoiser_class]
    _write_json(folder / "model_index.json", index)


def _whole_denoiser(pair: Pair, role: Role, *, base: Path) -> nn.Module:
    if pair.metadata.kind == "full":
        return pair.half(role)
    family = family_named(pair.metadata.family)
    denoiser = load_denoiser(base / family.denoiser, family=family, dtype=torch.float32)
    check_fits(pair, denoiser, family=family)
    scaling = pair.metadata.lora_alpha / pair.metadata.rank
    merge_adapter(denoiser, pair.half(role), scaling=scaling)
    return denoiser


def _copy_part(source: Path, target: Path) -> None:
    """Copy a part's default files; what would only say where they came from is left out."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix in _COPIED_SUFFIXES and not any(mark in path.name for mark in VARIANT_MARKS):
            shutil.copyfile(path, target / path.name)
    for name in ("config.json", "tokenizer_config.json"):
        if (target / name).is_file():
            config = read_json(target / name)
            kept = {key: value for key, value in config.items() if key not in _ORIGINS}
            _write_json(target / name, kept)


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def _public_name(name: str) -> str:
    if name == SHAPES_MODEL:
        return name
    if (folder := local_folder(name)) is not None:
        return folder.name
    # PureWindowsPath knows both kinds of separators.
    return name if hub.is_hub_id(name) else PureWindowsPath(name).name or name


def _without_paths(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _without_paths(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    return PureWindowsPath(value).name if _is_path(value) else value


def _is_path(value: JsonValue) -> bool:
    return isinstance(value, str) and (
        value.startswith(("~", "./", "../"))
        or any(kind(value).is_absolute() for kind in (PurePosixPath, PureWindowsPath))
        or (len(PureWindowsPath(value).parts) > 1 and local_folder(value) is not None)
    )


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` that takes its place once everything in it is on the disk."""
    partial = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            sync(path)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"Can't write {folder}: {reason}. Free some space on that disk, or choose another "
            "folder (a push first writes where TMPDIR says)."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
