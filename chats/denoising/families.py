"""What differs from one family of models to the next: one table, torch-free.

A new family is one more entry, see `Family`: the names of its pipelines, of its denoiser, and of
the arguments that carry the text condition.
"""

from typing import Any

from chats.denoising.family import (
    JOINT_ATTENTION,
    Family,
    in_own_scale,
    in_unit,
    reversed_in_unit,
)
from chats.errors import UserError

FAMILIES: tuple[Family, ...] = (
    Family(
        name="sd15",
        pipelines=(
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionControlNetPipeline",
            "StableDiffusionControlNetImg2ImgPipeline",
            "StableDiffusionControlNetInpaintPipeline",
        ),
        denoiser="unet",
        denoiser_class="UNet2DConditionModel",
        conditions={"encoder_hidden_states": 0},
        trains=True,
    ),
    Family(
        name="sdxl",
        pipelines=(
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLControlNetPipeline",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
        ),
        denoiser="unet",
        denoiser_class="UNet2DConditionModel",
        conditions={"encoder_hidden_states": 0, "added_cond_kwargs.text_embeds": 2},
        size_ids="added_cond_kwargs.time_ids",
        trains=True,
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
        lora_targets=JOINT_ATTENTION,
        num_steps=28,
        trains=True,
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
        trains=True,
    ),
    Family(
        name="flux",
        pipelines=("FluxPipeline",),
        denoiser="transformer",
        denoiser_class="FluxTransformer2DModel",
        conditions={"encoder_hidden_states": 0, "pooled_projections": 1},
        timestep=("timestep", in_unit),
        unbatched=frozenset({"txt_ids", "img_ids"}),
        packed=True,
        patch_size=2,
        default_side=128,
        cfg_off={"true_cfg_scale": 1.0},
        embedded_guidance={"guidance_scale": 1.0},
        lora_targets=JOINT_ATTENTION,
        num_steps=28,
        trains=True,
    ),
    Family(
        name="auraflow",
        pipelines=("AuraFlowPipeline",),
        denoiser="transformer",
        denoiser_class="AuraFlowTransformer2DModel",
        conditions={"encoder_hidden_states": 0},
        timestep=("timestep", in_unit),
        default_side=128,
        lora_targets=JOINT_ATTENTION,
    ),
    Family(
        name="sana",
        pipelines=("SanaPipeline",),
        denoiser="transformer",
        denoiser_class="SanaTransformer2DModel",
        conditions={"encoder_hidden_states": 0},
        masks={"encoder_attention_mask": 1},
        null_offset=2,
        timestep=("timestep", in_own_scale),
        num_steps=20,
    ),
    Family(
        name="lumina2",
        pipelines=("Lumina2Pipeline",),
        denoiser="transformer",
        denoiser_class="Lumina2Transformer2DModel",
        conditions={"encoder_hidden_states": 0},
        masks={"encoder_attention_mask": 1},
        null_offset=2,
        timestep=("timestep", reversed_in_unit),
        num_steps=30,
    ),
    Family(
        name="chroma",
        pipelines=("ChromaPipeline",),
        denoiser="transformer",
        denoiser_class="ChromaTransformer2DModel",
        conditions={"encoder_hidden_states": 0},
        masks={"attention_mask": 2},
        timestep=("timestep", in_unit),
        unbatched=frozenset({"txt_ids", "img_ids"}),
        packed=True,
        patch_size=2,
        default_side=128,
        lora_targets=JOINT_ATTENTION,
        num_steps=35,
    ),
    Family(
        name="qwen-image",
        pipelines=("QwenImagePipeline",),
        denoiser="transformer",
        denoiser_class="QwenImageTransformer2DModel",
        conditions={"encoder_hidden_states": 0},
        masks={"encoder_hidden_states_mask": 1},
        varying_length=True,
        timestep=("timestep", in_unit),
        per_sample=frozenset({"img_shapes"}),
        packed=True,
        default_side=128,
        cfg_off={"true_cfg_scale": 1.0},
        lora_targets=JOINT_ATTENTION,
    ),
    Family(
        name="z-image",
        pipelines=("ZImagePipeline",),
        denoiser="transformer",
        denoiser_class="ZImageTransformer2DModel",
        conditions={"cap_feats": 0},
        varying_length=True,
        timestep=("t", reversed_in_unit),
        per_sample=frozenset({"x", "cap_feats"}),
        patch_size=2,
        default_side=128,
        cfg_off={"guidance_scale": 0.0},
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


def require_trainable(family: Family) -> None:
    """Refuse a family that can only be sampled.

    Raises:
        UserError: says which can be trained.
    """
    if not family.trains:
        known = ", ".join(family.name for family in FAMILIES if family.trains)
        raise UserError(
            f"Models of the family {family.name!r} can be sampled, but pairs for them can't be "
            f"trained yet. The families that can are {known}."
        )


def denoiser_of(pipe: Any) -> Any:
    """Return the pipeline's denoiser, its UNet or transformer."""
    return getattr(pipe, family_of(pipe).denoiser)
