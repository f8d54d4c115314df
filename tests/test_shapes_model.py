"""The embedded weights: the exact diffusers format, within their budget, and not ignorant."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from chats.shapes import BASE, PAIR, WEIGHTS
from chats.shapes.prompts import tuning_specs
from chats.shapes.sampling import Sampler

BUDGET_BYTES = 40 * 2**20
NUM_PROMPTS = 60


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


def test_plain_from_pretrained_gives_one_type_of_numbers():
    pipeline = StableDiffusionPipeline.from_pretrained(BASE)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}


def test_base_with_cfg_keeps_half_of_the_tuning_promises(sampler):
    """The full measurement with standard errors is docs/evidence.md; this guards the files."""
    specs = tuning_specs()[:NUM_PROMPTS]
    kept = sampler.promises_kept(specs, method="cfg", scale=1.5)
    assert kept.mean() >= 0.5


def test_embedded_pair_keeps_more_promises_than_no_guidance(sampler):
    specs = tuning_specs()[:NUM_PROMPTS]
    recommended = sampler.pair.metadata.recommended
    chats = sampler.promises_kept(
        specs, method="chats", scale=recommended.scale, alpha=recommended.alpha
    )
    standard = sampler.promises_kept(specs, method="standard")
    assert chats.mean() > standard.mean() + 0.1
