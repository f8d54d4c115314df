"""Errors of the frozen reference, kept from one training to the next.

Draws are counter-based, so e(ref, z⁺, c) and e(ref, z⁻, c′) are pure functions of (seed, epoch,
sample) once model, data and objective are fixed: a training that repeats them need not compute
them. An epoch's errors are one table, a row for each sample.
"""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from training.data.shards import ShardStore


def reference_key(identity: Mapping[str, object], *, seed: int, epoch: int) -> str:
    """Return the key of an epoch's errors.

    Args:
        identity: Everything else that decides them, as JSON: hashes of model and data, objective,
            share of dropped prompts, number format.
        seed: The run's seed.
        epoch: Counts from 0.
    """
    text = json.dumps([identity, seed, epoch], sort_keys=True)
    return f"reference-{hashlib.sha256(text.encode()).hexdigest()}"


def save_reference_errors(store: ShardStore, key: str, errors: Tensor) -> None:
    """Keep an epoch's errors.

    Args:
        store: Holds float32; within its `filling`.
        key: What `reference_key` returned.
        errors: Of each prediction of each sample, `(N, K)`.

    Raises:
        ValueError: An error is missing (NaN) or infinite.
        UserError: The disk refuses it.
    """
    if errors.ndim != 2 or not errors.isfinite().all():
        raise ValueError(f"Errors must be a whole table (N, K), got {tuple(errors.shape)}.")
    store.add(key, errors.to(torch.float32))


def load_reference_errors(store: ShardStore, key: str, *, num_samples: int) -> Tensor | None:
    """Return an epoch's errors, float32 `(N, K)`; none if they are not all there."""
    if key not in store:
        return None
    errors = store[key]
    return errors if len(errors) == num_samples else None
