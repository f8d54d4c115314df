"""Which pairs make which batch: squares and buckets, one process and several, stopped or not."""

import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image

from chats.pairs.pair import load_pair
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from tests.tiny_training import tiny_draws
from training.config import TrainingConfig
from training.data.draws import draw_batch
from training.data.opening import open_batches, read_rows
from training.loop import trainer
from training.loop.metrics import MEASURED
from training.loop.trainer import TrainingInterruptedError, train_on
from training.run import RunDirectory

PICTURES = ((20, 16), (16, 30), (20, 16), (20, 16), (16, 30), (30, 16))
DRAWS = tiny_draws(batch_size=2)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sdxl", dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_preferences(tmp_path_factory.mktemp("data") / "pairs", prompts=tuple("abcdef"))
    for number, size in enumerate(PICTURES):
        Image.effect_noise(size, 99).convert("RGB").save(folder / f"{number}_chosen.png")
    return folder


@pytest.fixture
def make_config(folder, tmp_path):
    def make(output, *, buckets=True, **optimizer):
        return TrainingConfig.model_validate(
            {
                "data": {"path": folder, "buckets": buckets},
                "model": {"rank": 2, "lora_alpha": 4},
                "objective": {"temperature": 100.0},
                "optimizer": {"num_steps": 6, "batch_size": 1, "learning_rate": 1e-3} | optimizer,
                "run": {"output": tmp_path / output, "log_every": 1, "save_every": 100},
            }
        )

    return make


@pytest.fixture
def source(make_config, pipeline):
    return opened(make_config("unused"), pipeline)


def opened(config, pipeline):
    return open_batches(read_rows(config.data), pipeline, config.data, run=config.run.output)


def taken(batches, num):
    return [next(batches)() for _ in range(num)]


def lines_of(config):
    lines = RunDirectory(config.run.output).read_metrics()
    return [{name: line[name] for name in line.keys() - MEASURED} for line in lines]


def test_squares_come_as_draw_batch_draws_them(make_config, pipeline):
    source = opened(make_config("unused", buckets=False), pipeline)
    (encoded,) = source.sources
    for number, batch in enumerate(taken(source.batches(DRAWS, after=0), 4)):
        expected = draw_batch(
            encoded,
            range(2 * number, 2 * number + 2),
            seed=0,
            level_at=DRAWS.level_at,
            prompt_drop=0.0,
            dispreferred_prompt_drop=0.5,
        )
        assert torch.equal(batch.noise, expected.noise)
        assert torch.equal(batch.latents["preferred"], expected.latents["preferred"])


def test_a_bucketed_batch_has_one_shape_and_tells_the_denoiser_its_size(source):
    """Pixels are 12 × 20, 18 × 14 and 22 × 10, latents half of them; ids are (H, W, 0, 0, H, W)."""
    shapes = set()
    for batch in taken(source.batches(DRAWS, after=0), 9):
        height, width = batch.noise.shape[2:]
        shapes.add((height, width))
        for half in ("preferred", "dispreferred"):
            assert batch.latents[half].shape == (2, 4, height, width)
        expected = torch.tensor([2.0 * height, 2 * width, 0, 0, 2 * height, 2 * width])
        for condition in ("prompt", "dropped"):
            ids = batch.conditions[condition]["added_cond_kwargs.time_ids"]
            assert torch.equal(ids, expected.expand(2, -1))
    assert len(shapes) == 3


def test_each_pair_of_each_bucket_comes_up_once_an_epoch(source):
    """At batch 1 six batches are an epoch; noise tells the pairs apart, epoch by epoch."""
    draws = replace(DRAWS, batch_size=1)
    batches = taken(source.batches(draws, after=0), 12)
    seen = [Counter(batch.noise.shape[2:] for batch in batches[i : i + 6]) for i in (0, 6)]
    assert seen[0] == seen[1]
    assert sorted(seen[0].values()) == [1, 2, 3]
    assert len({batch.noise.sum().item() for batch in batches}) == 12


def test_processes_share_the_batches_out_among_them(source):
    alone = taken(source.batches(DRAWS, after=0), 6)
    for process in (0, 1):
        draws = replace(DRAWS, num_processes=2, process_index=process)
        for micro_step, batch in enumerate(taken(source.batches(draws, after=0), 3)):
            assert torch.equal(batch.noise, alone[2 * micro_step + process].noise)


def test_batches_go_on_from_any_micro_step(source):
    alone = taken(source.batches(DRAWS, after=0), 6)
    for after in (1, 4):
        (batch,) = taken(source.batches(DRAWS, after=after), 1)
        assert torch.equal(batch.noise, alone[after].noise)


def test_a_stopped_training_in_buckets_goes_on_bit_for_bit(make_config, pipeline, monkeypatch):
    whole, cut = make_config("whole"), make_config("cut")
    train_on(whole, opened(whole, pipeline), pipeline)
    with monkeypatch.context() as patch:
        terms_of, calls = trainer.loss_terms, []

        def counted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return terms_of(*args, **kwargs)

        patch.setattr(trainer, "loss_terms", counted)
        with pytest.raises(TrainingInterruptedError, match="after step 3 of 6"):
            train_on(cut, opened(cut, pipeline), pipeline)
    train_on(cut, opened(cut, pipeline), pipeline)
    assert lines_of(cut) == lines_of(whole)
    one, other = (load_pair(config.run.output / "pair") for config in (whole, cut))
    assert all(torch.equal(one.preferred[name], other.preferred[name]) for name in one.preferred)


def test_accumulation_mixes_shapes_and_loses_nothing(make_config, pipeline):
    """The loss of a step of six batches, before any update, is the mean of the six alone."""
    config = make_config("accumulated", num_steps=1, gradient_accumulation=6)
    config = config.model_copy(
        update={"objective": config.objective.model_copy(update={"name": "sft-preferred"})}
    )
    alone = make_config("alone", num_steps=6, learning_rate=1e-12)
    alone = alone.model_copy(update={"objective": config.objective})
    for each in (config, alone):
        train_on(each, opened(each, pipeline), pipeline)
    losses = [line["loss"] for line in lines_of(alone)]
    assert len(set(losses)) == 6
    assert lines_of(config)[0]["loss"] == pytest.approx(sum(losses) / 6, rel=1e-5)
