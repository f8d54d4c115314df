"""Settings of trainings that `tests.forked_ranks` starts, and what they left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chats.pairs.pair import load_pair
from tests.tiny_preferences import write_preferences
from training.loop.checkpoints import newest_checkpoint
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
PICTURES = {"prompts": ["a red circle"], "every": STEPS}
"""Samples before the first step and after the last."""

SECOND_STEP = {"lora": 3, "full": 2}
"""The batch that begins it."""


def settings(folder, output, *, kind, optimizer=None, run=None, samples=None):
    optimizer = {"num_steps": STEPS, "batch_size": 2, "learning_rate": 1e-4} | (optimizer or {})
    return {
        "data": {"path": str(folder / "pairs")},
        "model": {"base": "tiny", "kind": kind, "rank": 2, "lora_alpha": 4},
        "objective": {"temperature": 100.0},
        "optimizer": OPTIMIZERS[kind] | optimizer,
        "validation": {"every": 1},
        "samples": {"num_steps": 2} | (samples or {}),
        "run": {"output": str(folder / output), "log_every": 1, "save_every": 1} | (run or {}),
    }


def alone(folder, output, *, kind, num_steps=STEPS, **groups):
    """One process with the global batch of two."""
    optimizer = {"batch_size": 4, "num_steps": num_steps}
    config = settings(folder, output, kind=kind, optimizer=optimizer, **groups)
    return together(config, engine="cpu") | {"num_processes": 1}


def together(config, *, engine, kill_at=0, infinite_at=0):
    """Two processes; `kill_at` and `infinite_at` are explained in `tests.forked_ranks`."""
    return {
        "config": config,
        "engine": engine,
        "num_processes": 2,
        "kill_at": kill_at,
        "infinite_at": infinite_at,
    }


def do_jobs(folder, jobs):
    """Do trainings of the pairs in the folder one after the other; returns what they said."""
    write_preferences(folder / "pairs")
    (folder / "jobs.json").write_text(json.dumps([*jobs]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.forked_ranks", str(folder / "jobs.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


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


def assert_close(first, second):
    """Compare losses and weights of two runs, to what another order of sums costs."""
    for expected, found in zip(losses_of(first), losses_of(second), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    expected, found = weights_of(first), weights_of(second)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)


def assert_same_pictures(first, second):
    """Compare the pictures of the base and of what is trained, to what rounding may cost."""
    expected, found = (
        {
            each.file: RunDirectory(run).samples / each.file
            for each in RunDirectory(run).read_samples()
        }
        for run in (first, second)
    )
    assert found.keys() == expected.keys()
    assert len(found) == 3
    for name, path in expected.items():
        one, other = (np.asarray(Image.open(each)).astype(int) for each in (path, found[name]))
        assert one.std() > 0
        assert abs(one - other).max() <= 2


def assert_equal(first, second):
    """Compare losses and weights of two runs bit for bit."""
    assert losses_of(first) == losses_of(second)
    expected, found = weights_of(first), weights_of(second)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def assert_same_checkpoints(first, second):
    """The same files, the same names, and whole tensors of the same shapes and values."""
    expected_groups, expected = newest_checkpoint(first / "checkpoints").load()
    groups, state = newest_checkpoint(second / "checkpoints").load()
    assert state["optimizer"]["groups"][0]["shapes"] == expected["optimizer"]["groups"][0]["shapes"]
    assert groups.keys() == expected_groups.keys()
    for group, tensors in expected_groups.items():
        assert groups[group].keys() == tensors.keys()
        for name, value in tensors.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(groups[group][name], value, rtol=1e-2, atol=1e-3 * scale)
