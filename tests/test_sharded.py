"""FSDP2 on two processes of the CPU: the models are shared out, and the training is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chats.errors import UserError
from chats.pairs.pair import load_pair
from tests.forked_ranks import shard_on_the_cpu
from tests.tiny_preferences import write_preferences
from training.config import TrainingConfig
from training.loop.checkpoints import newest_checkpoint
from training.loop.engine import make_accelerator
from training.loop.metrics import MEASURED
from training.run import RunDirectory

ROOT = Path(__file__).parent.parent
KINDS = ("lora", "full")
STEPS = 2
OPTIMIZERS = {
    "lora": {"gradient_checkpointing": True, "gradient_accumulation": 2},
    # Measured with the average in place, weights outside of blocks must not stay whole after it.
    "full": {"ema_decay": 0.9},
}


def settings(folder, output, *, kind, optimizer=None, run=None):
    optimizer = {"num_steps": STEPS, "batch_size": 2, "learning_rate": 1e-4} | (optimizer or {})
    return {
        "data": {"path": str(folder / "pairs")},
        "model": {"base": "tiny", "kind": kind, "rank": 2, "lora_alpha": 4},
        "objective": {"temperature": 100.0},
        "optimizer": OPTIMIZERS[kind] | optimizer,
        "validation": {"every": 1},
        "run": {"output": str(folder / output), "log_every": 1, "save_every": 1} | (run or {}),
    }


def jobs(folder):
    """Whole; killed in the second step and gone on, with the same engine and with the other."""
    for kind in KINDS:
        yield alone(folder, f"{kind}-alone", kind=kind)
        second = OPTIMIZERS[kind].get("gradient_accumulation", 1) + 1
        crossing = ("ddp", "fsdp") if kind == "lora" else ("fsdp", "ddp")
        for output, engine, kill_at in (
            ("whole", "fsdp", 0),
            ("cut", "fsdp", second),
            ("cut", "fsdp", 0),
            ("crossed", crossing[0], second),
            ("crossed", crossing[1], 0),
        ):
            config = settings(folder, f"{kind}-{output}", kind=kind)
            yield {"config": config, "engine": engine, "num_processes": 2, "kill_at": kill_at}
    bf16 = {"mixed_precision": "bf16"}
    yield alone(folder, "bf16-alone", kind="lora", run=bf16, num_steps=1)
    config = settings(folder, "bf16", kind="lora", run=bf16, optimizer={"num_steps": 1})
    yield {"config": config, "engine": "fsdp", "num_processes": 2, "kill_at": 0}


def alone(folder, output, *, kind, run=None, num_steps=STEPS):
    """One process with the global batch of two."""
    optimizer = {"batch_size": 4, "num_steps": num_steps}
    config = settings(folder, output, kind=kind, optimizer=optimizer, run=run)
    return {"config": config, "engine": "cpu", "num_processes": 1, "kill_at": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_preferences(folder / "pairs")
    (folder / "jobs.json").write_text(json.dumps([*jobs(folder)]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.forked_ranks", str(folder / "jobs.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "returned a view tensor" not in done.stderr
    return folder


def losses_of(run):
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in RunDirectory(run).read_metrics()
    ]


def weights_of(run):
    return {
        f"{role}.{name}": value
        for role, half in load_pair(run / "pair").halves().items()
        for name, value in (
            half.state_dict() if isinstance(half, torch.nn.Module) else half
        ).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_two_sharded_processes_train_as_one_with_the_same_global_batch(folder, kind):
    alone, sharded = folder / f"{kind}-alone", folder / f"{kind}-whole"
    for expected, found in zip(losses_of(alone), losses_of(sharded), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    expected, found = weights_of(alone), weights_of(sharded)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", ["whole", "cut"])
def test_both_processes_end_with_the_same_weights(folder, kind, output):
    first, second = ((folder / f"{kind}-{output}" / f"rank-{rank}").read_text() for rank in (0, 1))
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_sharded_training_goes_on_bit_for_bit(folder, kind):
    whole, cut = folder / f"{kind}-whole", folder / f"{kind}-cut"
    assert losses_of(cut) == losses_of(whole)
    expected, found = weights_of(whole), weights_of(cut)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_another_engine(folder, kind):
    whole, crossed = folder / f"{kind}-whole", folder / f"{kind}-crossed"
    for expected, found in zip(losses_of(whole), losses_of(crossed), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    expected, found = weights_of(whole), weights_of(crossed)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_its_checkpoints_are_those_of_one_process(folder, kind):
    """The same files, the same names, and whole tensors of the same shapes and values."""
    groups, state = newest_checkpoint(folder / f"{kind}-whole" / "checkpoints").load()
    expected_groups, expected = newest_checkpoint(folder / f"{kind}-alone" / "checkpoints").load()
    assert state["optimizer"]["groups"][0]["shapes"] == expected["optimizer"]["groups"][0]["shapes"]
    assert groups.keys() == expected_groups.keys()
    for group, tensors in expected_groups.items():
        assert groups[group].keys() == tensors.keys()
        for name, value in tensors.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(groups[group][name], value, rtol=1e-2, atol=1e-3 * scale)


def test_bf16_starts_as_on_one_process(folder):
    alone, sharded = (losses_of(folder / name)[-1] for name in ("bf16-alone", "bf16"))
    assert sharded["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert sharded["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-2)


@pytest.mark.parametrize(
    ("environment", "changed", "words"),
    [
        ({}, {"optimizer": {"name": "adafactor"}}, "Choose adamw"),
        ({}, {"samples": {"every": 5}}, r"Set samples\.every to 0"),
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
    samples = changed.pop("samples", {})
    changed = settings(tmp_path, "run", kind="lora", **changed) | {"samples": samples}
    config = TrainingConfig.model_validate(changed)
    with pytest.raises(UserError, match=words):
        make_accelerator(config)


def test_deepspeed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"DeepSpeed is not supported.*engines/fsdp\.yaml"):
        make_accelerator(TrainingConfig.model_validate(settings(tmp_path, "run", kind="lora")))
