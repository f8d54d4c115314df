"""The embedded weights: the exact diffusers format, within their budget, and not ignorant."""

import json
import random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from chats.shapes import BASE, CLIP, PAIR, WEIGHTS
from chats.shapes.clip import CONTEXT_LENGTH, load_clip
from chats.shapes.pretrain.autoencoder import new_autoencoder
from chats.shapes.pretrain.denoiser import new_denoiser, new_scheduler
from chats.shapes.prompts import tuning_specs
from chats.shapes.sampling import Sampler
from chats.shapes.world import CATEGORIES, RELATIONS, caption, place, render, violate

BUDGET_BYTES = 40 * 2**20
NUM_PROMPTS = 60


def config_of(part):
    config = json.loads((BASE / part / "config.json").read_text())
    return {key: value for key, value in config.items() if not key.startswith("_")}


@pytest.fixture(scope="module")
def sampler():
    return Sampler(BASE, PAIR, num_steps=20)


def test_committed_weights_are_safetensors_within_the_budget():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}
    assert sum(path.stat().st_size for path in files) <= BUDGET_BYTES


def test_committed_weights_are_finite_and_small():
    for path in WEIGHTS.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                tensor = file.get_tensor(name)
                expected = torch.float32 if path.parent == BASE / "text_encoder" else torch.float16
                assert tensor.dtype == expected, f"{path}: {name}"
                assert tensor.isfinite().all(), f"{path.name}: {name}"


def test_committed_settings_name_no_folder_of_the_machine_that_made_them():
    for path in WEIGHTS.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(), path


@pytest.mark.parametrize(("part", "build"), [("unet", new_denoiser), ("vae", new_autoencoder)])
def test_committed_architecture_is_the_one_that_the_scripts_train(part, build):
    ours = {k: v for k, v in dict(build().config).items() if not k.startswith("_")}
    assert json.loads(json.dumps(ours)) == config_of(part)


def test_plain_from_pretrained_gives_one_type_of_numbers():
    pipeline = StableDiffusionPipeline.from_pretrained(BASE)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}


def test_committed_scheduler_is_the_one_that_the_denoiser_was_trained_with():
    config = json.loads((BASE / "scheduler" / "scheduler_config.json").read_text())
    for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing"):
        assert config[name] == new_scheduler().config[name]


def test_base_with_cfg_keeps_half_of_the_tuning_promises_and_knows_every_category(sampler):
    """The full measurement with standard errors is docs/evidence.md; this guards the files."""
    specs = tuning_specs()
    kept = sampler.promises_kept(specs, method="cfg", scale=1.5)
    assert kept.mean() >= 0.5
    by_category = {
        name: np.array(
            [good for good, spec in zip(kept, specs, strict=True) if spec.category == name]
        )
        for name in CATEGORIES
    }
    # Right objects at a guessed relation; the other categories have lower chance levels.
    guessed = by_category["two_object"].mean() / len(RELATIONS)
    for name, values in by_category.items():
        error = values.std(ddof=1) / len(values) ** 0.5
        assert values.mean() - 2 * error > guessed, name


def test_embedded_pair_keeps_more_promises_than_no_guidance(sampler):
    specs = tuning_specs()[:NUM_PROMPTS]
    recommended = sampler.pair.metadata.recommended
    chats = sampler.promises_kept(
        specs, method="chats", scale=recommended.scale, alpha=recommended.alpha
    )
    standard = sampler.promises_kept(specs, method="standard")
    assert chats.mean() > standard.mean() + 0.1


def test_clip_prefers_the_caption_to_a_near_miss(sampler):
    rng = random.Random(5)
    clip = load_clip(CLIP)
    pipeline = sampler.pipeline
    specs = tuning_specs()[:NUM_PROMPTS]
    pictures = np.stack([render(place(spec, rng)) for spec in specs])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        scores = [
            clip.score(latents, _ids(pipeline, [caption(spec, rng) for spec in texts]))
            for texts in (specs, [violate(spec, rng) for spec in specs])
        ]
    assert (scores[0] > scores[1]).float().mean() >= 0.7


def _ids(pipeline, captions):
    padded = pipeline.tokenizer(
        captions, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True
    )
    return torch.tensor(padded.input_ids)
