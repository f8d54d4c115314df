"""From the name of a model to a pipeline on the device: every check before every load."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline

from chats.denoising.families import FAMILIES
from chats.denoising.sizes import default_size_px
from chats.errors import UserError
from chats.models.placement import Placement, Sizes, place
from chats.models.tiny_decoders import tiny_decoder
from chats.pairs import hub, released
from chats.pairs.pair import Pair, load_pair
from chats.pairs.weight_files import (
    component_folders,
    largest_tensor_bytes,
    local_folder,
    read_json,
    weight_bytes,
)
from chats.shapes import BASE, SHAPES_MODEL

# The checker that some models bring paints pictures black without a word and costs a gigabyte.
_LEFT_OUT = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

# Larger pictures are decoded one by one, in the memory of one; small ones together, twice as fast.
_DECODED_TOGETHER_PX = 256

# Of a model that is offloaded layer by layer: the one that works, and what it is exchanged with.
_LAYERS_AT_ONCE = 4


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline on the device, shared by all requests, and the pair that is part of it."""

    pipeline: DiffusionPipeline
    own_pair: Pair | None
    """The pair of a model in the released layout, whose pipeline holds one half itself."""
    placement: Placement
    """Whether all of it is on the device."""
    preview_decoder: AutoencoderTiny | None = None
    """A tiny autoencoder for previews, where it is on this machine."""


def resolve_model(
    name: str, *, with_weights: bool = True, on_bytes: hub.OnBytes | None = None
) -> Path:
    """Return the local folder of a model, fetching it from the Hub where it is not here yet.

    Args:
        name: `shapes`, a folder, or a Hub id.
        with_weights: Whether the weights are fetched too, or only the small files.
        on_bytes: See `chats.pairs.hub.fetch`.

    Raises:
        UserError: there is no such model, its family is unknown, or the Hub cannot be reached.
    """
    folder = BASE if name == SHAPES_MODEL else local_folder(name)
    if folder is not None:
        _check_known(folder, name=folder.name)
        return folder
    if hub.is_hub_id(name):
        texts = hub.fetch_texts(name)
        _check_known(texts, name=name)
        return hub.fetch(name, on_bytes=on_bytes) if with_weights else texts
    raise UserError(
        f"Unknown model {name!r}. Known are: {SHAPES_MODEL} (the embedded one), a folder that "
        "diffusers' save_pretrained wrote, and a Hub id such as owner/name."
    )


def load_model(
    folder: Path, *, device: torch.device, dtype: torch.dtype, placement: Placement = "resident"
) -> LoadedModel:
    """Load a model, whose files `check_weight_files` has seen, onto a device.

    Raises:
        UserError: its weights do not fit its configuration, or are not finite.
    """
    try:
        pair = None
        if released.is_released(folder):
            pair = load_pair(folder, dtype=dtype)
            pipeline = released.load_released_pipeline(folder, pair.half("preferred"), dtype=dtype)
        else:
            pipeline = _load_stock(folder, dtype=dtype)
        _refuse_non_finite(pipeline, name=folder.name)
        place(pipeline, placement, device=device)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        what = str(error).replace(str(folder), folder.name).strip().splitlines() or [""]
        raise UserError(
            f"{folder.name} could not be loaded: {what[0] or type(error).__name__}"
        ) from error
    if default_size_px(pipeline) > _DECODED_TOGETHER_PX:
        pipeline.vae.enable_slicing()
    return LoadedModel(
        pipeline=pipeline,
        own_pair=pair,
        placement=placement,
        preview_decoder=tiny_decoder(pipeline, device=device, dtype=dtype),
    )


def model_sizes(folder: Path, *, dtype: torch.dtype) -> Sizes:
    """Return the memory that a model's weights will take in `dtype`, read from their headers."""
    size = dtype.itemsize
    if released.is_released(folder):
        whole = weight_bytes(folder, bytes_per_float=size)
        return Sizes(resident=whole, model_offload=whole, group_offload=whole)
    parts = component_folders(folder)
    each = [weight_bytes(part, bytes_per_float=size) for part in parts]
    largest = max((largest_tensor_bytes(part, bytes_per_float=size) for part in parts), default=0)
    return Sizes(
        resident=sum(each),
        model_offload=max(each, default=0),
        group_offload=min(_LAYERS_AT_ONCE * largest, max(each, default=0)),
    )


def can_be_offloaded(folder: Path, pair_folder: Path | None) -> bool:
    """Whether parts of a model can wait in main memory: both halves of a full pair must be there.

    Args:
        folder: the model's.
        pair_folder: its pair's; none if it has none.
    """
    if released.is_released(folder) or pair_folder is None:
        return not released.is_released(folder)
    return read_json(pair_folder / "pair.json").get("kind") == "lora"


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name; none means CUDA, else an Apple GPU, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    usable = [kind for kind, is_here in here.items() if is_here]
    if name is None:
        return torch.device(usable[0])
    if name.partition(":")[0] not in usable:
        raise UserError(f"There is no device {name!r} here. There is: {', '.join(usable)}.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r} is not a device. Write it like cuda, cuda:1 or cpu.") from None


def best_dtype(device: torch.device) -> torch.dtype:
    """Return float32, on CUDA bfloat16, and float16 on cards that only emulate it."""
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def _check_known(folder: Path, *, name: str) -> None:
    if released.is_released(folder):
        return
    if (folder / "pair.json").is_file():
        raise UserError(
            f"{folder.name} is a preference pair, not a model. Give it as the pair, and as the "
            "model the one it was made from (its pair.json says which)."
        )
    found = read_json(folder / "model_index.json").get("_class_name")
    known = [
        pipeline
        for family in FAMILIES
        for pipeline in family.pipelines
        if not pipeline.endswith(("Img2ImgPipeline", "InpaintPipeline", "ControlNetPipeline"))
    ]
    if found not in known:
        raise UserError(
            f"{name} is a {found}, which is of no family that guidance knows. It knows: "
            f"{', '.join(known)}."
        )


def _load_stock(folder: Path, *, dtype: torch.dtype) -> DiffusionPipeline:
    options = _LEFT_OUT if "safety_checker" in read_json(folder / "model_index.json") else {}
    return DiffusionPipeline.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, **options
    )


def _refuse_non_finite(pipeline: DiffusionPipeline, *, name: str) -> None:
    for component_name, component in pipeline.components.items():
        if not isinstance(component, torch.nn.Module):
            continue
        for parameter_name, parameter in component.named_parameters():
            if not torch.isfinite(parameter).all():
                raise UserError(
                    f"{parameter_name} in {component_name} of {name} holds numbers that are not "
                    "finite: the weights are damaged. Download or copy them again."
                )
