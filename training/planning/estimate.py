"""What a training costs, by arithmetic alone: forwards, memory and samples; no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from training.config import OptimizerSettings

if TYPE_CHECKING:
    from chats.objective import Objective

Shape = tuple[int, ...]
_WEIGHT_BYTES = 4
"""Weights, gradients and averages are 32-bit numbers, whatever the forwards compute in."""

_ADAM_32_BITS_BELOW = 4096
"""Parameters with fewer elements keep 32-bit averages in 8-bit AdamW."""


_ZERO_BUCKET = 500_000_000
"""Gradients that DeepSpeed collects before it sends them, at most."""


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


@dataclass(frozen=True)
class MemoryReport:
    """The memory of one process, by part, against what its device has.

    Attributes:
        parts: Bytes by the name of the part.
        device: What it trains on, in words.
        device_bytes: What that has; none for one that is not on this machine.
        encoding_bytes: What the device holds before that, to encode the data; 0 where that is a
            part of the training's own.
        loading_bytes: What main memory holds at the start.
        remedies: What makes it smaller and is not done yet, the cheapest first.
        num_trained: Parameters that are trained.
        num_frozen: Parameters that are not.
        forwards_per_pair: What a pair costs, in forwards of the denoiser.
    """

    parts: Mapping[str, int]
    device: str
    device_bytes: int | None
    encoding_bytes: int
    loading_bytes: int
    remedies: tuple[str, ...]
    num_trained: int
    num_frozen: int
    forwards_per_pair: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much; one that is not here is taken to."""
        return self.device_bytes is None or self.total <= self.device_bytes


def forward_equivalents(
    objective: "Objective",
    *,
    kind: Literal["lora", "full"],
    gradient_checkpointing: bool,
    with_reference: bool = True,
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
    num_reference = len(objective.predictions) - num_trained if with_reference else 0
    return num_trained * trained + num_reference


def memory_estimate(
    *,
    trained: Sequence[Shape],
    num_frozen: int,
    activation_bytes: int,
    settings: OptimizerSettings,
    num_processes: int = 1,
    num_gathered: int | None = None,
    shares_states: bool = False,
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
        shares_states: Whether they share gradients and optimizer out as ZeRO-2 does, which keeps a
            second copy of each part of the weights.
    """
    num_trained = sum(math.prod(shape) for shape in trained)
    size = _WEIGHT_BYTES * num_trained
    num_parts = 1
    exchange = size if num_processes > 1 else 0
    if num_gathered is not None:
        num_parts, exchange = num_processes, _WEIGHT_BYTES * num_gathered
    weights, num_states = (size + _WEIGHT_BYTES * num_frozen) // num_parts, num_parts
    if shares_states:
        num_states = num_processes
        weights += size // num_states
        exchange = _WEIGHT_BYTES * min(num_trained, _ZERO_BUCKET)
    return MemoryEstimate(
        weights=weights,
        gradients=size // num_states,
        optimizer=optimizer_bytes(settings.name, trained) // num_states,
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
