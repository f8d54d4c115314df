"""Tiny whole pipelines of the newer families, all of them transformers that match flows.

Their text goes through a tokenizer of single letters, whatever their own is.
"""

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
)

from tests.tiny_parts import (
    SIZE_PX,
    T5_LENGTH,
    big,
    clip,
    clip_tokenizer,
    gemma,
    t5,
    t5_tokenizer,
    vae,
)

ROPE_AXES = (4, 6, 6)
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
LANGUAGE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SIZE = {"height": SIZE_PX, "width": SIZE_PX}
NEWER_CALLS = {
    "flux": {**SIZE, "max_sequence_length": T5_LENGTH},
    "auraflow": {**SIZE, "max_sequence_length": T5_LENGTH},
    "sana": {
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "max_sequence_length": T5_LENGTH,
        "complex_human_instruction": ["do"],
    },
    "lumina2": {
        "height": 64,  # its factor of 8 is fixed
        "width": 64,
        "max_sequence_length": 32,
        "system_prompt": "s",
    },
    "chroma": {**SIZE, "max_sequence_length": T5_LENGTH},
    "qwen-image": SIZE,
    "z-image": {**SIZE, "max_sequence_length": 24},
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


def _sana(seed: int) -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        attention_head_dim=8,
        num_attention_heads=2,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=16,
        timestep_scale=0.5,
    )
    autoencoder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )
    return SanaPipeline(
        transformer=big(transformer, seed=seed),
        vae=big(autoencoder, seed=seed),
        text_encoder=gemma(seed),
        tokenizer=t5_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _lumina2(seed: int) -> Lumina2Pipeline:
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=ROPE_AXES,
        axes_lens=(64, 16, 16),
        cap_feat_dim=32,
    )
    return Lumina2Pipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed, num_blocks=4),
        text_encoder=gemma(seed),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def _chroma(seed: int) -> ChromaPipeline:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        **HEADS,
        joint_attention_dim=32,
        axes_dims_rope=ROPE_AXES,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed),
        text_encoder=t5(seed, width=32),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _qwen_image(seed: int) -> QwenImagePipeline:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        **HEADS,
        joint_attention_dim=32,
        axes_dims_rope=ROPE_AXES,
    )
    autoencoder = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    config = Qwen2_5_VLConfig(
        text_config={
            **LANGUAGE,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32},
    )
    pipe = QwenImagePipeline(
        transformer=big(transformer, seed=seed),
        vae=big(autoencoder, seed=seed),
        text_encoder=big(Qwen2_5_VLForConditionalGeneration(config), seed=seed),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    pipe.prompt_template_encode = "draw {} now"
    pipe.prompt_template_encode_start_idx = 6
    return pipe


def _z_image(seed: int) -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=list(ROPE_AXES),
        axes_lens=[128, 16, 16],
    )
    tokenizer = t5_tokenizer()
    tokenizer.chat_template = "{% for each in messages %}draw {{ each['content'] }}{% endfor %}"
    return ZImagePipeline(
        transformer=big(transformer, seed=seed),
        vae=vae(seed),
        text_encoder=big(Qwen3Model(Qwen3Config(**LANGUAGE)), seed=seed),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


NEWER = {
    "flux": _flux,
    "auraflow": _auraflow,
    "sana": _sana,
    "lumina2": _lumina2,
    "chroma": _chroma,
    "qwen-image": _qwen_image,
    "z-image": _z_image,
}
