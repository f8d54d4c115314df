"""Optimizers by name; what needs a package of its own runs with `make test-extras`."""

import importlib.util

import pytest
import torch
from torch import nn

from chats.errors import UserError
from training.config import OptimizerSettings
from training.loop.checkpoints import (
    newest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from training.loop.optimizers import make_optimizer

EIGHT_BITS = OptimizerSettings(name="adamw-8bit", learning_rate=1e-2)


def new_parameters() -> list[nn.Parameter]:
    """A matrix that is large enough for 8 bits, and a vector that is not."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((96, 64), (64,))]


def train(parameters: list[nn.Parameter], optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_without_its_library_adamw_8bit_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-8bit\.txt.*Choose adamw or adafactor"):
        make_optimizer(new_parameters(), EIGHT_BITS)


@pytest.mark.extras
def test_adamw_8bit_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    """Four steps in one go, or three, a checkpoint, and one more: averages are saved as bytes."""
    whole, first = new_parameters(), new_parameters()
    train(whole, make_optimizer(whole, EIGHT_BITS), range(4))
    optimizer = make_optimizer(first, EIGHT_BITS)
    train(first, optimizer, range(3))
    tensors, state = optimizer_tensors(optimizer)
    assert tensors["parameter.0.state1"].dtype == torch.uint8
    assert tensors["parameter.1.state1"].dtype == torch.float32
    save_checkpoint(tmp_path, step=3, tensors={"optimizer": tensors}, state=state, keep_last=1)

    second = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    again = make_optimizer(second, EIGHT_BITS)
    saved, state = newest_checkpoint(tmp_path).load()
    restore_optimizer(again, saved["optimizer"], state)
    train(second, again, range(3, 4))
    assert all(torch.equal(*pair) for pair in zip(whole, second, strict=True))


@pytest.mark.extras
def test_adamw_8bit_steps_about_as_adamw_does():
    """The first step of both is the learning rate, against the sign of the gradient."""
    plain, rounded = new_parameters(), new_parameters()
    train(plain, make_optimizer(plain, EIGHT_BITS.model_copy(update={"name": "adamw"})), range(1))
    train(rounded, make_optimizer(rounded, EIGHT_BITS), range(1))
    for expected, found in zip(plain, rounded, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
