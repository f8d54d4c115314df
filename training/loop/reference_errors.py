"""Errors of the frozen reference, computed ahead of a training and kept for the next one.

Draws are counter-based, so e(ref, z⁺, c) and e(ref, z⁻, c′) of batch n are pure functions of n
once model, data and draws are fixed. Whatever decides them is in their key, down to the number of
rows in a forward, so that a training with kept errors has bit for bit the losses of one without.
Learning rate, T, β, rank, moving average and number of steps decide nothing: trainings that differ
in these share the errors.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from chats.errors import UserError
from chats.objective import Prediction, error
from training.config import TrainingConfig
from training.data.batches import BatchSource, DrawSettings, ShuffledPairs, Unfinished
from training.data.cache import module_hash
from training.data.draws import PairBatch
from training.data.shards import ShardStore, StoredRows
from training.loop.engine import autocast
from training.loop.losses import noised
from training.loop.noise import NoiseSchedule
from training.loop.pair_model import PairModel

_BLOCK = 64
"""Batches whose errors are one table of the store."""

_BLOCKS_AT_ONCE = 16
"""Blocks that are computed before they are written; a killed training loses no more."""


class ReferenceErrors:
    """The errors of every batch of a training; all of them lie in memory, 4 bytes each."""

    def __init__(
        self,
        folder: Path,
        *,
        dataset: ShuffledPairs,
        identity: Mapping[str, Any],
        settings: DrawSettings,
    ):
        """Take what decides the errors.

        Args:
            folder: Keeps them.
            dataset: The pairs.
            identity: As JSON, everything that decides them besides number of the batch and seed.
            settings: How this process draws its batches.
        """
        self._folder = folder
        self._dataset = dataset
        self._settings = settings
        self._digest = _sha256({"identity": identity, "seed": settings.seed})
        self._blocks: dict[int, Tensor] = {}
        self._predictions: tuple[Prediction, ...] = ()

    def prepare(
        self,
        model: PairModel,
        *,
        schedule: NoiseSchedule,
        accelerator: Accelerator,
        mixed_precision: str,
        num_batches: int,
    ) -> None:
        """Compute what is not kept yet, each process its share, and read all of it.

        Args:
            model: Holds the reference, which is brought to the device.
            schedule: The noise levels, on the device.
            accelerator: Knows the device and the other processes.
            mixed_precision: The run's number format.
            num_batches: Of all processes in the whole training.

        Raises:
            UserError: The disk refuses it, or an error is not finite.
        """
        self._predictions = model.reference_predictions
        model.denoisers["reference"].to(accelerator.device)
        sizes = {
            block: min(_BLOCK, num_batches - block * _BLOCK)
            for block in range(-(-num_batches // _BLOCK))
        }
        store = ShardStore(self._folder)
        missing = [block for block, size in sizes.items() if not self._is_whole(store, block, size)]
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        for start in tqdm(
            range(0, len(mine), _BLOCKS_AT_ONCE),
            desc="Reference errors",
            leave=False,
            disable=None,
        ):
            found = {
                block: self._computed(
                    range(block * _BLOCK, block * _BLOCK + sizes[block]),
                    model,
                    schedule=schedule,
                    accelerator=accelerator,
                    mixed_precision=mixed_precision,
                )
                for block in mine[start : start + _BLOCKS_AT_ONCE]
            }
            with store.filling():
                for block, errors in found.items():
                    store.add(self._key(block), errors)
        accelerator.wait_for_everyone()
        store = ShardStore(self._folder)
        self._blocks = {block: store[self._key(block)] for block in sizes}

    def attached(self, batches: Iterator[Unfinished], *, after: int) -> Iterator[Unfinished]:
        """Give a process's batches, from the one after so many micro-steps on, their errors."""
        for micro_step, finish in enumerate(batches, start=after):
            number = self._settings.number(micro_step)
            yield lambda finish=finish, number=number: self._with_errors(finish(), number)

    def _with_errors(self, batch: PairBatch, number: int) -> PairBatch:
        errors = self._blocks[number // _BLOCK][number % _BLOCK]
        known = dict(zip(self._predictions, errors, strict=True))
        return replace(batch, reference_errors=known)

    @torch.no_grad()
    def _computed(
        self,
        numbers: range,
        model: PairModel,
        *,
        schedule: NoiseSchedule,
        accelerator: Accelerator,
        mixed_precision: str,
    ) -> Tensor:
        """Return the errors of batches, float32 `(len(numbers), K, B)`."""
        rows = []
        for number in numbers:
            batch = self._dataset.load(number, self._settings)().to(accelerator.device)
            noisy, targets = noised(batch, schedule)
            with autocast(accelerator, mixed_precision):
                outputs = model.predict_reference(
                    noisy, schedule.timesteps[batch.levels], batch.conditions
                )
            errors = [error(outputs[each].float(), targets[each.half]) for each in outputs]
            rows.append(torch.stack(errors).float().cpu())
        found = torch.stack(rows)
        if not found.isfinite().all():
            raise UserError(
                "The reference's errors are not all finite numbers. Set run.mixed_precision to no, "
                "or take another model."
            )
        return found

    def _is_whole(self, store: ShardStore, block: int, size: int) -> bool:
        key = self._key(block)
        return key in store and len(store[key]) >= size

    def _key(self, block: int) -> str:
        return f"{self._digest}-{block}"


def reference_errors(
    config: TrainingConfig,
    dataset: BatchSource,
    model: PairModel,
    *,
    base: nn.Module,
    schedule: NoiseSchedule,
    settings: DrawSettings,
    accelerator: Accelerator,
) -> ReferenceErrors:
    """Return the reference's errors for a whole training, computed or read.

    Args:
        config: The training's settings.
        dataset: The pairs, in `config.data.cache`.
        model: Holds the reference, not wrapped.
        base: The denoiser that the reference was made from.
        schedule: The noise levels, on the device.
        settings: How this process draws its batches.
        accelerator: Knows the device and the other processes.

    Raises:
        UserError: The objective has no reference, the pairs are not in a cache, or the cache can't
            be written.
    """
    if not model.reference_predictions:
        raise UserError(
            f"The objective {config.objective.name} has no reference. Set "
            "objective.cache_reference to false."
        )
    if config.data.cache is None or not isinstance(dataset, ShuffledPairs):
        raise UserError("objective.cache_reference needs data.cache, and data.encode ahead.")
    found = ReferenceErrors(
        config.data.cache / "reference-errors",
        dataset=dataset,
        identity={
            "model": module_hash(base),
            "kind": config.model.kind,
            "data": [_identity(source) for source in dataset.sources],
            "noise": config.noise.model_dump(mode="json", exclude={"min_snr_gamma"}),
            "schedule": [
                schedule.prediction_type,
                *(each.tolist() for each in (schedule.timesteps, schedule.signal, schedule.sigma)),
            ],
            "predictions": [[each.half, each.condition] for each in model.reference_predictions],
            "drops": [settings.prompt_drop, settings.dispreferred_prompt_drop],
            "batch_size": settings.batch_size,
            "mixed_precision": config.run.mixed_precision,
            "device": accelerator.device.type,
        },
        settings=settings,
    )
    optimizer = config.optimizer
    num_micro_steps = optimizer.num_steps * optimizer.gradient_accumulation
    found.prepare(
        model,
        schedule=schedule,
        accelerator=accelerator,
        mixed_precision=config.run.mixed_precision,
        num_batches=num_micro_steps * settings.num_processes,
    )
    return found


def _identity(source: Any) -> list[Any]:
    """Return what decides the content of encoded pairs: the keys that they are kept under."""
    stored = [source.preferred, source.dispreferred]
    stored += [each for each in source.conditions.values() if isinstance(each, StoredRows)]
    if not all(isinstance(each, StoredRows) for each in stored):
        raise UserError("objective.cache_reference needs pairs that were encoded with data.cache.")
    return [
        [[each.folder.name, each.keys] for each in stored],
        source.prompt_rows.tolist(),
        source.size,
        source.scaling_factor,
        source.shift_factor,
    ]


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
