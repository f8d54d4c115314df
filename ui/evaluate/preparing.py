"""An evaluation that is being prepared: what is wrong with it, and what it would make."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chats.errors import UserError
from training.evaluate.desk import Cost, EvaluationDesk, SettingError
from training.evaluation_config import EvaluateConfig
from training.hardware import HardwareSettings, PlacedEvaluation
from training.jobs.devices import choose_devices
from training.launch import find_engine
from ui.forms.checking import Choices, check
from ui.forms.fields import all_settings, describe

ENGINES = {
    "cpu": "One process on the CPU",
    "gpu": "One process on a GPU",
    "ddp": "A process for each GPU",
}
"""Engines that give every process a whole model."""


@dataclass(frozen=True)
class Prepared:
    """What is known of an evaluation.

    Attributes:
        config: Its settings with places for names; none while some are wrong.
        hardware: Where it runs.
        cost: What it would make; none while settings are wrong.
        problems: What is wrong, by the name of the setting.
        obstacles: Why it can't be started now, in words; none if it can.
    """

    config: EvaluateConfig | None
    problems: Mapping[str, str]
    obstacles: tuple[str, ...]
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    cost: Cost | None = None


class Preparation:
    """Checks settings against what a desk offers."""

    def __init__(self, desk: EvaluationDesk):
        self.desk = desk
        self.groups = describe(PlacedEvaluation)

    @property
    def choices(self) -> Mapping[str, Choices]:
        """What settings may be that come from a list."""
        return {
            "model": self.desk.models(),
            "hardware.engine": [(title, name) for name, title in ENGINES.items()],
            "hardware.device": [(title, name) for name, title in self.desk.devices.items()],
        }

    def prepare(
        self, settings: Mapping[str, Any], *, problems: Mapping[str, str] | None = None
    ) -> Prepared:
        """Check settings, nested and without the output; `problems` are known already."""
        placed = {**settings, "output": str(self.desk.output)}
        found = check(PlacedEvaluation, self.groups, placed, choices=self.choices)
        wrong = {**found.problems, **(problems or {})}
        config, cost = None, None
        if not wrong:
            hardware = found.config.hardware
            try:
                config = self.desk.resolve(found.config.evaluation())
                cost = self.desk.cost(config, hardware)
                self._check_place(hardware)
            except SettingError as error:
                wrong[error.setting] = str(error)
            except UserError as error:
                wrong["hardware.engine" if cost else "prompts"] = str(error)
        obstacles = [self.desk.refusal] if self.desk.refusal else []
        if wrong:
            obstacles.append(self._in_words(wrong))
        return Prepared(
            config=None if wrong else config,
            problems=wrong,
            obstacles=tuple(obstacles),
            hardware=HardwareSettings() if wrong else found.config.hardware,
            cost=None if wrong else cost,
        )

    def _check_place(self, hardware: HardwareSettings) -> None:
        engine = find_engine(hardware.engine, num_processes=hardware.num_processes)
        choose_devices(engine, wanted=hardware.device, available=self.desk.devices, load={})

    def _in_words(self, problems: Mapping[str, str]) -> str:
        known = all_settings(self.groups)
        titles = ", ".join(known[name].title for name in sorted(problems) if name in known)
        return f"Something is wrong with: {titles}." if titles else problems.get("", "")


def start_evaluation(desk: EvaluationDesk, prepared: Prepared) -> str:
    """Hand an evaluation in and return its run's id.

    Raises:
        UserError: Something stands in its way.
    """
    if prepared.obstacles or prepared.config is None:
        lines = [f"{name}: {text}" for name, text in prepared.problems.items()]
        raise UserError("\n".join(lines or prepared.obstacles))
    return desk.submit(prepared.config, prepared.hardware)
