"""What a training says of itself: one JSON line for each window of optimizer steps."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from chats.objective import LossTerms
from training.run import Metrics

MEASURED = frozenset({"pairs_per_second", "data_wait_seconds", "memory_gb"})
"""Metrics that the machine decides; all others a resumed training repeats bit for bit."""

_REWARDS = {
    "rewards/preferred": "preferred_reward",
    "rewards/dispreferred": "dispreferred_reward",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "sigmoid_argument/mean": "margin",
}


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step says, on all processes: a few numbers, whatever its batch.

    Attributes:
        num_pairs: Pairs that it saw.
        means: Mean of each term over them.
        margin_variance: Variance of a, the sigmoid's argument, over them.
        grad_norm: The gradient's norm; none if it was not finite.
    """

    num_pairs: int
    means: dict[str, float]
    margin_variance: float
    grad_norm: float | None


class MetricsWindow:
    """Collects what the optimizer steps since the last line say.

    Its records are a part of the training's state, so a line is the same whether or not the
    training was interrupted within its window. Times are not: they begin again.
    """

    def __init__(self) -> None:
        self._records: list[StepRecord] = []
        self._terms: list[LossTerms] = []
        self._began = time.perf_counter()
        self._reset_times()

    def start_step(self) -> None:
        """Begin to measure the time of an optimizer step."""
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time within as spent on waiting for data."""
        start = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - start

    def add_forward(self, terms: LossTerms) -> None:
        """Take the terms of one forward of the step."""
        self._terms.append(terms.detach())

    def add_step(self, *, grad_norm: float) -> None:
        """Take the step as a whole; its update is done."""
        record = _record(self._terms, grad_norm=grad_norm)
        self._terms = []
        self._records.append(record)
        self._seconds += time.perf_counter() - self._began
        self._num_timed_steps += 1
        self._num_timed_pairs += record.num_pairs

    def summary(self, *, lr: float, device: torch.device) -> Metrics:
        """Return the window's line but for the step; what is not finite becomes none."""
        metrics = {"loss": self._mean("loss")}
        if "margin" in self._records[0].means:
            metrics |= {name: self._mean(term) for name, term in _REWARDS.items()}
            metrics["sigmoid_argument/std"] = self._margin_std()
        norms = [math.nan if each.grad_norm is None else each.grad_norm for each in self._records]
        metrics |= {
            "grad_norm": sum(norms) / len(norms),
            "lr": lr,
            "pairs_per_second": self._num_timed_pairs / self._seconds,
            "data_wait_seconds": self._data_seconds / self._num_timed_steps,
            "memory_gb": _memory_bytes(device) / 1e9,
        }
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

    def restart(self) -> None:
        """Begin the next window."""
        self._records = []
        self._reset_times()

    def saved(self) -> list[dict[str, Any]]:
        """Return the records as JSON."""
        return [asdict(record) for record in self._records]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Take up what `saved` returned."""
        self._records = [StepRecord(**record) for record in saved]

    def _reset_times(self) -> None:
        self._seconds = self._data_seconds = 0.0
        self._num_timed_steps = self._num_timed_pairs = 0

    def _mean(self, term: str) -> float:
        total = sum(each.num_pairs * each.means[term] for each in self._records)
        return total / self._num_pairs

    def _margin_std(self) -> float:
        """Spread over all pairs: within the steps, and of the steps' means."""
        mean = self._mean("margin")
        total = sum(
            each.num_pairs * (each.margin_variance + (each.means["margin"] - mean) ** 2)
            for each in self._records
        )
        return math.sqrt(total / self._num_pairs)

    @property
    def _num_pairs(self) -> int:
        return sum(each.num_pairs for each in self._records)


def terms_together(parts: Sequence[LossTerms]) -> dict[str, Tensor]:
    """Return each term that the objective has, of all samples of these parts, `(N,)`."""
    names = {"loss"} if parts[0].margin is None else {"loss", *_REWARDS.values()}
    return {
        name: torch.cat([getattr(part, name) for part in parts]).double() for name in sorted(names)
    }


def _record(parts: Sequence[LossTerms], *, grad_norm: float) -> StepRecord:
    terms = terms_together(parts)
    margin = terms.get("margin")
    return StepRecord(
        num_pairs=len(terms["loss"]),
        means={name: values.mean().item() for name, values in terms.items()},
        margin_variance=0.0 if margin is None else margin.var(correction=0).item(),
        grad_norm=grad_norm if math.isfinite(grad_norm) else None,
    )


def _memory_bytes(device: torch.device) -> int:
    """Return the most that was in use on the GPU since the start; on the CPU what is now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
