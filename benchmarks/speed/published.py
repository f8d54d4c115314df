"""The published shapes of the models that are measured, and tiny ones of the same architecture.

Written down from the models' published configurations; `num_parameters` are their known sizes, and
a test holds them against what the configurations give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ShapeName = Literal["sd15", "sdxl", "sd3"]
ComponentKind = Literal["unet", "mmdit", "vae", "clip", "clip-projected", "t5"]

CLIP_LENGTH, T5_LENGTH = 77, 256


@dataclass(frozen=True)
class Component:
    """One model of a pipeline.

    Attributes:
        kind: Which class it is.
        config: Its configuration.
        tiny: What a tiny one of the same architecture has otherwise.
        num_parameters: How many the published one has.
        small: What stands in for it otherwise, where it is large and only encodes text.
    """

    kind: ComponentKind
    config: Mapping[str, Any]
    tiny: Mapping[str, Any]
    num_parameters: int
    small: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """One pipeline.

    Attributes:
        pipeline: The name of its class.
        components: By the pipeline's names.
        scheduler: Settings of its scheduler, of flow matching or of DDIM.
        options: What the pipeline's constructor is told beside its parts.
    """

    pipeline: str
    components: Mapping[str, Component]
    scheduler: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "sample_size": 512,
}
_TINY_VAE = {"block_out_channels": (32,) * 4, "layers_per_block": 1, "sample_size": 64}

_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "sample_size": 64,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SDXL_UNET = {
    **_UNET,
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_TINY_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}

SHAPES: Mapping[ShapeName, Shape] = {
    # stable-diffusion-v1-5
    "sd15": Shape(
        pipeline="StableDiffusionPipeline",
        components={
            "unet": Component(
                "unet",
                _UNET,
                {
                    "sample_size": 8,
                    "block_out_channels": (32, 64, 64, 64),
                    "cross_attention_dim": 32,
                    "attention_head_dim": 2,
                    "layers_per_block": 1,
                },
                859_520_964,
            ),
            "vae": Component("vae", _VAE, _TINY_VAE, 83_653_863),
            "text_encoder": Component("clip", _CLIP_L, _TINY_CLIP, 123_060_480),
        },
        scheduler=_DIFFUSION,
        options={
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        },
    ),
    # stable-diffusion-xl-base-1.0
    "sdxl": Shape(
        pipeline="StableDiffusionXLPipeline",
        components={
            "unet": Component(
                "unet",
                _SDXL_UNET,
                {
                    "sample_size": 8,
                    "block_out_channels": (32, 64, 64),
                    "cross_attention_dim": 64,
                    "attention_head_dim": (1, 2, 2),
                    "transformer_layers_per_block": (1, 1, 1),
                    "layers_per_block": 1,
                    "addition_time_embed_dim": 8,
                    "projection_class_embeddings_input_dim": 6 * 8 + 32,
                },
                2_567_463_684,
            ),
            "vae": Component(
                "vae",
                {**_VAE, "scaling_factor": 0.13025, "sample_size": 1024},
                _TINY_VAE,
                83_653_863,
            ),
            "text_encoder": Component("clip", _CLIP_L, _TINY_CLIP, 123_060_480),
            "text_encoder_2": Component("clip-projected", _CLIP_G, _TINY_CLIP, 694_659_840),
        },
        scheduler=_DIFFUSION,
        options={"add_watermarker": False},
    ),
    # stable-diffusion-3-medium
    "sd3": Shape(
        pipeline="StableDiffusion3Pipeline",
        components={
            "transformer": Component(
                "mmdit",
                {
                    "sample_size": 128,
                    "patch_size": 2,
                    "in_channels": 16,
                    "out_channels": 16,
                    "num_layers": 24,
                    "attention_head_dim": 64,
                    "num_attention_heads": 24,
                    "joint_attention_dim": 4096,
                    "caption_projection_dim": 1536,
                    "pooled_projection_dim": 2048,
                    "pos_embed_max_size": 192,
                },
                {
                    "sample_size": 8,
                    "num_layers": 2,
                    "attention_head_dim": 16,
                    "num_attention_heads": 2,
                    "joint_attention_dim": 64,
                    "caption_projection_dim": 32,
                    "pooled_projection_dim": 64,
                },
                2_028_328_000,
            ),
            "vae": Component(
                "vae",
                {
                    **_VAE,
                    "latent_channels": 16,
                    "scaling_factor": 1.5305,
                    "shift_factor": 0.0609,
                    "use_quant_conv": False,
                    "use_post_quant_conv": False,
                    "sample_size": 1024,
                },
                _TINY_VAE,
                83_819_683,
            ),
            "text_encoder": Component("clip-projected", _CLIP_L, _TINY_CLIP, 123_650_304),
            "text_encoder_2": Component("clip-projected", _CLIP_G, _TINY_CLIP, 694_659_840),
            "text_encoder_3": Component(
                "t5",
                {
                    "vocab_size": 32_128,
                    "d_model": 4096,
                    "d_kv": 64,
                    "d_ff": 10_240,
                    "num_layers": 24,
                    "num_heads": 64,
                    "feed_forward_proj": "gated-gelu",
                    "tie_word_embeddings": False,
                },
                {"vocab_size": 256, "d_model": 64, "d_ff": 64, "num_layers": 1, "num_heads": 2},
                4_762_310_656,
                small={"vocab_size": 256, "d_ff": 64, "num_layers": 1, "num_heads": 1},
            ),
        },
        scheduler={"num_train_timesteps": 1000, "shift": 3.0},
    ),
}
