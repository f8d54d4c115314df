"""Adapters of large rank as merged weights: which layers, and the same numbers as by hand."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

import chats
from chats.denoising import merged_rows as module
from chats.denoising.adapter_rows import LowRank
from chats.denoising.merged_rows import merged_rows, worth_merging
from chats.errors import UserError
from tests.steps import relative_error, seeds
from tests.test_pipeline import state_of
from tests.tiny import tiny_call, tiny_pair, tiny_pipeline


def adapter(*, rank, width, scaling=1.0):
    down, up = torch.randn(rank, width).double(), torch.randn(width, rank).double()
    return LowRank(down, up, scaling)


@pytest.mark.parametrize(("rank", "is_worth"), [(3, False), (4, True)])
def test_a_fourth_of_the_width_is_large(rank, is_worth):
    layer = torch.nn.Linear(16, 16)
    assert worth_merging(layer, {"preferred": adapter(rank=rank, width=16)}) is is_worth


def test_layers_that_are_no_plain_ones_are_left_to_hooks():
    offloaded = add_hook_to_module(torch.nn.Linear(4, 4), AlignDevicesHook(execution_device="cpu"))
    for layer in (offloaded, torch.nn.Conv2d(4, 4, 1)):
        assert not worth_merging(layer, {"preferred": adapter(rank=4, width=4)})


def test_another_number_of_rows_than_of_names_is_refused():
    layer = torch.nn.Linear(4, 4).double()
    with (
        merged_rows({layer: {"preferred": adapter(rank=2, width=4)}}, ["preferred"]),
        pytest.raises(UserError, match="1 adapter names for 2 rows"),
    ):
        layer(torch.zeros(2, 4).double())


@torch.no_grad()
def test_each_row_is_multiplied_by_its_own_weights():
    """(W + 2·B·A)·x + b in row 0, W·x + b in row 1, (W + ½·B′·A′)·x + b in row 2."""
    layer = torch.nn.Linear(4, 4).double()
    first, other = adapter(rank=2, width=4, scaling=2.0), adapter(rank=1, width=4, scaling=0.5)
    inputs = torch.randn(3, 5, 4).double()
    hand = layer(inputs)
    for row, each in ((0, first), (2, other)):
        hand[row] += each.scaling * inputs[row] @ each.down.T @ each.up.T
    before = sorted(vars(layer))
    names = ["preferred", "__base__", "dispreferred"]
    with merged_rows({layer: {"preferred": first, "dispreferred": other}}, names):
        mixed = layer(inputs)
    assert relative_error(mixed, hand) < 1e-10
    assert (type(layer), sorted(vars(layer))) == (torch.nn.Linear, before)


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_merged_weights_paint_what_hooks_do_and_leave_no_trace(family, monkeypatch):
    pipe = tiny_pipeline(family)
    pair, pictures = tiny_pair(pipe, "lora"), []
    before = state_of(pipe)
    for large in (0, 1000):  # never, and always
        monkeypatch.setattr(module, "_LARGE", large)
        with chats.guidance(pipe, pair, method=["standard", "chats", "chats-exact"]):
            made = pipe(["ab", "c", "d"], generator=seeds(3), **tiny_call(family)).images
        pictures.append(made)
    assert relative_error(*pictures) < 1e-10
    assert state_of(pipe) == before
