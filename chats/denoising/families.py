"""What differs from one family of models to the next: one table, torch-free.

A new family is one more entry: the names of its pipelines, of its denoiser, and of the arguments
that carry the text condition.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chats.errors import UserError

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_JOINT_ATTENTION = (*_ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the pipelines of one family call their denoiser."""

    name: str
    """Short name, written into a pair's metadata."""

    pipelines: tuple[str, ...]
    """Names of the diffusers pipeline classes that are known to work."""

    denoiser: Literal["unet", "transformer"]
    """Attribute of the pipeline that holds the denoiser, and prefix of its LoRA weights."""

    denoiser_class: str
    """Name of the denoiser's diffusers class."""

    conditions: Mapping[str, int]
    """Denoiser argument (dotted where nested) -> its place in what encode_prompt returns.
    The proxy condition combines these."""

    masks: Mapping[str, int] = field(default_factory=dict)
    """The same for attention masks; the proxy condition takes the prompt's."""

    size_ids: str | None = None
    """Denoiser argument that says the picture's size: (height, width, top, left, height, width)."""

    constants: Mapping[str, Mapping[str, None]] = field(default_factory=dict)
    """Denoiser arguments that must be given and are the same in every training call."""

    encode_arguments: Mapping[str, None] = field(default_factory=dict)
    """What encode_prompt must be given beside the prompt."""

    unbatched: frozenset[str] = frozenset()
    """Denoiser arguments without a batch axis, whatever their shape."""

    cfg_off: Mapping[str, float] = field(default_factory=lambda: {"guidance_scale": 1.0})
    """Pipeline arguments that switch its own guidance off: it then makes one conditional call."""

    lora_targets: tuple[str, ...] = _ATTENTION
    """Ends of the names of the layers that a LoRA pair adapts."""

    num_steps: int = 50
    """Default number of denoising steps."""


FAMILIES: tuple[Family, ...] = (
    Family(
        name="sd15",
        pipelines=(
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
        ),
        denoiser="unet",
        denoiser_class="UNet2DConditionModel",
        conditions={"encoder_hidden_states": 0},
    ),
    Family(
        name="sdxl",
        pipelines=(
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
        ),
        denoiser="unet",
        denoiser_class="UNet2DConditionModel",
        conditions={"encoder_hidden_states": 0, "added_cond_kwargs.text_embeds": 2},
        size_ids="added_cond_kwargs.time_ids",
    ),
    Family(
        name="sd3",
        pipelines=(
            "StableDiffusion3Pipeline",
            "StableDiffusion3Img2ImgPipeline",
            "StableDiffusion3InpaintPipeline",
        ),
        denoiser="transformer",
        denoiser_class="SD3Transformer2DModel",
        conditions={"encoder_hidden_states": 0, "pooled_projections": 2},
        encode_arguments={"prompt_2": None, "prompt_3": None},
        lora_targets=_JOINT_ATTENTION,
        num_steps=28,
    ),
    Family(
        name="pixart",
        pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
        denoiser="transformer",
        denoiser_class="PixArtTransformer2DModel",
        conditions={"encoder_hidden_states": 0},
        masks={"encoder_attention_mask": 1},
        constants={"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
        num_steps=20,
    ),
)


def family_of(pipe: Any) -> Family:
    """Return the family of a diffusers pipeline.

    Raises:
        UserError: the pipeline's class is in no family.
    """
    for family in FAMILIES:
        if any(base.__name__ in family.pipelines for base in type(pipe).__mro__):
            return family
    known = [name for family in FAMILIES for name in family.pipelines]
    raise UserError(
        f"{type(pipe).__name__} is not a pipeline that guidance knows. It knows {', '.join(known)}."
    )


def family_named(name: str) -> Family:
    """Return the family that a pair's metadata names.

    Raises:
        UserError: there is no such family.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"There is no model family {name!r}; the families are {known}.")


def denoiser_of(pipe: Any) -> Any:
    """Return the pipeline's denoiser, its UNet or transformer."""
    return getattr(pipe, family_of(pipe).denoiser)


def default_size_px(pipe: Any) -> int:
    """Return the width and height that the pipeline makes when none is asked for, in pixels."""
    size = denoiser_of(pipe).config.sample_size
    return (size if isinstance(size, int) else size[0]) * pipe.vae_scale_factor
