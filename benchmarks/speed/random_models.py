"""Random weights in a published shape, as a whole diffusers folder: speed needs no more.

    python -m benchmarks.speed.random_models --shape sdxl --output build/random/sdxl

Nothing is downloaded: the configurations are written down here, and tokenizers of letters take the
place of the published ones, with as many tokens a prompt. A full SDXL is 7 GB in bf16.
"""

from __future__ import annotations

import contextlib
import shutil
import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import tyro
from diffusers import AutoencoderKL, DiffusionPipeline, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from benchmarks.speed.published import CLIP_LENGTH, SHAPES, T5_LENGTH, Component, Shape, ShapeName
from chats.config import FrozenSettings
from chats.environment import quieten_libraries
from chats.errors import UserError

_CLASSES = {"unet": UNet2DConditionModel, "mmdit": SD3Transformer2DModel, "vae": AutoencoderKL}


class RandomModelConfig(FrozenSettings):
    """Which model is made."""

    shape: ShapeName
    """Whose shapes it has."""
    output: Path
    """Folder of the pipeline; one that this command made is replaced."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of the weights."""
    tiny: bool = False
    """The same architecture with few channels, for 64 px: a check in seconds."""
    t5: bool = False
    """SD3: with all of its T5, 9.5 GB more; else one of a layer gives as many numbers a prompt."""
    seed: int = 0
    """Seed of the weights."""


def make_folder(config: RandomModelConfig) -> Path:
    """Make the folder, unless a finished one is there, and return it.

    Raises:
        UserError: The folder holds something else.
    """
    stamp = config.output / "random.txt"
    text = f"{config.model_dump_json(exclude={'output'})}\n{SHAPES[config.shape]}\n"
    if stamp.is_file() and stamp.read_text("utf-8") == text:
        return config.output
    if config.output.exists() and not stamp.is_file() and any(config.output.iterdir()):
        raise UserError(f"{config.output} holds something else. Choose another --output.")
    staged = config.output.with_name(config.output.name + ".partial")
    shutil.rmtree(staged, ignore_errors=True)
    with _settings(config.dtype, seed=config.seed):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        random_pipeline(
            SHAPES[config.shape], tiny=config.tiny, whole=config.t5, device=device
        ).save_pretrained(staged, safe_serialization=True)
    (staged / stamp.name).write_text(text, encoding="utf-8")
    shutil.rmtree(config.output, ignore_errors=True)
    staged.rename(config.output)
    return config.output


def random_pipeline(
    shape: Shape, *, tiny: bool = False, whole: bool = True, device: str = "cpu"
) -> DiffusionPipeline:
    """Build a pipeline with the values that its layers start with: none overflows.

    Args:
        shape: Whose shapes it has.
        tiny: Few channels instead.
        whole: Also the text encoders that small ones can stand in for.
        device: Where the weights are; on "meta" there are none, only their shapes.
    """
    parts: dict[str, Any] = dict(shape.options)
    for name, component in shape.components.items():
        changes = component.tiny if tiny else {} if whole else component.small
        parts[name] = random_component(component, changes, device=device)
        if name.startswith("text_encoder"):
            tokenizer = _t5_tokenizer if component.kind == "t5" else _clip_tokenizer
            parts[name.replace("text_encoder", "tokenizer")] = tokenizer()
    is_flow = "shift" in shape.scheduler
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler if is_flow else diffusers.DDIMScheduler
    return getattr(diffusers, shape.pipeline)(**parts, scheduler=scheduler(**shape.scheduler))


def random_component(
    component: Component, changes: Mapping[str, Any], *, device: str = "cpu"
) -> nn.Module:
    """Build one model, changed in some settings."""
    config = {**component.config, **changes}
    with torch.device(device):
        if component.kind in _CLASSES:
            return _CLASSES[component.kind](**config).eval()
        if component.kind == "t5":
            return T5EncoderModel(T5Config(**config)).eval()
        vocabulary = _clip_vocabulary()
        ends = {"bos_token_id": vocabulary[_START], "eos_token_id": vocabulary[_END]}
        text = CLIPTextConfig(
            vocab_size=49_408,
            max_position_embeddings=CLIP_LENGTH,
            pad_token_id=vocabulary[_END],
            **ends,
            **config,
        )
        kind = CLIPTextModel if component.kind == "clip" else CLIPTextModelWithProjection
        return kind(text).eval()


_START, _END = "<|startoftext|>", "<|endoftext|>"


def _clip_vocabulary() -> dict[str, int]:
    letters = string.ascii_lowercase + string.digits
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), _START, _END]
    return {piece: number for number, piece in enumerate(pieces)}


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=CLIP_LENGTH)


def _t5_tokenizer() -> T5Tokenizer:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary = [*special, *((letter, -3.0) for letter in string.ascii_lowercase)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_LENGTH)


@contextlib.contextmanager
def _settings(dtype: str, *, seed: int) -> Iterator[None]:
    """Make weights in a number format from a seed; both are torch's own settings."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            yield
        finally:
            torch.set_default_dtype(before)


if __name__ == "__main__":
    quieten_libraries()
    try:
        print(make_folder(tyro.cli(RandomModelConfig, description=__doc__)))
    except UserError as error:
        sys.exit(str(error))
