"""Where a run of the queue runs: settings beside its own; no torch."""

from dataclasses import dataclass

from training.config import LaunchSettings, TrainingConfig
from training.evaluation_config import EvaluateConfig
from training.launch import Engine


class HardwareSettings(LaunchSettings):
    """Where it runs, and in how many processes; it changes no loss but by the number of them."""

    device: str | None = None
    """`cpu`, or `cuda:` and a GPU's UUID; none means the one with the shortest queue."""


class PlacedTraining(TrainingConfig):
    """A training, and where it runs."""

    hardware: HardwareSettings = HardwareSettings()

    @classmethod
    def of(cls, config: TrainingConfig, hardware: HardwareSettings) -> "PlacedTraining":
        """Put both together."""
        return cls(**_settings(config), hardware=hardware)

    def training(self) -> TrainingConfig:
        """Return the training alone."""
        return TrainingConfig(**_settings(self))


class PlacedEvaluation(EvaluateConfig):
    """An evaluation, and where it runs."""

    hardware: HardwareSettings = HardwareSettings()

    def evaluation(self) -> EvaluateConfig:
        """Return the evaluation alone."""
        return EvaluateConfig(**{name: getattr(self, name) for name in EvaluateConfig.model_fields})


@dataclass(frozen=True)
class Place:
    """What a training gets to run on.

    Attributes:
        engine: How its processes are started.
        devices: Their devices by name.
    """

    engine: Engine
    devices: tuple[str, ...]


def _settings(config: TrainingConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in TrainingConfig.model_fields}
