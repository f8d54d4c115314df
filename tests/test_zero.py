"""ZeRO-2 of DeepSpeed on two processes of the CPU, over gloo: the training is the same."""

import importlib.util

import pytest

from chats.errors import UserError
from tests.forked_ranks import share_states_on_the_cpu
from tests.forked_runs import (
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
from training.loop.zero import require_deepspeed


def jobs(folder):
    """Whole, killed in the second step and gone on, and ended with another engine."""
    yield alone(folder, "lora-alone", kind="lora", samples=PICTURES)
    config = settings(folder, "lora-whole", kind="lora", samples=PICTURES)
    yield together(config, engine="zero2")
    for output, kind, last in (("lora-cut", "lora", "zero2"), ("full-crossed", "full", "ddp")):
        config = settings(folder, output, kind=kind)
        yield together(config, engine="zero2", kill_at=SECOND_STEP[kind])
        yield together(config, engine=last)
    yield alone(folder, "full-alone", kind="full")
    bf16 = {"mixed_precision": "bf16"}
    yield alone(folder, "bf16-alone", kind="lora", run=bf16, num_steps=1)
    config = settings(folder, "bf16", kind="lora", run=bf16, optimizer={"num_steps": 1})
    yield together(config, engine="zero2")
    config = settings(folder, "infinite", kind="lora")
    yield together(config, engine="zero2", infinite_at=SECOND_STEP["lora"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    do_jobs(folder, jobs(folder))
    return folder


def test_two_processes_train_as_one_with_the_same_global_batch(folder):
    assert_close(folder / "lora-alone", folder / "lora-whole")


def test_both_processes_end_with_the_same_weights(folder):
    first, second = ((folder / "lora-cut" / f"rank-{rank}").read_text() for rank in (0, 1))
    assert first == second


def test_a_killed_training_goes_on_bit_for_bit(folder):
    assert_equal(folder / "lora-whole", folder / "lora-cut")


def test_a_run_goes_on_with_another_engine(folder):
    """A full one, with its moving average."""
    assert_close(folder / "full-alone", folder / "full-crossed")


def test_its_checkpoints_are_those_of_one_process(folder):
    assert_same_checkpoints(folder / "lora-alone", folder / "lora-whole")


def test_it_paints_what_one_process_paints(folder):
    assert_same_pictures(folder / "lora-alone", folder / "lora-whole")


def test_bf16_starts_as_on_one_process(folder):
    alone, together = (losses_of(folder / name)[-1] for name in ("bf16-alone", "bf16"))
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_infinite_gradient_stops_before_the_update_in_every_process(folder, rank):
    told = (folder / "infinite" / f"rank-{rank}").read_text()
    assert told.startswith("The gradient's norm is inf at step 2: stopped before that step's")
    assert told.endswith("Unchanged: True")


@pytest.mark.parametrize(
    ("environment", "changed", "words"),
    [
        ({}, {"optimizer": {"name": "adafactor"}}, "Choose adamw"),
        ({}, {"run": {"mixed_precision": "fp16"}}, "fp16 is not supported with ZeRO"),
        ({}, {"optimizer": {"compile": True}}, r"Set optimizer\.compile to false"),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {}, r"ZeRO-3 is not supported.*fsdp\.yaml"),
        (
            {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            {},
            "Set both offload devices to none",
        ),
        ({"ACCELERATE_DYNAMO_BACKEND": "inductor"}, {}, "Leave dynamo_backend out"),
    ],
)
def test_what_zero_cannot_do_is_refused(tmp_path, monkeypatch, environment, changed, words):
    for name, value in ({"ACCELERATE_USE_DEEPSPEED": "true"} | environment).items():
        monkeypatch.setenv(name, value)
    share_states_on_the_cpu()
    config = TrainingConfig.model_validate(settings(tmp_path, "run", kind="lora", **changed))
    with pytest.raises(UserError, match=words):
        make_accelerator(config)


def test_without_deepspeed_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_deepspeed()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"requirements-deepspeed.*fsdp\.yaml"):
        require_deepspeed()
