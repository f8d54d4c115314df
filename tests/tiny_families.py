"""Tiny whole pipelines of the newer families, all of them transformers that match flows.

Their text goes through a tokenizer of single letters, whatever their own is.
"""

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextModel

from tests.tiny_parts import SIZE_PX, T5_LENGTH, big, clip, clip_tokenizer, t5, t5_tokenizer, vae

ROPE_AXES = (4, 6, 6)
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
SIZE = {"height": SIZE_PX, "width": SIZE_PX}
NEWER_CALLS = {
    "flux": {**SIZE, "max_sequence_length": T5_LENGTH},
    "auraflow": {**SIZE, "max_sequence_length": T5_LENGTH},
}
"""Arguments that keep a call of the tiny pipeline short."""


def _flux(seed: int) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        **HEADS,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=ROPE_AXES,
        guidance_embeds=True,
    )
    return FluxPipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed),
        text_encoder=clip(seed, CLIPTextModel, width=32),
        text_encoder_2=t5(seed, width=32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    )


def _auraflow(seed: int) -> AuraFlowPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        **HEADS,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed),
        text_encoder=t5(seed, width=32),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


NEWER = {"flux": _flux, "auraflow": _auraflow}
