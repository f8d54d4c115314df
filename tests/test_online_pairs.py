"""Encoding in the loop: what it gives, and what happens to pictures that can't be read."""

import copy

import pytest
import torch
from PIL import Image

from chats.errors import UserError
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from tests.tiny_training import tiny_draws
from training.config import TrainingConfig
from training.data.opening import open_batches, read_rows
from training.loop.metrics import MEASURED
from training.loop.trainer import train, train_on
from training.run import RunDirectory

DRAWS = tiny_draws(batch_size=3)


@pytest.fixture(scope="module")
def pipelines():
    return {name: tiny_pipeline(name, dtype=torch.float32) for name in ("sd15", "sdxl")}


@pytest.fixture
def folder(tmp_path):
    """Six pairs; two of the preferred pictures are tall."""
    folder = write_preferences(tmp_path / "pairs", prompts=("a", "b", "a", "c", "d", "e"))
    for number in (1, 4):
        Image.radial_gradient("L").resize((12, 30)).save(folder / f"{number}_chosen.png")
    return folder


def config_of(folder, output, *, encode="online", buckets=False, **groups) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "data": {"path": folder, "encode": encode, "buckets": buckets} | groups.pop("data", {}),
            "model": {"rank": 2, "lora_alpha": 4} | groups.pop("model", {}),
            "objective": {"temperature": 100.0} | groups.pop("objective", {}),
            "optimizer": {"num_steps": 4, "batch_size": 2, "learning_rate": 1e-3}
            | groups.pop("optimizer", {}),
            "run": {"output": folder.parent / output, "log_every": 1},
            **groups,
        }
    )


def opened(config, pipeline):
    return open_batches(read_rows(config.data), pipeline, config.data, run=config.run.output)


def trained(config, pipeline) -> list[dict]:
    """Train; returns the lines of metrics that another run must repeat."""
    train_on(config, opened(config, pipeline), pipeline)
    lines = RunDirectory(config.run.output).read_metrics()
    return [{name: line[name] for name in line.keys() - MEASURED} for line in lines]


def batch_at(source, number):
    return source.load(number, DRAWS)()


def test_a_picture_that_cannot_be_read_ends_the_training_with_its_row(folder, pipelines):
    (folder / "3_rejected.png").write_bytes(b"not a picture")
    config = config_of(folder, "run")
    with pytest.raises(UserError, match=r"Row 4: 3_rejected\.png is no PNG"):
        trained(config, pipelines["sd15"])
    run = RunDirectory(config.run.output)
    assert run.state() == "failed"
    assert "Row 4" in run.status().message


def test_where_bad_rows_are_skipped_the_next_pair_takes_the_place(folder, pipelines, caplog):
    """Rows 4 and 5 are damaged: wherever they come up, row 6 stands, with its own prompt."""
    for number in (3, 4):
        (folder / f"{number}_chosen.png").write_bytes(b"")
    config = config_of(folder, "run", data={"on_bad_rows": "skip"})
    source = opened(config, pipelines["sd15"])
    (pairs,) = source.sources
    loaded = pairs.load([3, 0, 4, 5])
    assert loaded.prompts == ("e", "a", "e", "e")
    assert (loaded.preferred[0] == loaded.preferred[3]).all()
    assert "The next pair takes the place of row 4." in caplog.text


def test_a_set_without_one_readable_pair_is_refused(folder, pipelines):
    for number in range(6):
        (folder / f"{number}_chosen.png").write_bytes(b"")
    config = config_of(folder, "run", data={"on_bad_rows": "skip"})
    with pytest.raises(UserError, match="no pair left whose pictures can be read"):
        trained(config, pipelines["sd15"])


def test_for_buckets_bad_pictures_are_reported_before_the_first_step(folder, pipelines):
    (folder / "0_chosen.png").write_bytes(b"")
    config = config_of(folder, "run", buckets=True)
    with pytest.raises(UserError, match=r"1 row \(1 × empty file\)"):
        opened(config, pipelines["sd15"])
    for number in range(5):
        (folder / f"{number}_chosen.png").write_bytes(b"")
    config = config_of(folder, "run", buckets=True, data={"on_bad_rows": "skip"})
    with pytest.raises(UserError, match="pairs has 1 pairs left"):
        opened(config, pipelines["sd15"])


def test_an_autoencoder_that_gives_nan_ends_the_training(folder, pipelines):
    broken = copy.deepcopy(pipelines["sd15"])
    broken.vae.quant_conv.weight.data[0] = torch.nan
    with pytest.raises(UserError, match=r"not finite in torch\.float32"):
        trained(config_of(folder, "run"), broken)


@pytest.mark.parametrize("null_prompt", ["empty", "zeros"])
@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_online_batches_are_those_encoded_ahead(folder, pipelines, family, buckets, null_prompt):
    pipeline = pipelines[family]
    sources = [
        opened(
            config_of(
                folder, "run", encode=encode, buckets=buckets, data={"null_prompt": null_prompt}
            ),
            pipeline,
        )
        for encode in ("ahead", "online")
    ]
    for number in range(5):
        ahead, online = (batch_at(source, number) for source in sources)
        assert torch.equal(ahead.noise, online.noise)
        assert torch.equal(ahead.levels, online.levels)
        torch.testing.assert_close(online.latents, ahead.latents, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(online.conditions, ahead.conditions, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("buckets", [False, True])
def test_online_training_has_the_losses_of_one_encoded_ahead(folder, pipelines, buckets):
    """The objective is plain errors: T would multiply the encoders' last bits."""
    ahead, online = (
        trained(
            config_of(
                folder,
                encode,
                encode=encode,
                buckets=buckets,
                objective={"name": "chats-no-ref"},
                optimizer={"learning_rate": 1e-4},
            ),
            pipelines["sd15"],
        )
        for encode in ("ahead", "online")
    )
    for one, other in zip(ahead, online, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert abs(online[-1]["loss"] - online[0]["loss"]) > 1e-3


def test_a_whole_training_encodes_in_the_loop(folder, tmp_path):
    """In buckets, with pairs held out and pictures made on the way, from the base's folder."""
    tiny_pipeline("sd15", dtype=torch.float32).save_pretrained(tmp_path / "base")
    lines = []
    for encode in ("ahead", "online"):
        config = config_of(
            folder,
            encode,
            encode=encode,
            buckets=True,
            model={"base": str(tmp_path / "base")},
            objective={"name": "chats-no-ref"},
            optimizer={"learning_rate": 1e-4, "num_steps": 2},
            validation={"held_out": 2, "every": 1},
            samples={"num_steps": 1, "num_prompts": 1},
        )
        train(config)
        run = RunDirectory(config.run.output)
        lines.append(run.read_metrics())
        assert {sample.step for sample in run.read_samples()} == {0, 2}
    for one, other in zip(*lines, strict=True):
        assert other["validation/loss"] == pytest.approx(one["validation/loss"], abs=1e-5)


def test_an_online_training_is_the_same_each_time_bit_for_bit(folder, pipelines):
    one, other = (trained(config_of(folder, name), pipelines["sd15"]) for name in ("one", "other"))
    assert one == other


def test_a_line_of_metrics_tells_how_long_the_loop_waited_for_data(folder, pipelines):
    config = config_of(folder, "run")
    train_on(config, opened(config, pipelines["sd15"]), pipelines["sd15"])
    for line in RunDirectory(config.run.output).read_metrics():
        assert 0 < line["data_wait_seconds"] < 2 / line["pairs_per_second"]
