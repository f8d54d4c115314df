"""What a training costs, by arithmetic alone: forwards, memory and samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chats.objective import Objective
from training.config import OptimizerSettings

Shape = tuple[int, ...]
_WEIGHT_BYTES = 4
"""Weights, gradients and averages are 32-bit numbers, whatever the forwards compute in."""

_ADAM_32_BITS_BELOW = 4096
"""Parameters with fewer elements keep 32-bit averages in 8-bit AdamW."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one process holds on its device, by part.

    Attributes:
        weights: Of every model, trained or not.
        gradients: Of the trained weights.
        optimizer: What the optimizer remembers of them.
        average: Their moving average.
        exchange: Second copies of the gradients, which several processes add up; or, where the
            models are shared out, what is whole while a block computes.
        activations: What a forward keeps for its backward.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    exchange: int
    activations: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(vars(self).values())


def forward_equivalents(
    objective: Objective, *, kind: Literal["lora", "full"], gradient_checkpointing: bool
) -> int:
    """Return what a pair costs, in forwards of the denoiser.

    A prediction of the reference is one forward. A trained one is a forward and a backward that
    counts two, one for the gradients of the activations and one for those of the weights; gradient
    checkpointing adds the forward that is computed again. LoRA needs hardly any gradients of
    weights: its backward counts one.

    So a CHATS pair costs 8 (full), 10 (full, checkpointing), 6 (LoRA), 8 (LoRA, checkpointing).
    Counted operation by operation on SDXL at 1024 px it is 8.0, 9.5, 6.2 to 6.3 (ranks 16 to 64)
    and 7.7: not all is computed again, attention's own products (12% of a forward) have no weights
    and keep a backward of two, and adapters are not free. Encoding is not in it: two pictures are
    1.4 forwards of SDXL more, once.
    """
    backward = 2 if kind == "full" else 1
    trained = 1 + backward + gradient_checkpointing
    num_trained = len(objective.errors)
    return num_trained * trained + len(objective.predictions) - num_trained


def memory_estimate(
    *,
    trained: Sequence[Shape],
    num_frozen: int,
    activation_bytes: int,
    settings: OptimizerSettings,
    num_processes: int = 1,
    num_gathered: int | None = None,
) -> MemoryEstimate:
    """Return what one process holds after a forward; each process holds as much.

    Args:
        trained: Shapes of the trained parameters.
        num_frozen: Parameters that are not trained.
        activation_bytes: What one forward of a whole batch keeps for its backward.
        settings: Name the optimizer, and whether there is a moving average.
        num_processes: Processes of the training.
        num_gathered: Where they share the models out, how many weights and gradients are whole at
            a time; none means that every process holds all of the models.
    """
    num_trained = sum(math.prod(shape) for shape in trained)
    size = _WEIGHT_BYTES * num_trained
    num_parts = 1
    exchange = size if num_processes > 1 else 0
    if num_gathered is not None:
        num_parts, exchange = num_processes, _WEIGHT_BYTES * num_gathered
    return MemoryEstimate(
        weights=(size + _WEIGHT_BYTES * num_frozen) // num_parts,
        gradients=size // num_parts,
        optimizer=optimizer_bytes(settings.name, trained) // num_parts,
        average=0 if settings.ema_decay is None else size // num_parts,
        exchange=exchange,
        activations=activation_bytes,
    )


def optimizer_bytes(
    name: Literal["adamw", "adamw-8bit", "adafactor"], trained: Sequence[Shape]
) -> int:
    """Return the size of an optimizer's memory of parameters of these shapes.

    AdamW keeps two averages of each weight, in 8 bits where it is told to. Adafactor keeps sums
    over the last axis and over the one before it: next to nothing of a matrix, but two thirds of
    a 3 × 3 convolution.
    """
    if name == "adafactor":
        return 4 * sum(_num_factors(shape) for shape in trained)
    sizes = [math.prod(shape) for shape in trained]
    if name == "adamw":
        return 8 * sum(sizes)
    return sum(8 * size if size < _ADAM_32_BITS_BELOW else 2 * size for size in sizes)


def pairs_per_step(settings: OptimizerSettings, *, num_processes: int) -> int:
    """Return how many pairs one optimizer step sees: the effective batch."""
    return settings.batch_size * settings.gradient_accumulation * num_processes


def _num_factors(shape: Shape) -> int:
    if len(shape) < 2:
        return math.prod(shape)
    *rest, rows, columns = shape
    return math.prod(rest) * (rows + columns)
