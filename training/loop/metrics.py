"""What a training says of itself: one JSON line for each window of optimizer steps."""

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from chats.objective import LossTerms

MEASURED = frozenset({"pairs_per_second", "data_wait_seconds"})
"""Metrics that the machine decides; all others a resumed training repeats bit for bit."""


class MetricsWindow:
    """Collects what one window of optimizer steps says; make a new one for the next."""

    def __init__(self) -> None:
        self._terms: list[LossTerms] = []
        self._grad_norms: list[float] = []
        self._start = time.perf_counter()
        self._data_seconds = 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time within as spent on waiting for data."""
        start = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - start

    def add_forward(self, terms: LossTerms) -> None:
        """Take the terms of one forward."""
        self._terms.append(terms.detach())

    def add_step(self, *, grad_norm: float) -> None:
        """Take what one optimizer step says."""
        self._grad_norms.append(grad_norm)

    def summary(self, *, step: int, lr: float) -> dict[str, float | None]:
        """Return the window's means; numbers that are not finite become none."""
        loss = _joined([terms.loss for terms in self._terms])
        seconds = time.perf_counter() - self._start
        metrics = {"step": step, "loss": loss.mean().item()}
        if self._terms[0].margin is not None:
            metrics |= self._rewards()
        metrics |= {
            "grad_norm": sum(self._grad_norms) / len(self._grad_norms),
            "lr": lr,
            "pairs_per_second": len(loss) / seconds,
            "data_wait_seconds": self._data_seconds / len(self._grad_norms),
        }
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

    def _rewards(self) -> dict[str, float]:
        margin = _joined([terms.margin for terms in self._terms])
        return {
            "rewards/preferred": _mean([terms.preferred_reward for terms in self._terms]),
            "rewards/dispreferred": _mean([terms.dispreferred_reward for terms in self._terms]),
            "rewards/margins": margin.mean().item(),
            "rewards/accuracies": _mean([terms.accuracy for terms in self._terms]),
            "sigmoid_argument/mean": margin.mean().item(),
            "sigmoid_argument/std": margin.std(correction=0).item(),
        }


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).double()


def _mean(parts: list[Tensor]) -> float:
    return _joined(parts).mean().item()
