"""ImageReward on a tiny BLIP, against attention written out by hand from the published names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from chats.errors import UserError
from chats.scoring.imagereward import ImageReward, RewardModel, blip_large
from chats.scoring.preprocessing import cropped_pixels
from tests.tiny_parts import clip_tokenizer
from tests.tiny_scorers import PROMPTS, SIZE_PX, blip_configs, pictures

VISION, TEXT, HEADS = 16, 12, {"vision": 2, "text": 3}
"""Widths and numbers of heads of the tiny BLIP."""


def linear(out_features, in_features):
    return {"weight": (out_features, in_features), "bias": (out_features,)}


def norm(width):
    return {"weight": (width,), "bias": (width,)}


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file, in the words of BLIP's own code."""
    modules = {
        "blip.visual_encoder.patch_embed.proj": {"weight": (VISION, 3, 4, 4), "bias": (VISION,)},
        "blip.visual_encoder.norm": norm(VISION),
        "blip.text_encoder.embeddings.LayerNorm": norm(TEXT),
        "blip.vision_proj": linear(8, VISION),
        "blip.text_proj": linear(8, TEXT),
    }
    for number in range(2):
        block = f"blip.visual_encoder.blocks.{number}"
        modules[f"{block}.norm1"], modules[f"{block}.norm2"] = norm(VISION), norm(VISION)
        modules[f"{block}.attn.qkv"] = linear(3 * VISION, VISION)
        modules[f"{block}.attn.proj"] = linear(VISION, VISION)
        modules[f"{block}.mlp.fc1"], modules[f"{block}.mlp.fc2"] = (
            linear(24, VISION),
            linear(VISION, 24),
        )
        layer = f"blip.text_encoder.encoder.layer.{number}"
        for kind, source in (("attention", TEXT), ("crossattention", VISION)):
            modules[f"{layer}.{kind}.self.query"] = linear(TEXT, TEXT)
            modules[f"{layer}.{kind}.self.key"] = linear(TEXT, source)
            modules[f"{layer}.{kind}.self.value"] = linear(TEXT, source)
            modules[f"{layer}.{kind}.output.dense"] = linear(TEXT, TEXT)
            modules[f"{layer}.{kind}.output.LayerNorm"] = norm(TEXT)
        modules[f"{layer}.intermediate.dense"] = linear(20, TEXT)
        modules[f"{layer}.output.dense"] = linear(TEXT, 20)
        modules[f"{layer}.output.LayerNorm"] = norm(TEXT)
    sizes = (TEXT, 1024, 128, 64, 16, 1)
    for place, number in enumerate((0, 2, 4, 6, 7)):
        modules[f"mlp.layers.{number}"] = linear(sizes[place + 1], sizes[place])
    shapes = {
        f"{name}.{kind}": shape for name, own in modules.items() for kind, shape in own.items()
    }
    return {
        **shapes,
        "blip.visual_encoder.cls_token": (1, 1, VISION),
        "blip.visual_encoder.pos_embed": (1, 5, VISION),
        "blip.text_encoder.embeddings.word_embeddings.weight": (74, TEXT),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, TEXT),
        "blip.text_encoder.embeddings.position_ids": (1, 40),
    }


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.1)
        + (1.0 if "orm" in name and name.endswith("weight") else 0.0)
        for name, shape in layout().items()
    }


@pytest.fixture
def judge(state, tmp_path):
    save_file(state, tmp_path / "reward.safetensors")
    return ImageReward(
        device="cpu",
        weights=tmp_path / "reward.safetensors",
        tokenizer=clip_tokenizer(),
        configs=blip_configs(),
    )


class ByHand:
    """BLIP's picture and text encoder in plain tensor operations."""

    def __init__(self, state):
        self.state = state

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name, eps):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def attend(self, query, key, value, heads, mask=None):
        def split(x):
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)

        query, key, value = split(query), split(key), split(value)
        weights = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, None].bool(), -torch.inf)
        return (weights.softmax(-1) @ value).transpose(1, 2).flatten(2)

    def see(self, pixels):
        name = "blip.visual_encoder"
        kernel = self.state[f"{name}.patch_embed.proj.weight"]
        patches = F.conv2d(pixels, kernel, self.state[f"{name}.patch_embed.proj.bias"], stride=4)
        first = self.state[f"{name}.cls_token"].expand(len(pixels), -1, -1)
        x = torch.cat([first, patches.flatten(2).mT], 1) + self.state[f"{name}.pos_embed"]
        for number in range(2):
            block = f"{name}.blocks.{number}"
            thirds = self.linear(self.norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv")
            x = x + self.linear(
                self.attend(*thirds.chunk(3, -1), HEADS["vision"]), f"{block}.attn.proj"
            )
            inner = F.gelu(self.linear(self.norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1"))
            x = x + self.linear(inner, f"{block}.mlp.fc2")
        return self.norm(x, f"{name}.norm", 1e-6)

    def read(self, ids, mask, seen):
        name = "blip.text_encoder"
        words = self.state[f"{name}.embeddings.word_embeddings.weight"][ids]
        places = self.state[f"{name}.embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self.norm(words + places, f"{name}.embeddings.LayerNorm", 1e-12)
        for number in range(2):
            layer = f"{name}.encoder.layer.{number}"
            x = self.look(x, x, f"{layer}.attention", mask)
            x = self.look(x, seen, f"{layer}.crossattention", None)
            inner = F.gelu(self.linear(x, f"{layer}.intermediate.dense"))
            x = self.norm(
                x + self.linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm", 1e-12
            )
        return x

    def look(self, x, source, name, mask):
        own = f"{name}.self"
        query = self.linear(x, f"{own}.query")
        key, value = self.linear(source, f"{own}.key"), self.linear(source, f"{own}.value")
        found = self.linear(
            self.attend(query, key, value, HEADS["text"], mask), f"{name}.output.dense"
        )
        return self.norm(x + found, f"{name}.output.LayerNorm", 1e-12)


def test_the_score_is_blips_first_token_through_the_head_standardised(state, judge):
    images = pictures()
    tokens = clip_tokenizer()(
        list(PROMPTS), padding="max_length", max_length=35, return_tensors="pt"
    )
    blip = ByHand(state)
    seen = blip.see(cropped_pixels(images, SIZE_PX))
    x = blip.read(tokens.input_ids, tokens.attention_mask, seen)[:, 0]
    for number in (0, 2, 4, 6, 7):
        x = blip.linear(x, f"mlp.layers.{number}")
    expected = (x[:, 0].numpy() - 0.16717362830052426) / 1.0333394966054072
    np.testing.assert_allclose(judge.score(images, PROMPTS), expected, rtol=1e-4, atol=1e-4)


def test_the_prompt_and_the_picture_both_count(judge):
    image, other = pictures(2)
    scores = judge.score([image, image, other], ["a", "b", "a"])
    assert len(set(scores.round(6))) == 3


def test_weights_can_be_half_precision(judge):
    full = judge.score(pictures(), PROMPTS)
    judge.model.to(torch.bfloat16)
    half = judge.score(pictures(), PROMPTS)
    np.testing.assert_allclose(half, full, rtol=0.1, atol=0.1 * np.abs(full).max())


def test_weights_of_something_else_are_refused(state, tmp_path):
    state["blip.text_encoder.pooler.dense.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"not those of ImageReward: text\.pooler\.dense\.weight"):
        ImageReward(
            device="cpu",
            weights=tmp_path / "other.safetensors",
            tokenizer=clip_tokenizer(),
            configs=blip_configs(),
        )


def test_the_published_model_is_blip_large():
    """ViT-L/16 (303M), BERT base with cross-attention (137M + 28M wider keys), the head (1M)."""
    with torch.device("meta"):
        model = RewardModel(*blip_large())
    sizes = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in model.named_children()
    }
    assert sizes["vision"] == 303_301_632
    assert 130e6 < sizes["text"] < 150e6
    assert model.vision.embeddings.num_positions == 197
    assert model.text.encoder.layer[0].crossattention.self.key.in_features == 1024
