"""A pair that is trained for a turn, and what its work costs in operations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.speed.device import begin_memory, memory_gb, this_device, wait
from benchmarks.speed.turns import Turn
from chats.denoising.families import denoiser_of, family_of
from chats.objective import OBJECTIVES
from training.config import (
    ModelSettings,
    OptimizerSettings,
)
from training.data.batches import Unfinished
from training.data.draws import PairBatch
from training.loop.batch_loader import BatchLoader
from training.loop.optimizers import make_optimizer
from training.loop.pair_model import PairModel

OBJECTIVE = OBJECTIVES["chats"]
Kind = Literal["full", "lora"]
_RANK = 32


@dataclass(frozen=True)
class StepSettings:
    """What is measured.

    Attributes:
        base: The base model: `shapes`, a folder, or a Hub id.
        resolution: Side of the pictures in pixels; none means the model's own.
        mixed_precision: Number format of the forwards.
        pairs_per_step: Pairs of an optimizer step.
        seconds: What the pairs of a turn may take, about.
        num_pairs: Pairs of the data set.
    """

    base: str
    resolution: int | None
    mixed_precision: Literal["no", "bf16"]
    pairs_per_step: int
    seconds: float
    num_pairs: int


class Trained:
    """A pair that is trained, with its optimizer, and how a turn of it is measured."""

    def __init__(self, pipeline: Any, kind: Kind, settings: StepSettings) -> None:
        self.settings = settings
        self.device = this_device()
        self.model = PairModel(
            denoiser_of(pipeline),
            objective=OBJECTIVE,
            settings=ModelSettings(kind=kind, rank=_RANK, lora_alpha=_RANK),
            family=family_of(pipeline),
            seed=0,
        )
        # As in the recipes: Adafactor for whole models, AdamW for adapters. The rates are small:
        # what the weights become is of no interest, but it must stay finite.
        name = "adafactor" if kind == "full" else "adamw"
        optimizer = OptimizerSettings(name=name, learning_rate=1e-9)
        self.optimizer = make_optimizer(self.model.trained_parameters(), optimizer)

    @property
    def modules(self) -> list[nn.Module]:
        """What it computes with."""
        return list(self.model.denoisers.values())

    def predict(self, *arguments: Any, **named: Any) -> dict[Any, Tensor]:
        """Return what the model predicts, computed in the number format of the settings."""
        with self.autocast():
            outputs = self.model(*arguments, **named)
        return {prediction: each.float() for prediction, each in outputs.items()}

    def autocast(self) -> torch.autocast:
        """Return the context of the number format."""
        bf16 = self.settings.mixed_precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, bf16)

    def turn(
        self,
        batches: Iterator[Unfinished],
        loss_of: Callable[[PairBatch], Tensor],
        *,
        batch_size: int,
        is_clipped: bool = True,
    ) -> Turn:
        """Make the forwards, backwards and the update of an optimizer step."""
        wanted = max(1, self.settings.pairs_per_step // batch_size)

        def forward_and_backward(loader: BatchLoader) -> None:
            loss = loss_of(loader.next()().to(self.device))
            loss.backward()
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()}")

        begin_memory()
        with BatchLoader() as loader:
            loader.start(batches)
            forward_and_backward(loader)  # not counted: the loader had nothing yet
            wait()
            start, done = time.perf_counter(), 0
            while done < wanted and time.perf_counter() - start < self.settings.seconds:
                forward_and_backward(loader)
                done += 1
            wait()
            per_pair = (time.perf_counter() - start) / (done * batch_size)
        start = time.perf_counter()
        if is_clipped:
            nn.utils.clip_grad_norm_(self.model.trained_parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait()
        update = time.perf_counter() - start
        pairs = wanted * batch_size
        return Turn(speed=pairs / (pairs * per_pair + update), memory_gb=memory_gb())

    def let_go(self) -> None:
        """Drop gradients, and what the last forward left for a backward."""
        self.optimizer.zero_grad()
        self.model.end_step()

    def move_optimizer(self, device: Any) -> None:
        """Move what the optimizer remembers."""
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.ndim:
                    state[name] = value.to(device)

    def checkpoint(self, is_wanted: bool) -> None:
        """Switch gradient checkpointing on or off."""
        if is_wanted:
            self.model.enable_gradient_checkpointing()
            return
        for denoiser in self.modules:
            denoiser.disable_gradient_checkpointing()


def operations(work: Callable[[], None], device: torch.device) -> float:
    """Return how many floating point operations the work makes, by torch's own table."""
    # On a CPU the table knows attention only where it is made of matrix products.
    plain = sdpa_kernel([SDPBackend.MATH]) if device.type == "cpu" else contextlib.nullcontext()
    counter = _Counter()
    with plain, counter:
        work()
    return counter.total


class _Counter(TorchDispatchMode):
    """torch's FlopCounterMode without its table of modules, which takes most of its time."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=output)
        return output
