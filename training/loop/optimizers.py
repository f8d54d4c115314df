"""Optimizers by name, the learning rate of a step, and the moving average of the weights."""

import contextlib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from chats.errors import UserError
from training.config import OptimizerSettings
from training.loop.sharding import own_part


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name.

    Raises:
        UserError: It needs a library that is not here.
    """
    shared = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, betas=settings.betas, **shared)
    if settings.name == "adafactor":
        from transformers.optimization import Adafactor

        # As in the paper's scripts: a rate that is given, not one relative to the weights' size.
        return Adafactor(
            parameters, relative_step=False, scale_parameter=False, clip_threshold=1.0, **shared
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "optimizer.name adamw-8bit needs bitsandbytes (pip install -r requirements-8bit.txt). "
            "Choose adamw or adafactor."
        )
    import bitsandbytes

    parameters = [*parameters]
    for parameter in parameters:
        # It lays weights out so itself in its first step, but not the averages made before.
        parameter.data = parameter.data.contiguous()
    return bitsandbytes.optim.AdamW8bit(parameters, betas=settings.betas, **shared)


def learning_rate(step: int, settings: OptimizerSettings, *, num_processes: int = 1) -> float:
    """Return the learning rate of a step, counted from 1."""
    peak = settings.learning_rate
    if settings.scale_learning_rate:
        peak *= settings.batch_size * settings.gradient_accumulation * num_processes
    if step <= settings.warmup_steps:
        return peak * step / settings.warmup_steps
    done = (step - 1 - settings.warmup_steps) / (settings.num_steps - settings.warmup_steps)
    share = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[settings.schedule]
    return peak * share


class MovingAverage:
    """An exponential moving average of parameters, in float32 on their device.

    Of parameters that are shared out every process averages its own part.

    Attributes:
        values: One for each parameter, shared out as it is.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.values = [each.detach().clone() for each in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take a step's weights in; the first steps count more, so that the start is forgotten."""
        decay = min(self._decay, step / (step + 10))
        torch._foreach_lerp_(_parts(self.values), _parts(self._parameters), 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the average be the weights meanwhile; then all is as it was, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange contents one by one: never more than one tensor is there twice."""
        for parameter, value in zip(_parts(self._parameters), _parts(self.values), strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Make the average the weights."""
        torch._foreach_copy_(_parts(self._parameters), _parts(self.values))


def _parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [own_part(each) for each in tensors]
