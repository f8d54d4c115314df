"""What a person sees of a training, and that none of it reaches the training."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import chats
from chats.denoising.families import family_of
from chats.errors import UserError
from chats.generation.png import read_png
from chats.objective import OBJECTIVES
from chats.pairs.pair import load_pair
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from tests.tiny_training import stop_at, tiny_config, told, trained_weights
from training.config import NoiseSettings
from training.data.draws import draw_batch
from training.data.encoded_pairs import encode_pairs
from training.loop import samples as samples_module
from training.loop.losses import loss_terms
from training.loop.noise import NoiseSchedule
from training.loop.pair_model import PairModel
from training.loop.trainer import TrainingInterruptedError, train, train_on
from training.loop.validation import DRAWS_SEED, read_sides
from training.preferences import read_pairs
from training.run import RunDirectory

PROMPTS = ("a red circle", "two blue stars")
RUN_SEED = {"seed": 7}
"""Another than that of the validation's draws."""


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sd15", dtype=torch.float32)


@pytest.fixture(scope="module")
def dataset(pipeline, tmp_path_factory):
    folder = write_preferences(tmp_path_factory.mktemp("data") / "pairs")
    return encode_pairs(read_pairs(folder), pipeline, name="pairs")


@pytest.fixture(scope="module")
def held_out(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "held"
    write_preferences(folder, prompts=("a green circle", "a star", "a cat"))
    return encode_pairs(read_pairs(folder), pipeline, name="held")


def pictures(config) -> dict[str, np.ndarray]:
    run = RunDirectory(config.run.output)
    return {each.file: pixels(run.samples / each.file) for each in run.read_samples()}


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_is_seen_of_a_training_does_not_reach_it(dataset, held_out, pipeline, tmp_path, kind):
    shared = {"model": {"kind": kind}, "run": RUN_SEED, "optimizer": {"num_steps": 4}}
    plain = tiny_config(tmp_path / "plain", **shared)
    seen = tiny_config(
        tmp_path / "seen",
        **shared,
        validation={"every": 2},
        samples={"prompts": PROMPTS, "every": 1},
    )
    before = {name: value.clone() for name, value in pipeline.vae.state_dict().items()}
    states = []
    for config, pairs in ((plain, None), (seen, held_out)):
        torch.manual_seed(0)
        train_on(config, dataset, pipeline, held_out=pairs)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    lines = told(seen)
    assert [line["step"] for line in lines if "validation/loss" in line] == [0, 2, 4]
    trained = [
        {name: value for name, value in line.items() if not name.startswith("validation")}
        for line in lines[1:]
    ]
    assert trained == told(plain)
    weights = trained_weights(plain)
    assert all(torch.equal(each, weights[name]) for name, each in trained_weights(seen).items())
    assert type(pipeline) is StableDiffusionPipeline
    assert all(torch.equal(pipeline.vae.state_dict()[name], each) for name, each in before.items())
    assert "decode" not in vars(pipeline.vae)
    assert len(pictures(plain)) == 0
    assert len(pictures(seen)) == 2 + 5 * 2


def test_the_validation_is_the_objective_of_the_held_out_pairs(
    dataset, held_out, pipeline, tmp_path
):
    """Before the first step, of three pairs in batches of two: as in one batch of three."""
    config = tiny_config(
        tmp_path / "run",
        model={"kind": "full"},
        objective={"name": "sft-all"},
        optimizer={"num_steps": 1},
        validation={"max_pairs": 3},
    )
    train_on(config, dataset, pipeline, held_out=held_out)
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler)
    objective = OBJECTIVES["sft-all"]
    model = PairModel(
        pipeline.unet,
        objective=objective,
        settings=config.model,
        family=family_of(pipeline),
        seed=0,
    )
    batch = draw_batch(
        held_out,
        range(3),
        seed=DRAWS_SEED,
        level_at=lambda uniform: schedule.level_at(uniform, NoiseSettings()),
        prompt_drop=0.0,
        dispreferred_prompt_drop=0.5,
    )
    terms = loss_terms(
        model,
        batch,
        schedule=schedule,
        error_weights=schedule.error_weights(None),
        objective=objective,
        settings=config.objective,
    )
    line = told(config)[0]
    assert line == {"step": 0, "validation/loss": pytest.approx(terms.loss.mean().item(), rel=1e-5)}


def test_the_validation_tells_what_was_learned(dataset, pipeline, tmp_path):
    """On the very pairs that are trained: margin and accuracy rise from nothing."""
    config = tiny_config(tmp_path / "run", optimizer={"num_steps": 12, "batch_size": 4})
    train_on(config, dataset, pipeline, held_out=dataset)
    lines = told(config)
    first, last = lines[0], lines[-1]
    assert first["validation/margin"] == first["validation/accuracy"] == 0.0
    assert last["validation/margin"] > 0.0
    assert last["validation/loss"] < first["validation/loss"]
    together = last["validation/preferred"] + last["validation/dispreferred"]
    assert last["validation/margin"] == pytest.approx(together)


def test_a_resumed_training_shows_what_a_whole_one_does(
    dataset, held_out, pipeline, tmp_path, monkeypatch
):
    """Stopped in the middle of a line's window, right where pictures are due."""
    whole, cut = (
        tiny_config(
            tmp_path / name,
            optimizer={"ema_decay": 0.9, "gradient_accumulation": 2, "batch_size": 1},
            run={"log_every": 4, **RUN_SEED},
            validation={"every": 3},
            samples={"prompts": PROMPTS, "every": 3, "alphas": (0.0, 0.5)},
        )
        for name in ("whole", "cut")
    )
    train_on(whole, dataset, pipeline, held_out=held_out)
    with monkeypatch.context() as patch:
        stop_at(6, patch)  # the second forward of step 3
        with pytest.raises(TrainingInterruptedError, match="after step 3 of 6"):
            train_on(cut, dataset, pipeline, held_out=held_out)
    assert [line["step"] for line in told(cut)] == [0, 3]
    assert max(each.step for each in RunDirectory(cut.run.output).read_samples()) == 0
    train_on(cut, dataset, pipeline, held_out=held_out)
    assert told(cut) == told(whole)
    assert [line["step"] for line in told(cut)] == [0, 3, 4, 6]
    expected, found = pictures(whole), pictures(cut)
    assert list(found) == list(expected)
    assert len(found) == 2 + 3 * 2 * 2
    assert all(np.array_equal(each, expected[name]) for name, each in found.items())


@pytest.mark.parametrize(
    ("kind", "objective", "method"),
    [
        ("lora", "chats", "chats"),
        ("full", "chats", "chats"),
        ("full", "chats-no-ref", "chats"),
        ("lora", "sft-preferred", "preferred-cfg"),
        ("full", "diffusion-npo", "npo"),
    ],
)
def test_pictures_are_those_that_the_saved_pair_makes(
    dataset, pipeline, tmp_path, kind, objective, method
):
    """Against stock CFG for the base, and `chats.guidance` with the pair from the disk."""
    config = tiny_config(
        tmp_path / "run",
        model={"kind": kind},
        objective={"name": objective},
        optimizer={"num_steps": 2, "ema_decay": 0.5},
        samples={"prompts": PROMPTS, "scale": 3.0, "seed": 11},
    )
    train_on(config, dataset, pipeline)
    run = RunDirectory(config.run.output)
    samples = run.read_samples()
    assert [(each.step, each.method, each.seed) for each in samples] == [
        *((0, "cfg", seed) for seed in (11, 12)),
        *((0, method, seed) for seed in (11, 12)),
        *((2, method, seed) for seed in (11, 12)),
    ]
    base, trained = samples[1], samples[-1]
    assert base.file == "step-000000/01-cfg.png"
    assert (trained.alpha is not None) == (method == "chats")

    def call(pipe, **arguments):
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(12))
        images = pipe([PROMPTS[1]], num_inference_steps=2, latents=noise, **arguments).images
        return np.asarray(images[0]).astype(int)

    stock = copy.copy(pipeline)
    assert np.abs(call(stock, guidance_scale=4.0) - pixels(run.samples / base.file)).max() <= 1
    with chats.guidance(stock, load_pair(run.pair), method=method, scale=3.0, alpha=0.5):
        expected = call(stock)
    assert np.abs(expected - pixels(run.samples / trained.file)).max() <= 1
    assert np.abs(expected - pixels(run.samples / base.file)).max() > 1

    settings = read_png(run.samples / trained.file)
    assert (settings.prompt, settings.num_steps, settings.width) == (PROMPTS[1], 2, 16)
    assert (settings.rows[0].method, settings.rows[0].seed) == (method, 12)
    assert settings.pair == "run at step 2"
    assert read_png(run.samples / base.file).pair is None


@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart"])
def test_every_family_makes_pictures(tmp_path, family):
    pipeline = tiny_pipeline(family, dtype=torch.float32)
    dataset = encode_pairs(read_pairs(write_preferences(tmp_path / "pairs")), pipeline)
    config = tiny_config(
        tmp_path / "run",
        model={"targets": None},
        optimizer={"num_steps": 1},
        run={"mixed_precision": "bf16"},
        samples={"prompts": ("a cat", "a longer prompt"), "every": 5},
    )
    train_on(config, dataset, pipeline)
    assert len(pictures(config)) == 6


def test_too_little_memory_for_pictures_does_not_end_the_training(
    dataset, pipeline, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(samples_module, "guidance", refuse)
    config = tiny_config(tmp_path / "run", samples={"prompts": PROMPTS})
    train_on(config, dataset, pipeline)
    run = RunDirectory(config.run.output)
    assert run.state() == "succeeded"
    assert run.read_samples() == []
    assert "Step 6: no sample pictures, there is too little memory" in run.log.read_text("utf-8")


def test_a_trainer_killed_after_the_pair_was_written_is_finished_by_the_next(
    dataset, pipeline, tmp_path
):
    config = tiny_config(tmp_path / "run")
    result = train_on(config, dataset, pipeline)
    run = RunDirectory(config.run.output)
    run.update_status(state="running", step=5, exit_code=None)
    assert run.state() == "interrupted"
    other = tiny_config(tmp_path / "run", optimizer={"learning_rate": 1e-3})
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.01 then, 0\.001 now"):
        train_on(other, dataset, pipeline)
    assert run.state() == "interrupted"
    assert train_on(config, dataset, pipeline) == result
    assert (run.state(), run.status().step) == ("succeeded", 6)
    with pytest.raises(UserError, match="holds a finished run"):
        train_on(config, dataset, pipeline)


def test_a_run_that_never_got_to_a_checkpoint_may_be_started_otherwise(dataset, pipeline, tmp_path):
    config = tiny_config(tmp_path / "run")
    run = RunDirectory(config.run.output)
    run.write_config(tiny_config(tmp_path / "run", optimizer={"learning_rate": 1e-3}))
    run.append_metrics({"step": 0, "validation/loss": 99.0})
    train_on(config, dataset, pipeline)
    assert run.read_config() == config
    assert [line["step"] for line in told(config)] == [1, 2, 3, 4, 5, 6]


def test_a_training_from_a_folder_shows_its_held_out_prompts(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "base")
    write_preferences(tmp_path / "pairs", prompts=[f"prompt {n}" for n in "abcdef"])
    config = tiny_config(
        tmp_path / "run",
        model={"base": str(tmp_path / "base")},
        validation={"held_out": 2},
        samples={"num_prompts": 1},
    )
    training, held_out = read_sides(config)
    assert (len(training), len(held_out)) == (4, 2)
    train(config)
    run = RunDirectory(config.run.output)
    assert {each.prompt for each in run.read_samples()} == {held_out[0].prompt}
    assert [line["step"] for line in told(config) if "validation/loss" in line] == [0, 6]
    log = run.log.read_text("utf-8")
    assert "Data pairs: 4 pairs, 2 held out, 4 prompts to train on." in log
    assert "Succeeded after" in log
    with pytest.raises(UserError, match=r"validation\.held_out 1 parts 6 pairs into 5 to train on"):
        train(tiny_config(tmp_path / "other", validation={"held_out": 1}))
    status = RunDirectory(tmp_path / "other").status()
    assert status.state == "failed"
    assert "both need at least 2" in status.message
