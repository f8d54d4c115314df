"""FSDP2 on two processes of the CPU: the models are shared out, and the training is the same."""

import pytest

from chats.errors import UserError
from tests.forked_ranks import shard_on_the_cpu
from tests.forked_runs import (
    KINDS,
    PICTURES,
    SECOND_STEP,
    alone,
    assert_close,
    assert_equal,
    assert_same_checkpoints,
    assert_same_pictures,
    do_jobs,
    losses_of,
    settings,
    together,
)
from training.config import TrainingConfig
from training.loop.engine import make_accelerator


def jobs(folder):
    """Whole; killed in the second step and gone on, with the same engine and with the other."""
    for kind in KINDS:
        yield alone(folder, f"{kind}-alone", kind=kind, samples=PICTURES)
        crossing = ("ddp", "fsdp") if kind == "lora" else ("fsdp", "ddp")
        for output, engine, kill_at in (
            ("whole", "fsdp", 0),
            ("cut", "fsdp", SECOND_STEP[kind]),
            ("cut", "fsdp", 0),
            ("crossed", crossing[0], SECOND_STEP[kind]),
            ("crossed", crossing[1], 0),
        ):
            samples = PICTURES if output == "whole" else None
            config = settings(folder, f"{kind}-{output}", kind=kind, samples=samples)
            yield together(config, engine=engine, kill_at=kill_at)
    bf16 = {"mixed_precision": "bf16"}
    yield alone(folder, "bf16-alone", kind="lora", run=bf16, num_steps=1)
    config = settings(folder, "bf16", kind="lora", run=bf16, optimizer={"num_steps": 1})
    yield together(config, engine="fsdp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    assert "returned a view tensor" not in do_jobs(folder, jobs(folder))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_sharded_processes_train_as_one_with_the_same_global_batch(folder, kind):
    assert_close(folder / f"{kind}-alone", folder / f"{kind}-whole")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", ["whole", "cut"])
def test_both_processes_end_with_the_same_weights(folder, kind, output):
    first, second = ((folder / f"{kind}-{output}" / f"rank-{rank}").read_text() for rank in (0, 1))
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_sharded_training_goes_on_bit_for_bit(folder, kind):
    assert_equal(folder / f"{kind}-whole", folder / f"{kind}-cut")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_another_engine(folder, kind):
    assert_close(folder / f"{kind}-whole", folder / f"{kind}-crossed")


@pytest.mark.parametrize("kind", KINDS)
def test_its_checkpoints_are_those_of_one_process(folder, kind):
    assert_same_checkpoints(folder / f"{kind}-alone", folder / f"{kind}-whole")


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_models_paint_what_one_process_paints(folder, kind):
    assert_same_pictures(folder / f"{kind}-alone", folder / f"{kind}-whole")


def test_bf16_starts_as_on_one_process(folder):
    alone, sharded = (losses_of(folder / name)[-1] for name in ("bf16-alone", "bf16"))
    assert sharded["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert sharded["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-2)


@pytest.mark.parametrize(
    ("environment", "changed", "words"),
    [
        ({}, {"optimizer": {"name": "adafactor"}}, "Choose adamw"),
        ({}, {"run": {"mixed_precision": "fp16"}}, "fp16 is not supported with FSDP"),
        ({"FSDP_VERSION": "1"}, {}, "Set fsdp_version: 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "Set fsdp_offload_params to false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, r"set optimizer\.gradient_checkpointing"),
        ({"ACCELERATE_DYNAMO_BACKEND": "inductor"}, {}, "Leave dynamo_backend out"),
        ({}, {"optimizer": {"compile": True}}, r"Set optimizer\.compile to false"),
    ],
)
def test_what_shards_cannot_do_is_refused(tmp_path, monkeypatch, environment, changed, words):
    for name, value in ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    shard_on_the_cpu()
    config = TrainingConfig.model_validate(settings(tmp_path, "run", kind="lora", **changed))
    with pytest.raises(UserError, match=words):
        make_accelerator(config)
