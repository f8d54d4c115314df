"""Kinds of jobs: what a queue can start, one row each. No other place tells them apart by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.config import TrainingConfig
from training.evaluation_config import EvaluateConfig

KindName = Literal["training", "evaluation"]
"""What job.json calls a kind; people read it too."""


@dataclass(frozen=True)
class JobKind:
    """What the queue has to know of a kind.

    Attributes:
        settings: The model of its settings.
        module: What `python -m` starts with `--config FILE`.
        output: Where its settings name the folder of the run, group by group.
        unit: What its progress counts, one of them.
        doing: What it does on a device, in words.
        goes_on: From where it goes on after an early end, in words.
        num_units: How many units there will be; none while only its process can know.
        data: The folder of preferences that it reads; none for a kind that reads none.
    """

    settings: type[TrainingConfig] | type[EvaluateConfig]
    module: str
    output: tuple[str, ...]
    unit: str
    doing: str
    goes_on: str
    num_units: Callable[[Any], int | None]
    data: Callable[[Any], Path | None]

    def placed(
        self, config: TrainingConfig | EvaluateConfig, folder: Path
    ) -> TrainingConfig | EvaluateConfig:
        """Return the settings with a folder of their own."""
        return _with(config, self.output, folder)


KINDS: Mapping[KindName, JobKind] = {
    "training": JobKind(
        settings=TrainingConfig,
        module="training",
        output=("run", "output"),
        unit="step",
        doing="trains",
        goes_on="from its last checkpoint",
        num_units=lambda config: config.optimizer.num_steps,
        data=lambda config: config.data.path,
    ),
    "evaluation": JobKind(
        settings=EvaluateConfig,
        module="training.evaluate",
        output=("output",),
        unit="picture",
        doing="evaluates",
        goes_on="with the pictures that are missing",
        num_units=lambda config: None,
        data=lambda config: None,
    ),
}


def kind_of(config: TrainingConfig | EvaluateConfig) -> KindName:
    """Return the kind that settings belong to."""
    return next(name for name, kind in KINDS.items() if isinstance(config, kind.settings))


def _with(config: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *inner = path
    changed = _with(getattr(config, name), tuple(inner), value) if inner else value
    return config.model_copy(update={name: changed})
