"""How each newer family's pipeline encodes a text and calls its denoiser, written out by hand.

An encoded text is `c`, with `pooled` and `mask` where the family has them.
"""

import torch

from tests.tiny_parts import T5_LENGTH


def encode_flux(pipe, text: str, negative: bool) -> dict:
    c, pooled, _ = pipe.encode_prompt(text, max_sequence_length=T5_LENGTH)
    return {"c": c, "pooled": pooled}


def predict_flux(pipe, model, z, t, given: dict) -> torch.Tensor:
    return model(
        hidden_states=z,
        timestep=t.expand(1).to(z.dtype) / 1000,
        guidance=torch.ones(1),
        pooled_projections=given["pooled"],
        encoder_hidden_states=given["c"],
        txt_ids=torch.zeros(T5_LENGTH, 3),
        img_ids=pipe._prepare_latent_image_ids(1, 4, 4, "cpu", z.dtype),
    ).sample


def encode_auraflow(pipe, text: str, negative: bool) -> dict:
    c, *_ = pipe.encode_prompt(
        text, do_classifier_free_guidance=False, max_sequence_length=T5_LENGTH
    )
    return {"c": c}


def predict_auraflow(pipe, model, z, t, given: dict) -> torch.Tensor:
    time = torch.tensor([t / 1000]).to(z.dtype)
    return model(z, encoder_hidden_states=given["c"], timestep=time).sample


def encode_sana(pipe, text: str, negative: bool) -> dict:
    instruction = None if negative else ["do"]
    c, mask, *_ = pipe.encode_prompt(
        text,
        do_classifier_free_guidance=False,
        max_sequence_length=T5_LENGTH,
        complex_human_instruction=instruction,
    )
    return {"c": c, "mask": mask}


def predict_sana(pipe, model, z, t, given: dict) -> torch.Tensor:
    return model(
        z.to(model.dtype),
        encoder_hidden_states=given["c"],
        encoder_attention_mask=given["mask"],
        timestep=t.expand(1) * 0.5,
    ).sample.float()


def encode_lumina2(pipe, text: str, negative: bool) -> dict:
    text = text if negative else f"s <Prompt Start> {text}"
    c, mask = pipe._get_gemma_prompt_embeds(text, max_sequence_length=32)
    return {"c": c, "mask": mask}


def predict_lumina2(pipe, model, z, t, given: dict) -> torch.Tensor:
    return -model(
        hidden_states=z,
        timestep=(1 - t / 1000).expand(1),
        encoder_hidden_states=given["c"],
        encoder_attention_mask=given["mask"],
    ).sample


def encode_chroma(pipe, text: str, negative: bool) -> dict:
    c, mask = pipe._get_t5_prompt_embeds(text, max_sequence_length=T5_LENGTH)
    return {"c": c, "mask": mask}


def predict_chroma(pipe, model, z, t, given: dict) -> torch.Tensor:
    return model(
        hidden_states=z,
        timestep=t.expand(1).to(z.dtype) / 1000,
        encoder_hidden_states=given["c"],
        txt_ids=torch.zeros(T5_LENGTH, 3),
        img_ids=pipe._prepare_latent_image_ids(1, 4, 4, "cpu", z.dtype),
        attention_mask=torch.cat([given["mask"], torch.ones(1, 16, dtype=torch.bool)], dim=1),
    ).sample


def encode_qwen_image(pipe, text: str, negative: bool) -> dict:
    c, mask = pipe._get_qwen_prompt_embeds(text)
    return {"c": c, "mask": mask}


def predict_qwen_image(pipe, model, z, t, given: dict) -> torch.Tensor:
    return model(
        hidden_states=z,
        timestep=t.expand(1).to(z.dtype) / 1000,
        encoder_hidden_states=given["c"],
        encoder_hidden_states_mask=given["mask"],
        img_shapes=[[(1, 4, 4)]],
    ).sample


def encode_z_image(pipe, text: str, negative: bool) -> dict:
    (c,) = pipe._encode_prompt(text, max_sequence_length=24)
    return {"c": c[None]}


def predict_z_image(pipe, model, z, t, given: dict) -> torch.Tensor:
    latents, time = z[0, :, None].to(model.dtype), (1000 - t.expand(1)) / 1000
    (made,) = model([latents], time, [given["c"][0]])[0]
    return -made.float().squeeze(1)[None]


ENCODE = {
    "flux": encode_flux,
    "auraflow": encode_auraflow,
    "sana": encode_sana,
    "lumina2": encode_lumina2,
    "chroma": encode_chroma,
    "qwen-image": encode_qwen_image,
    "z-image": encode_z_image,
}
PREDICT = {
    "flux": predict_flux,
    "auraflow": predict_auraflow,
    "sana": predict_sana,
    "lumina2": predict_lumina2,
    "chroma": predict_chroma,
    "qwen-image": predict_qwen_image,
    "z-image": predict_z_image,
}
