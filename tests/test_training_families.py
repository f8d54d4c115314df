"""Every family trains: the loss is the paper's, and what is saved can be sampled."""

import math

import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

import chats
from chats.denoising.families import denoiser_of, family_of
from chats.objective import OBJECTIVES
from chats.pairs.pair import load_pair
from tests.tiny import SIZE_PX, TRAINED, tiny_call, tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.config import ModelSettings, NoiseSettings, ObjectiveSettings, TrainingConfig
from training.data.draws import draw_batch
from training.data.encoded_pairs import encode_pairs
from training.loop.noise import NoiseSchedule
from training.loop.pair_model import PairModel
from training.loop.trainer import loss_terms, train_on
from training.preferences import read_pairs
from training.run import RunDirectory

T = 7.0
NUM_TOKENS = 16  # of a tiny picture


@pytest.fixture(scope="module", params=TRAINED)
def pipeline(request):
    return tiny_pipeline(request.param, dtype=torch.float32)


@pytest.fixture(scope="module")
def dataset(pipeline, tmp_path_factory):
    folder = write_preferences(tmp_path_factory.mktemp("data") / "pairs")
    return encode_pairs(read_pairs(folder), pipeline, resolution=SIZE_PX, name="pairs")


def call_by_hand(name, denoiser, latents, timesteps, conditions):
    """The denoiser's call as each pipeline of diffusers writes it."""
    text = conditions["encoder_hidden_states"]
    if name == "sd15":
        return denoiser(latents, timesteps, encoder_hidden_states=text).sample
    if name == "sdxl":
        ids = torch.tensor([[16, 16, 0, 0, 16, 16]] * len(latents), dtype=torch.float32)
        added = {"text_embeds": conditions["added_cond_kwargs.text_embeds"], "time_ids": ids}
        return denoiser(
            latents, timesteps, encoder_hidden_states=text, added_cond_kwargs=added
        ).sample
    if name == "sd3":
        return denoiser(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=text,
            pooled_projections=conditions["pooled_projections"],
        ).sample
    if name == "flux":
        tokens = FluxPipeline._pack_latents(latents, len(latents), 4, 8, 8)
        predicted = denoiser(
            hidden_states=tokens,
            timestep=timesteps / 1000,
            guidance=torch.ones(len(latents)),
            pooled_projections=conditions["pooled_projections"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
        ).sample
        return FluxPipeline._unpack_latents(predicted, 16, 16, 2)
    output = denoiser(
        latents,
        encoder_hidden_states=text,
        encoder_attention_mask=conditions["encoder_attention_mask"],
        timestep=timesteps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    return output.chunk(2, dim=1)[0]


def test_the_loss_is_equation_13_and_14_written_by_hand(pipeline, dataset):
    """−log σ(−T·[e(θ⁺,z⁺,c) − e(ref,z⁺,c) + e(θ⁻,z⁻,c′) − e(ref,z⁻,c′)])."""
    name = family_of(pipeline).name
    temperature = 0.05 if name == "flux" else T  # tiny Flux errs by hundreds
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler, num_tokens=NUM_TOKENS)
    model = PairModel(
        denoiser_of(pipeline),
        objective=OBJECTIVES["chats"],
        settings=ModelSettings(kind="full"),
        family=family_of(pipeline),
        seed=0,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.trained_parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    batch = draw_batch(
        dataset,
        range(4),
        seed=0,
        level_at=lambda uniform: schedule.level_at(uniform, NoiseSettings()),
        prompt_drop=0.0,
        dispreferred_prompt_drop=0.5,
    )
    found = loss_terms(
        model,
        batch,
        schedule=schedule,
        error_weights=schedule.error_weights(None),
        objective=OBJECTIVES["chats"],
        settings=ObjectiveSettings(temperature=temperature),
    )

    signal, sigma = (
        each[batch.levels].view(-1, 1, 1, 1) for each in (schedule.signal, schedule.sigma)
    )
    timesteps = schedule.timesteps[batch.levels]
    errors = {}
    for role, half, condition in (
        ("preferred", "preferred", "prompt"),
        ("reference", "preferred", "prompt"),
        ("dispreferred", "dispreferred", "dropped"),
        ("reference", "dispreferred", "dropped"),
    ):
        clean = batch.latents[half]
        target = batch.noise - clean if name in ("sd3", "flux") else batch.noise
        with torch.no_grad():
            prediction = call_by_hand(
                name,
                model.denoisers[role],
                signal * clean + sigma * batch.noise,
                timesteps,
                batch.conditions[condition],
            )
        errors[role, half] = ((target - prediction) ** 2).mean((1, 2, 3))
    argument = -temperature * (
        errors["preferred", "preferred"]
        - errors["reference", "preferred"]
        + errors["dispreferred", "dispreferred"]
        - errors["reference", "dispreferred"]
    )
    expected = torch.log1p(torch.exp(-argument))
    torch.testing.assert_close(found.loss.detach(), expected, rtol=1e-5, atol=1e-6)
    assert expected.std() > 0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_training_saves_sampling_loads(pipeline, dataset, tmp_path, kind):
    config = TrainingConfig.model_validate(
        {
            "data": {"path": tmp_path, "resolution": SIZE_PX},
            "model": {"kind": kind, "rank": 2, "lora_alpha": 4},
            "objective": {"temperature": T},
            "optimizer": {"num_steps": 2, "batch_size": 2, "learning_rate": 1e-2},
            "samples": {"prompts": ["a red circle"], "num_steps": 1, "every": 2},
            "run": {"output": tmp_path / "run", "log_every": 1},
        }
    )
    result = train_on(config, dataset, pipeline)
    first = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    assert f'"loss": {math.log(2):.6f}'[:14] in first
    run = RunDirectory(config.run.output)
    told = [(each.step, each.method) for each in run.read_samples()]
    assert told == [(0, "cfg"), (0, "chats"), (2, "chats")]
    for sample in run.read_samples():
        with Image.open(run.samples / sample.file) as image:
            assert image.size == (SIZE_PX, SIZE_PX)
    pair = load_pair(result.pair)
    family = family_of(pipeline).name
    pictures = []
    for method in ("cfg", "chats"):
        with chats.guidance(pipeline, pair, method=method, scale=2.0, alpha=0.5):
            generator = torch.Generator().manual_seed(0)
            pictures.append(
                torch.as_tensor(
                    pipeline("a red circle", generator=generator, **tiny_call(family)).images
                )
            )
    assert all(each.isfinite().all() for each in pictures)
    assert not torch.equal(*pictures)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_gradient_checkpointing_changes_no_gradient(pipeline, dataset, kind):
    found = []
    for is_on in (False, True):
        schedule = NoiseSchedule.from_scheduler(pipeline.scheduler, num_tokens=NUM_TOKENS)
        model = PairModel(
            denoiser_of(pipeline),
            objective=OBJECTIVES["chats"],
            settings=ModelSettings(kind=kind, rank=2, lora_alpha=4),
            family=family_of(pipeline),
            seed=0,
        )
        if is_on:
            model.enable_gradient_checkpointing()
        model.train()
        batch = draw_batch(
            dataset,
            range(2),
            seed=0,
            level_at=lambda uniform: schedule.level_at(uniform, NoiseSettings()),  # noqa: B023
            prompt_drop=0.0,
            dispreferred_prompt_drop=0.5,
        )
        terms = loss_terms(
            model,
            batch,
            schedule=schedule,
            error_weights=schedule.error_weights(None),
            objective=OBJECTIVES["chats"],
            settings=ObjectiveSettings(temperature=T),
        )
        terms.loss.mean().backward()
        found.append([parameter.grad for parameter in model.trained_parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert any(each.abs().max() > 0 for each in found[0])
