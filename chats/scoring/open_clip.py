"""Weights in open_clip's layout as a CLIPModel of transformers."""

from collections.abc import Iterator, Mapping

import torch
from transformers import CLIPConfig, CLIPModel

from chats.errors import UserError
from chats.scoring.weights import load_exactly

_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TOP = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_TOWERS = {
    "transformer.resblocks.": "text_model.encoder.layers.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}


def vit_h_14() -> CLIPConfig:
    """The architecture that open_clip calls ViT-H-14."""
    return CLIPConfig(
        text_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "projection_dim": 1024,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
        vision_config={
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
            "hidden_act": "gelu",
            "projection_dim": 1024,
        },
        projection_dim=1024,
    )


def clip_from_open_clip(state: Mapping[str, torch.Tensor], config: CLIPConfig) -> CLIPModel:
    """Build a CLIPModel from a state dict with open_clip's names.

    Args:
        state: tensors by open_clip's names, or by these behind one `model.` or `module.`.
        config: the architecture.

    Raises:
        UserError: a tensor is missing, unknown or of another shape.
    """
    model = CLIPModel(config)
    converted = dict(item for key, value in state.items() for item in _renamed(_bare(key), value))
    load_exactly(model, converted, name="a CLIP in open_clip's layout")
    return model


def _bare(key: str) -> str:
    return key.removeprefix("module.").removeprefix("model.")


def _renamed(key: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if key == "attn_mask":  # the causal mask, which transformers makes itself
        return
    if key in _TOP:
        yield _TOP[key], value
    elif key in _TRANSPOSED:
        yield _TRANSPOSED[key], value.T.contiguous()
    else:
        yield from _renamed_in_layer(key, value)


def _renamed_in_layer(key: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    tower = next((each for each in _TOWERS if key.startswith(each)), None)
    if tower is None:
        raise UserError(f"These weights are not in open_clip's layout: {key} is unknown.")
    number, _, name = key.removeprefix(tower).partition(".")
    layer = f"{_TOWERS[tower]}{number}."
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        for part, third in zip("qkv", value.chunk(3), strict=True):
            yield f"{layer}self_attn.{part}_proj.{kind}", third
        return
    stem, _, kind = name.rpartition(".")
    yield f"{layer}{_LAYER.get(stem, stem)}.{kind}", value
