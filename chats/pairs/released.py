"""The layout of the weights that the paper's authors released: a pipeline with two UNets.

`unet_win` is the preferred denoiser, `unet_lose` the dispreferred one; there is no reference. SDXL
names its second encoder `text_encoder_two` and `tokenizer_two`.
"""

import inspect
from pathlib import Path
from typing import Any

from chats.errors import UserError
from chats.pairs.weight_files import check_weight_files, read_json

HALVES = {"preferred": "unet_win", "dispreferred": "unet_lose"}


def is_released(folder: Path) -> bool:
    """Say whether a folder has the released layout."""
    return not (folder / "pair.json").exists() and any(
        (folder / place).is_dir() for place in HALVES.values()
    )


def describe(folder: Path, *, source: str) -> dict[str, Any]:
    """Return the fields of the pair's metadata; the folder is its own base."""
    return {
        "kind": "full",
        "base": source,
        "family": "sdxl" if _is_sdxl(folder) else "sd15",
        # The released code samples with the encoding of "", also on SDXL.
        "null_prompt": "empty",
        "objective": "chats",
        "provenance": {"layout": "released", "source": source},
    }


def load_released_pipeline(folder: str | Path, denoiser: Any, *, dtype: Any = None) -> Any:
    """Build the stock diffusers pipeline of a released folder around one of its denoisers.

    Args:
        folder: a local folder in the released layout.
        denoiser: the half to use as the pipeline's own UNet, usually `pair.preferred`.
        dtype: dtype of the text encoders and the autoencoder; none keeps the files' own.

    Raises:
        UserError: a component is missing, damaged or pickled.
    """
    import diffusers
    import transformers

    folder = Path(folder)
    check_weight_files(folder)
    is_sdxl = _is_sdxl(folder)
    weights = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}

    def component(kind: Any, name: str, **options: Any) -> Any:
        if not (folder / name).is_dir():
            raise UserError(f"{folder.name} has no {name}: it is not a whole released pipeline.")
        return kind.from_pretrained(folder / name, **options)

    scheduler = read_json(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    kind = getattr(diffusers, str(scheduler), None)
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
        raise UserError(f"{folder.name} names an unknown scheduler {scheduler!r}.")
    parts = {
        "vae": component(diffusers.AutoencoderKL, "vae", **weights),
        "unet": denoiser,
        "scheduler": kind.from_pretrained(folder / "scheduler"),
        "tokenizer": component(transformers.CLIPTokenizer, "tokenizer"),
        "text_encoder": component(transformers.CLIPTextModel, "text_encoder", **weights),
    }
    if is_sdxl:
        return diffusers.StableDiffusionXLPipeline(
            **parts,
            tokenizer_2=component(transformers.CLIPTokenizer, "tokenizer_two"),
            text_encoder_2=component(
                transformers.CLIPTextModelWithProjection, "text_encoder_two", **weights
            ),
        )
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _is_sdxl(folder: Path) -> bool:
    return (folder / "text_encoder_two").is_dir()
