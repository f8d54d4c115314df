"""Trackers: programs of others that draw a training's metrics, driven by accelerate."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from chats.errors import UserError
from training.config import TrackerName, TrainingConfig
from training.preferences import source_name

PROJECT = "chats"
"""What trackers call all trainings together."""


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        UserError: Says which, and how to install them.
    """
    here = {str(each) for each in get_available_trackers()}
    if missing := [name for name in names if name not in here]:
        raise UserError(
            f"run.trackers asks for {' and '.join(missing)}, which is not installed. "
            f"Run pip install {' '.join(missing)}, or leave it out: the metrics are always in "
            "metrics.jsonl."
        )


@contextlib.contextmanager
def trackers_told(config: TrainingConfig, accelerator: Accelerator) -> Iterator[None]:
    """Start the trackers with the training's settings, and close them at the end.

    Raises:
        UserError: A tracker can't start.
    """
    if not config.run.trackers:
        yield
        return
    name = config.run.output.resolve().name
    try:
        accelerator.init_trackers(
            PROJECT,
            config=public_settings(config),
            init_kwargs={"wandb": {"name": name}, "trackio": {"name": name}},
        )
    except Exception as error:
        raise UserError(
            f"A tracker of run.trackers ({', '.join(config.run.trackers)}) can't start: {error}. "
            "Log in to it, or leave it out."
        ) from error
    try:
        yield
    finally:
        accelerator.end_training()


def public_settings(config: TrainingConfig) -> dict[str, str | int | float | bool]:
    """Return all settings by dotted name, as trackers take them, without paths of this machine."""
    base = Path(config.model.base)
    public = config.model_dump(mode="json") | {
        "data": config.data.model_dump(mode="json")
        | {"path": source_name(config.data.path), "cache": config.data.cache is not None},
        "model": config.model.model_dump(mode="json")
        | {"base": base.name if base.exists() else config.model.base},
        "run": config.run.model_dump(mode="json") | {"output": config.run.output.resolve().name},
    }
    return {
        f"{group}.{name}": value if isinstance(value, (bool, int, float)) else str(value)
        for group, settings in public.items()
        for name, value in settings.items()
    }


def as_numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers: trackers know no other."""
    return {name: value for name, value in metrics.items() if value is not None and name != "step"}
