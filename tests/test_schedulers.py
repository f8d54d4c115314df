"""Samplers built from a model's own scheduler."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from chats.denoising.schedulers import build_scheduler
from chats.errors import UserError

MODEL = {"prediction_type": "v_prediction", "beta_start": 0.001, "timestep_spacing": "trailing"}
DIFFUSION = ("default", "ddim", "euler", "euler-ancestral", "dpm++", "unipc")
FLOW = ("default", "euler", "dpm++", "unipc")

# diffusers reads numpy views of its tensors the way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", ["ddim", "euler-ancestral"])
def test_a_sampler_that_does_not_fit_flow_matching_is_refused_with_those_that_do(name):
    with pytest.raises(UserError, match=r"flow matching.*default, euler, dpm\+\+, unipc"):
        build_scheduler(name, model_scheduler=FlowMatchEulerDiscreteScheduler())


def test_a_shift_that_depends_on_the_size_is_not_dropped_silently():
    model = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(UserError, match="depends on the picture's size"):
        build_scheduler("unipc", model_scheduler=model)


@pytest.mark.parametrize("name", FLOW)
def test_a_flow_model_that_comes_with_a_solver_keeps_its_shift(name):
    """Sana comes with DPM-Solver++ in its form for flows."""
    model = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    built = build_scheduler(name, model_scheduler=model)
    assert built.config.get("flow_shift", built.config.get("shift")) == 3.0
    with pytest.raises(UserError, match=r"flow matching.*default, euler, dpm\+\+, unipc"):
        build_scheduler("ddim", model_scheduler=model)


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_models_training_convention_carries_over(name):
    model = DDIMScheduler(**MODEL)
    built = build_scheduler(name, model_scheduler=model)
    assert {key: built.config[key] for key in MODEL} == MODEL
    assert built is not model


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_models_own_scheduler_is_never_touched(name):
    model = DDIMScheduler(**MODEL)
    before = dict(model.config)
    build_scheduler(name, model_scheduler=model).set_timesteps(3)
    assert dict(model.config) == before
    assert model.num_inference_steps is None


def test_latents_are_not_clipped_by_ddims_default():
    built = build_scheduler("ddim", model_scheduler=EulerDiscreteScheduler())
    assert built.config.clip_sample is False


@pytest.mark.parametrize("name", DIFFUSION)
def test_with_a_perfect_denoiser_every_sampler_ends_at_the_data(name):
    """ε = (z − √ᾱ·x₀)/√(1−ᾱ) is exact for a world of one picture x₀, whatever the step size.

    Samplers of the σ kind hold z/√ᾱ and scale it back by scale_model_input, so the model's input
    always is z = √ᾱ·x₀ + √(1−ᾱ)·ε.
    """
    model = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    built = build_scheduler(name, model_scheduler=model)
    built.set_timesteps(8)
    x0 = torch.full((1, 4, 2, 2), 0.7)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(x0.shape, generator=generator) * built.init_noise_sigma
    for t in built.timesteps:
        z = built.scale_model_input(latents, t)
        alpha_bar = model.alphas_cumprod[int(t)]
        noise = (z - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        extra = {"generator": generator} if name == "euler-ancestral" else {}
        latents = built.step(noise, t, latents, **extra).prev_sample
    assert torch.allclose(latents, x0, atol=0.02)


@pytest.mark.parametrize("name", FLOW)
def test_a_constant_velocity_is_followed_to_its_end(name):
    """z_t = (1−t)·x₀ + t·ε has velocity ε − x₀ everywhere: any solver must end at x₀."""
    built = build_scheduler(name, model_scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    built.set_timesteps(5)
    x0, noise = torch.full((1, 4, 2, 2), 0.5), torch.full((1, 4, 2, 2), 2.0)
    latents = noise
    for t in built.timesteps:
        latents = built.step(noise - x0, t, latents).prev_sample
    assert torch.allclose(latents, x0, atol=1e-3)
