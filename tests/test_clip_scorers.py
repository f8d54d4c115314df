"""CLIP score, PickScore, HPS and the aesthetic predictor on tiny models, by hand-written formulas.

Every expected score is put together here from the model's parts: towers, projections, norms.
"""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from chats.errors import UserError
from chats.scoring.aesthetic import LaionAesthetic
from chats.scoring.clip import ClipScore, PickScore
from chats.scoring.hps import HpsV2
from chats.scoring.open_clip import clip_from_open_clip, vit_h_14
from chats.scoring.preprocessing import cropped_pixels, padded_pixels
from tests.tiny_parts import clip_tokenizer
from tests.tiny_scorers import PROMPTS, SIZE_PX, clip_config, clip_folder, pictures, tiny_clip


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "clip"


@torch.no_grad()
def image_embeddings(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Class token of the picture tower, normed, projected, of unit length."""
    hidden = model.vision_model(pixels).last_hidden_state[:, 0]
    projected = model.vision_model.post_layernorm(hidden) @ model.visual_projection.weight.T
    return projected / projected.norm(dim=-1, keepdim=True)


@torch.no_grad()
def text_embeddings(model: CLIPModel, prompts) -> torch.Tensor:
    """Each prompt alone and unpadded: the last token of the text tower, projected."""
    rows = []
    for prompt in prompts:
        ids = torch.tensor([clip_tokenizer()(prompt).input_ids])
        row = model.text_model(ids).last_hidden_state[0, -1] @ model.text_projection.weight.T
        rows.append(row / row.norm())
    return torch.stack(rows)


def cosines(model, pixels, prompts=PROMPTS):
    return (image_embeddings(model, pixels) * text_embeddings(model, prompts)).sum(-1).numpy()


def test_clip_score_is_the_cosine_in_percent_and_never_below_zero(folder):
    model = clip_folder(folder)
    images, prompts = pictures(5), "abcde"
    expected = 100 * cosines(model, cropped_pixels(images, SIZE_PX), prompts)
    assert expected.min() < 0 < expected.max()
    found = ClipScore(source=str(folder), device="cpu").score(images, prompts)
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


def test_pickscore_scales_the_cosine_by_the_learned_temperature(folder):
    model = clip_folder(folder)
    images = pictures()
    scale = np.exp(model.logit_scale.item())
    expected = scale * cosines(model, cropped_pixels(images, SIZE_PX))
    found = PickScore(source=str(folder), device="cpu").score(images, PROMPTS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_score_does_not_depend_on_what_else_is_scored(folder):
    clip_folder(folder)
    judge = PickScore(source=str(folder), device="cpu")
    images = pictures(40)
    prompts = [PROMPTS[i % 3] for i in range(40)]
    together = judge.score(images, prompts)
    apart = [judge.score([i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_a_prompt_that_is_too_long_is_cut(folder):
    clip_folder(folder)
    judge = PickScore(source=str(folder), device="cpu")
    long, longer = "a" * 11, "a" * 300
    scores = judge.score(pictures(1) * 2, [long, longer])
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_weights_can_be_half_precision(folder):
    clip_folder(folder)
    full = PickScore(source=str(folder), device="cpu").score(pictures(), PROMPTS)
    half = PickScore(source=str(folder), device="cpu", dtype=torch.bfloat16)
    assert half.cosine.model.dtype == torch.bfloat16
    np.testing.assert_allclose(half.score(pictures(), PROMPTS), full, atol=3)


def test_a_folder_without_a_clip_is_told(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        ClipScore(source=str(tmp_path), device="cpu")


def test_a_pickle_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="pickle"):
        PickScore(source=str(tmp_path), device="cpu")


def open_clip_layout(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The inverse map, written from open_clip's side: what each of its modules is called."""
    state = {
        "logit_scale": model.logit_scale,
        "text_projection": model.text_projection.weight.T,
        "visual.proj": model.visual_projection.weight.T,
        "positional_embedding": model.text_model.embeddings.position_embedding.weight,
        "token_embedding.weight": model.text_model.embeddings.token_embedding.weight,
        "visual.class_embedding": model.vision_model.embeddings.class_embedding,
        "visual.positional_embedding": model.vision_model.embeddings.position_embedding.weight,
        "visual.conv1.weight": model.vision_model.embeddings.patch_embedding.weight,
        "attn_mask": torch.full((3, 3), -1e9).triu(1),
    }
    norms = {
        "ln_final": model.text_model.final_layer_norm,
        "visual.ln_pre": model.vision_model.pre_layrnorm,
        "visual.ln_post": model.vision_model.post_layernorm,
    }
    for prefix, tower in (("", model.text_model), ("visual.", model.vision_model)):
        for number, layer in enumerate(tower.encoder.layers):
            block, attention = f"{prefix}transformer.resblocks.{number}", layer.self_attn
            thirds = (attention.q_proj, attention.k_proj, attention.v_proj)
            state[f"{block}.attn.in_proj_weight"] = torch.cat([each.weight for each in thirds])
            state[f"{block}.attn.in_proj_bias"] = torch.cat([each.bias for each in thirds])
            norms[f"{block}.attn.out_proj"] = attention.out_proj
            norms[f"{block}.ln_1"], norms[f"{block}.ln_2"] = layer.layer_norm1, layer.layer_norm2
            norms[f"{block}.mlp.c_fc"], norms[f"{block}.mlp.c_proj"] = layer.mlp.fc1, layer.mlp.fc2
    for name, module in norms.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_hps_from_open_clips_layout_scores_like_the_clip_it_is(tmp_path, prefix):
    model = tiny_clip(seed=3)
    layout = {prefix + name: tensor for name, tensor in open_clip_layout(model).items()}
    save_file(layout, tmp_path / "hps.safetensors")
    judge = HpsV2(
        device="cpu",
        weights=tmp_path / "hps.safetensors",
        tokenizer=clip_tokenizer(),
        config=clip_config(),
    )
    images = pictures()
    expected = 100 * cosines(model, padded_pixels(images, SIZE_PX))
    np.testing.assert_allclose(judge.score(images, PROMPTS), expected, rtol=1e-4, atol=1e-4)


def test_the_converted_model_is_bit_for_bit_the_same():
    model = tiny_clip(seed=4)
    twin = clip_from_open_clip(open_clip_layout(model), clip_config())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("visual.proj"), "visual_projection.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is unknown"),
        (
            lambda state: state.update(logit_scale=torch.zeros(2)),
            r"logit_scale has the shape \(2,\), not \(\)",
        ),
    ],
)
def test_weights_of_something_else_are_refused(change, message):
    state = open_clip_layout(tiny_clip())
    change(state)
    with pytest.raises(UserError, match=message):
        clip_from_open_clip(state, clip_config())


def test_the_published_pickle_is_never_read(tmp_path):
    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match=r"pickle.*Convert it to safetensors"):
        HpsV2(device="cpu", weights=path, tokenizer=clip_tokenizer())


def test_hps_is_a_vit_h_14():
    """The numbers of open_clip's ViT-H-14: 1024 wide text, 1280 wide pictures, 986M weights."""
    with torch.device("meta"):
        model = CLIPModel(vit_h_14())
    assert sum(weight.numel() for weight in model.parameters()) == 986_109_441
    assert model.config.vision_config.image_size == 224


def test_the_aesthetic_score_is_five_linear_layers_on_the_unit_embedding(folder):
    model = clip_folder(folder)
    generator = torch.Generator().manual_seed(1)
    sizes = (12, 1024, 128, 64, 16, 1)
    weights = {}
    for number, (before, after) in zip((0, 2, 4, 6, 7), itertools.pairwise(sizes), strict=True):
        weights[f"layers.{number}.weight"] = torch.randn(after, before, generator=generator) * 0.2
        weights[f"layers.{number}.bias"] = torch.randn(after, generator=generator)
    path = folder.parent / "head.safetensors"
    save_file(weights, path)
    expected = image_embeddings(model, cropped_pixels(pictures(), SIZE_PX))
    for number in (0, 2, 4, 6, 7):
        expected = (
            expected @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
        )
    judge = LaionAesthetic(device="cpu", source=str(folder), weights=path)
    np.testing.assert_allclose(
        judge.score(pictures(), PROMPTS), expected[:, 0].numpy(), rtol=1e-4, atol=1e-3
    )
