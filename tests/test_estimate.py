"""What a training costs, against the real optimizers and against arithmetic by hand."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from chats.objective import OBJECTIVES
from training.config import OptimizerSettings
from training.loop.optimizers import make_optimizer
from training.planning.estimate import (
    forward_equivalents,
    memory_estimate,
    optimizer_bytes,
    pairs_per_step,
)

SHAPES = ((5,), (6, 4), (8, 3, 3, 3))


@pytest.mark.parametrize(
    ("name", "kind", "gradient_checkpointing", "expected"),
    [
        ("chats", "full", False, 3 + 3 + 1 + 1),
        ("chats", "full", True, 4 + 4 + 1 + 1),
        ("chats", "lora", False, 2 + 2 + 1 + 1),
        ("chats", "lora", True, 3 + 3 + 1 + 1),
        ("chats-no-ref", "full", False, 3 + 3),
        ("diffusion-dpo", "full", False, 3 + 3 + 1 + 1),
        ("diffusion-npo", "lora", True, 3 + 3 + 1 + 1),
        ("sft-preferred", "full", True, 4),
        ("sft-all", "lora", False, 2 + 2),
    ],
)
def test_a_pair_costs_its_trained_predictions_and_those_of_the_reference(
    name, kind, gradient_checkpointing, expected
):
    found = forward_equivalents(
        OBJECTIVES[name], kind=kind, gradient_checkpointing=gradient_checkpointing
    )
    assert found == expected


@pytest.mark.parametrize(("kind", "expected"), [("full", 3 + 3), ("lora", 2 + 2)])
def test_a_reference_whose_errors_are_kept_costs_nothing(kind, expected):
    found = forward_equivalents(
        OBJECTIVES["chats"], kind=kind, gradient_checkpointing=False, with_reference=False
    )
    assert found == expected


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_the_optimizers_memory_is_what_it_holds_after_a_step(name):
    parameters = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = make_optimizer(parameters, OptimizerSettings(name=name))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim  # not single numbers, such as steps
    )
    assert optimizer_bytes(name, SHAPES) == held


def test_adafactor_keeps_two_thirds_of_a_convolution_and_little_of_a_matrix():
    assert optimizer_bytes("adafactor", [(320, 320, 3, 3)]) == 4 * 320 * 320 * 9 * 2 / 3
    assert optimizer_bytes("adafactor", [(1280, 1280)]) == 4 * 2560


def test_8_bits_are_a_quarter_of_adamw_but_for_small_parameters():
    """Two bytes a number; a parameter of fewer than 4096 numbers keeps two of 32 bits, eight."""
    assert optimizer_bytes("adamw-8bit", [(64, 64), (100,)]) == 2 * 4096 + 8 * 100


def test_memory_by_hand():
    """24 + 5 trained numbers and 100 frozen ones, 4 bytes each; AdamW keeps two averages."""
    settings = OptimizerSettings(name="adamw", ema_decay=0.99)
    shapes = ((6, 4), (5,))
    memory = memory_estimate(
        trained=shapes, num_frozen=100, activation_bytes=77, settings=settings, num_processes=2
    )
    assert vars(memory) == {
        "weights": 4 * 129,
        "gradients": 4 * 29,
        "optimizer": 8 * 29,
        "average": 4 * 29,
        "exchange": 4 * 29,
        "activations": 77,
    }
    assert memory.total == 4 * 129 + 20 * 29 + 77
    shared_out = memory_estimate(
        trained=shapes,
        num_frozen=100,
        activation_bytes=77,
        settings=settings,
        num_processes=2,
        num_gathered=10,
    )
    assert vars(shared_out) == {
        "weights": 2 * 129,
        "gradients": 2 * 29,
        "optimizer": 4 * 29,
        "average": 2 * 29,
        "exchange": 4 * 10,
        "activations": 77,
    }
    zero = memory_estimate(
        trained=shapes,
        num_frozen=100,
        activation_bytes=77,
        settings=settings,
        num_processes=2,
        shares_states=True,
    )
    assert vars(zero) == {
        "weights": 4 * 129 + 2 * 29,
        "gradients": 2 * 29,
        "optimizer": 4 * 29,
        "average": 4 * 29,
        "exchange": 4 * 29,
        "activations": 77,
    }
    alone = memory_estimate(
        trained=shapes, num_frozen=100, activation_bytes=77, settings=OptimizerSettings()
    )
    assert (alone.average, alone.exchange) == (0, 0)


def test_the_effective_batch_is_batch_times_accumulation_times_processes():
    settings = OptimizerSettings(batch_size=3, gradient_accumulation=5)
    assert pairs_per_step(settings, num_processes=7) == math.prod((3, 5, 7))


@pytest.mark.parametrize(
    ("row", "shared"),
    [
        ("`ddp`, `multi_node`", {}),
        ("`zero2`", {"shares_states": True}),
        ("`fsdp`", {"num_gathered": 0}),
    ],
)
def test_the_guide_tells_what_the_engines_save(row, shared):
    guide = (Path(__file__).parents[1] / "docs" / "training.md").read_text("utf-8")
    (line,) = (each for each in guide.splitlines() if each.startswith(f"| {row} | 3"))
    num_weights = 2_567_463_684  # of SDXL's UNet
    memory = memory_estimate(
        trained=[(num_weights,), (num_weights,)],
        num_frozen=num_weights,
        activation_bytes=0,
        settings=OptimizerSettings(),
        num_processes=8,
        **shared,
    )
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.exchange, memory.total)
    expected = [f"{each / 1e9:.1f}" for each in parts if each]
    assert re.findall(r"\d+\.\d", line) == expected
