"""Tiny whole pipelines of every family, built offline from configurations and random weights.

No weight is near zero: a zero-initialised modulation or LoRA matrix would hide errors behind it.
"""

import copy
import functools

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from chats.denoising.families import denoiser_of, family_of
from chats.pairs.pair import Pair, PairMetadata
from tests.tiny_families import NEWER, NEWER_CALLS
from tests.tiny_parts import (
    SIZE_PX,
    T5_LENGTH,
    big,
    clip,
    clip_tokenizer,
    t5,
    t5_tokenizer,
    vae,
)

FAMILIES = ("sd15", "sdxl", "sd3", "pixart")
TRAINED = (*FAMILIES, "flux")
RANK, LORA_ALPHA = 2, 6.0
LORA_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)


def tiny_pipeline(family: str, *, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Return a stock pipeline of 16 px pictures and 8 × 8 latents; it makes no noise on stderr."""
    pipe = BUILDERS[family](seed).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_call(family: str) -> dict:
    """Return the arguments that make a call of a tiny pipeline quick: latents, short T5 text."""
    arguments = {"output_type": "latent", "num_inference_steps": 4}
    if family == "sd3":
        return {**arguments, "max_sequence_length": T5_LENGTH}
    if family == "pixart":
        return {
            **arguments,
            "max_sequence_length": T5_LENGTH,
            "use_resolution_binning": False,
            "clean_caption": False,
        }
    return {**arguments, **NEWER_CALLS.get(family, {})}


def picture() -> Image.Image:
    """A picture of the tiny pipelines' size, to start from."""
    return Image.linear_gradient("L").resize((SIZE_PX, SIZE_PX)).convert("RGB")


def left_half() -> Image.Image:
    """An inpainting mask of the same size: the left half is to be painted."""
    mask = Image.new("L", (SIZE_PX, SIZE_PX))
    mask.paste(255, (0, 0, SIZE_PX // 2, SIZE_PX))
    return mask


def tiny_pair(pipe, kind: str, *, halves=("preferred", "dispreferred"), **fields) -> Pair:
    """Return a random pair for a tiny pipeline: `lora` or `full`."""
    denoiser, family = denoiser_of(pipe), family_of(pipe)
    size = {"rank": RANK, "lora_alpha": LORA_ALPHA, "target_modules": family.lora_targets}
    metadata = PairMetadata(
        kind=kind,
        family=family.name,
        **{"base": "tiny/base", **(size if kind == "lora" else {}), **fields},
    )
    make = tiny_adapter if kind == "lora" else tiny_twin
    return Pair(metadata, **{role: make(denoiser, seed=3 + len(role)) for role in halves})


def tiny_adapter(denoiser: nn.Module, *, seed: int) -> dict[str, torch.Tensor]:
    """Return LoRA weights for every attention layer, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in denoiser.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(LORA_TARGETS):
            for part, shape in (
                ("A", (RANK, layer.in_features)),
                ("B", (layer.out_features, RANK)),
            ):
                weight = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3
                tensors[f"{name}.lora_{part}.weight"] = weight.to(layer.weight.dtype)
    return tensors


def tiny_twin(denoiser: nn.Module, *, seed: int) -> nn.Module:
    """Return a model of the same architecture with other weights."""
    return big(copy.deepcopy(denoiser), seed=seed)


def merged(denoiser: nn.Module, adapter: dict[str, torch.Tensor]) -> nn.Module:
    """Return a copy with the adapter added by hand: W + (alpha / r)·B·A."""
    twin = copy.deepcopy(denoiser)
    for name, layer in twin.named_modules():
        if f"{name}.lora_A.weight" in adapter:
            down, up = (adapter[f"{name}.lora_{part}.weight"] for part in "AB")
            with torch.no_grad():
                layer.weight += (LORA_ALPHA / RANK) * (up @ down)
    return twin


def _unet(seed: int, **config) -> UNet2DConditionModel:
    common = {
        "layers_per_block": 1,
        "sample_size": SIZE_PX // 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 2,
    }
    return big(UNet2DConditionModel(**common, **config), seed=seed)


def _sd15(seed: int) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=_unet(seed, block_out_channels=(8, 16), cross_attention_dim=32, attention_head_dim=4),
        vae=vae(seed),
        text_encoder=clip(seed, CLIPTextModel, width=32),
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(seed: int) -> StableDiffusionXLPipeline:
    unet = _unet(
        seed,
        block_out_channels=(8, 16),
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=vae(seed),
        text_encoder=clip(seed, CLIPTextModel, width=16),
        text_encoder_2=clip(seed + 1, CLIPTextModelWithProjection, width=16),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )


def _sd3(seed: int, *, channels: int = 4) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=SIZE_PX // 2,
        patch_size=2,
        in_channels=channels,
        out_channels=channels,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed, channels=channels),
        text_encoder=clip(seed, CLIPTextModelWithProjection, width=16),
        text_encoder_2=clip(seed + 1, CLIPTextModelWithProjection, width=16),
        text_encoder_3=t5(seed, width=32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _pixart(seed: int) -> PixArtSigmaPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=SIZE_PX // 2,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        cross_attention_dim=16,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed),
        text_encoder=t5(seed, width=32),
        tokenizer=t5_tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    )


BUILDERS = {
    "sd15": _sd15,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "sd3-16": functools.partial(_sd3, channels=16),  # its inpainting takes no other number
    "pixart": _pixart,
    **NEWER,
}
