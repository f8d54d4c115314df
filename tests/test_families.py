"""Every newer family: equation 17 written out by hand, lengths of text, and what is saved.

The oracle calls each model apart, one picture at a time, the way its pipeline calls it, on the
latents that the real pipeline was at; LoRA halves are merged into copies of the weights by hand.
"""

import functools
import re
from pathlib import Path

import pytest
import torch

import chats
from chats.denoising.families import FAMILIES as FAMILY_TABLE
from chats.generation.noise import starting_noise
from chats.generation.previews import preview_images
from chats.pairs.pair import load_pair, save_pair
from tests.families_by_hand import ENCODE, PREDICT
from tests.steps import models_by_hand, record_steps, relative_error, seeds
from tests.tiny import tiny_call, tiny_pair, tiny_pipeline

# diffusers' Chroma uses a name that diffusers itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")

PROMPTS = ["ab", "cd ef gh"]
S, ALPHA = 4.0, 0.5
FAMILIES = ("flux", "auraflow", "sana", "lumina2", "chroma", "qwen-image", "z-image")
TOLERANCE = {
    # Sana and Z-Image step in float32, whatever their weights are.
    family: 1e-5 if family in ("sana", "z-image") else 1e-10
    for family in FAMILIES
}


def proxy(prompt: dict, null: dict) -> dict:
    """Return c̃ = −α·c + (1+α)·∅, token by token: as long as c, under c's mask."""
    mixed = {}
    for key in prompt.keys() - {"mask"}:
        c, empty = prompt[key], null[key]
        if key == "c":
            padding = torch.zeros(1, max(0, c.shape[1] - empty.shape[1]), c.shape[2]).to(c)
            empty = torch.cat([empty, padding], dim=1)[:, : c.shape[1]]
        mixed[key] = -ALPHA * c + (1 + ALPHA) * empty
    return {**prompt, **mixed}


@pytest.mark.parametrize("null_prompt", ["empty", "zeros"])
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_equation_17_written_by_hand_reaches_the_scheduler(family, kind, null_prompt):
    """(1+s)·v⁺(z, c) − s·v⁻(z, c̃), for two prompts of different length in one call."""
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, kind, null_prompt=null_prompt)
    _, good, bad = models_by_hand(pipe, pair)
    predict = functools.partial(PREDICT[family], pipe)
    null = ENCODE[family](pipe, "", True)
    steps = record_steps(pipe)
    with chats.guidance(pipe, pair, scale=S, alpha=ALPHA):
        pipe(list(PROMPTS), generator=seeds(2), **tiny_call(family))
    assert len(steps) == 4
    for step in steps:
        for i, text in enumerate(PROMPTS):
            z, t = step.denoiser_input[i : i + 1], step.timestep
            c = ENCODE[family](pipe, text, False)
            empty = null if null_prompt == "empty" else {key: 0 * c[key] for key in c}
            v_good, v_bad = predict(good, z, t, c), predict(bad, z, t, proxy(c, empty))
            hand = (1 + S) * v_good - S * v_bad
            assert relative_error(step.prediction[i : i + 1], hand) < TOLERANCE[family]


OWN_CFG = {
    "flux": {"true_cfg_scale": 1 + S, "guidance_scale": 1.0},
    "auraflow": {"guidance_scale": 1 + S},
    "sana": {"guidance_scale": 1 + S},
    "lumina2": {"guidance_scale": 1 + S, "cfg_normalization": False},
    "chroma": {"guidance_scale": 1 + S},
    "z-image": {"guidance_scale": S},
}


@pytest.mark.parametrize("family", OWN_CFG)
def test_cfg_and_a_negative_prompt_are_diffusers_own(family):
    pipe = tiny_pipeline(family)
    negatives = ["", "blur of it"]
    call = tiny_call(family)
    stock = pipe(
        list(PROMPTS),
        negative_prompt=list(negatives),  # Z-Image writes its template into a caller's list
        generator=seeds(2),
        **OWN_CFG[family],
        **call,
    ).images
    with chats.guidance(pipe, method="cfg", scale=S, negative_prompt=negatives):
        ours = pipe(list(PROMPTS), generator=seeds(2), **call).images
    assert relative_error(ours, stock) < TOLERANCE[family]


@pytest.mark.parametrize("method", ["chats", "cfg"])
@pytest.mark.parametrize("family", [each for each in FAMILIES if each not in ("flux", "chroma")])
def test_what_stands_behind_the_end_of_a_text_does_not_count(family, method):
    """Flux has no masks, Chroma weakens padding only. CHATS: of c; c̃ holds ∅ up to the end of c."""
    pipe = tiny_pipeline(family)
    pair, where = tiny_pair(pipe, "lora"), {"value": None}

    def spoil(module, args, kwargs, output):
        mask = kwargs["attention_mask"]
        if method == "cfg" or len(mask) == len(PROMPTS):
            for states in (output[0], *(output.get("hidden_states") or ())):
                states[mask == where["value"]] += 3

    pipe.text_encoder.register_forward_hook(spoil, with_kwargs=True)
    pictures = {}
    for where["value"] in (None, 0, 1):
        with chats.guidance(pipe, pair, method=method):
            made = pipe(list(PROMPTS), generator=seeds(2), **tiny_call(family))
        pictures[where["value"]] = made.images
    assert relative_error(pictures[0], pictures[None]) < TOLERANCE[family]
    assert relative_error(pictures[1], pictures[None]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_one_call_are_what_each_is_alone(family):
    """Each with its own method, prompt length, negative prompt and interval."""
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, "lora")
    settings = {
        "method": ["chats", "chats-exact", "cfg"],
        "negative_prompt": ["", "no", "blur of it"],
        "interval": [(0.0, 1.0), (0.25, 0.75), (0.0, 0.5)],
    }
    prompts = [*PROMPTS, ""]
    with chats.guidance(pipe, pair, scale=S, **settings) as cost:
        together = pipe(list(prompts), generator=seeds(3), **tiny_call(family)).images
    assert (cost.num_forwards, cost.num_rows) == (4, 4 * 2 + (4 + 2 * 2) + (4 + 2))
    for i, prompt in enumerate(prompts):
        alone = {name: values[i] for name, values in settings.items()}
        with chats.guidance(pipe, pair, scale=S, **alone):
            one = pipe(prompt, generator=seeds(1, start=i), **tiny_call(family)).images
        assert relative_error(together[i : i + 1], one) < TOLERANCE[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_several_pictures_per_prompt_are_rows_like_any_other(family):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, "lora")
    with chats.guidance(pipe, pair, alpha=[0.2, 0.8], negative_prompt=["blur", "no"]):
        both = pipe("ab", num_images_per_prompt=2, generator=seeds(2), **tiny_call(family)).images
    with chats.guidance(pipe, pair, alpha=0.8, negative_prompt="no"):
        second = pipe("ab", generator=seeds(1, start=1), **tiny_call(family)).images
    assert relative_error(both[1:], second) < TOLERANCE[family]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_pair_paints_the_same_picture(tmp_path, family, kind):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, kind)
    save_pair(pair, tmp_path)
    pictures = []
    for each in (pair, load_pair(tmp_path)):
        with chats.guidance(pipe, each):
            pictures.append(pipe("ab", generator=seeds(1), **tiny_call(family)).images)
    # What was read from a file may lie otherwise in memory, which can change the last bit.
    assert relative_error(*pictures) < TOLERANCE[family]


def test_the_embedded_guidance_is_1_unless_another_is_asked_for():
    pipe, told = tiny_pipeline("flux"), []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["guidance"].tolist()), with_kwargs=True
    )
    with chats.guidance(pipe, method="cfg"):
        pipe("ab", **tiny_call("flux"))
        pipe("ab", guidance_scale=3.5, **tiny_call("flux"))
    assert told[0] == [1.0]
    assert told[-1] == [3.5]


def test_a_checkpoint_without_embedded_guidance_is_told_none():
    pipe = tiny_pipeline("flux")
    plain = type(pipe.transformer).from_config(
        {**pipe.transformer.config, "guidance_embeds": False}
    )
    pipe.transformer = plain.to(torch.float64)
    with chats.guidance(pipe, tiny_pair(pipe, "lora")) as cost:
        made = pipe("ab", **tiny_call("flux")).images
    assert made.isfinite().all()
    assert cost.num_rows == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_under_way_can_be_previewed(family):
    """Noise that the app draws and packs itself, wide pictures told from tall ones."""
    pipe, seen = tiny_pipeline(family, dtype=torch.float32), []
    call = {**tiny_call(family), "num_inference_steps": 2}
    width, height = 2 * call["width"], call["height"]

    def watch(_pipe, _index, _timestep, state):
        seen.extend(preview_images(pipe, state["latents"], width=width, height=height))
        return {}

    noise = starting_noise(pipe, seeds(2), width=width, height=height)
    pipe(
        list(PROMPTS),
        latents=noise,
        callback_on_step_end=watch,
        **{**call, "width": width, "output_type": "pil"},
    )
    assert len(seen) == 4
    assert all(each.size == (width, height) for each in seen)


def test_the_guide_to_models_is_the_table_of_families():
    guide = (Path(__file__).parents[1] / "docs" / "models.md").read_text("utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+)\|$", guide, re.MULTILINE)
    assert [name for name, _ in rows] == [family.name for family in FAMILY_TABLE]
    for family, (_, row) in zip(FAMILY_TABLE, rows, strict=True):
        pipelines, steps, own_guidance, *can, _ = [cell.strip() for cell in row.split("|")]
        assert pipelines.split(",")[0] == family.pipelines[0]
        assert int(steps) == family.num_steps
        assert own_guidance == "".join(f"`{k}={v:g}`" for k, v in family.cfg_off.items())
        assert can == ["yes", "yes", "yes", "yes" if family.trains else "no"]
