"""Errors of the reference, kept: what is not whole is not used, what is whole comes back."""

import pytest
import torch

from training.data.shards import ShardStore
from training.loop.reference_errors import (
    load_reference_errors,
    reference_key,
    save_reference_errors,
)

IDENTITY = {"model": "abc", "objective": "chats", "dispreferred_prompt_drop": 0.5}


def test_errors_that_are_not_all_there_are_refused(tmp_path):
    store = ShardStore(tmp_path)
    for errors in (torch.tensor([[1.0, float("nan")]]), torch.ones(4)):
        with pytest.raises(ValueError, match="whole table"), store.filling():
            save_reference_errors(store, "a", errors)


def test_what_was_never_kept_or_is_of_another_length_is_none(tmp_path):
    store = ShardStore(tmp_path)
    with store.filling():
        save_reference_errors(store, "a", torch.ones(4, 2))
    assert load_reference_errors(store, "b", num_samples=4) is None
    assert load_reference_errors(store, "a", num_samples=5) is None


def test_the_key_tells_seed_epoch_and_everything_else_apart():
    keys = {
        reference_key(identity, seed=seed, epoch=epoch)
        for identity in (IDENTITY, IDENTITY | {"model": "abd"})
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(keys) == 8
    backwards = dict(reversed(IDENTITY.items()))
    assert reference_key(backwards, seed=0, epoch=0) in keys


def test_errors_come_back_bit_for_bit_as_float32(tmp_path):
    errors = torch.rand((100, 2), generator=torch.Generator().manual_seed(0)) / 7
    key = reference_key(IDENTITY, seed=3, epoch=2)
    store = ShardStore(tmp_path)
    with store.filling():
        save_reference_errors(store, key, errors)
    loaded = load_reference_errors(ShardStore(tmp_path), key, num_samples=100)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, errors)
