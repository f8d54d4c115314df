"""A training that is being prepared: what stands in its way, and what it would come to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chats.errors import UserError
from training.config import TrainingConfig
from training.desk import DataSetSummary, TrainingDesk
from training.hardware import HardwareSettings, Place, PlacedTraining
from training.jobs.speeds import Speed
from training.launch import list_engines
from training.planning.estimate import pairs_per_step
from ui.forms.checking import Choices, check
from ui.forms.fields import all_settings, describe

BASE = "model.base"
ENGINE, NUM_PROCESSES, DEVICE = "hardware.engine", "hardware.num_processes", "hardware.device"
ENGINE_TITLES = {
    "cpu": "One process on the CPU",
    "gpu": "One process on a GPU",
    "ddp": "A process for each GPU (DDP)",
    "fsdp": "GPUs that share the models out (FSDP)",
    "zero2": "GPUs that share gradients and averages out (ZeRO-2)",
}


@dataclass(frozen=True)
class Prepared:
    """What is known of a training without counting anything that takes long.

    Attributes:
        config: Its settings; none while some are wrong.
        place: What it runs on; none while settings are wrong.
        hardware: What was asked of that.
        problems: What is wrong, by the name of the setting.
        obstacles: Why it can't be started now, in words; none if it can.
        data: The chosen data set.
        speed: Of a training like it.
    """

    config: TrainingConfig | None
    problems: Mapping[str, str]
    obstacles: tuple[str, ...]
    place: Place | None = None
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    data: DataSetSummary | None = None
    speed: Speed | None = None

    @property
    def course(self) -> "Course | None":
        """How far it goes; none while settings are wrong."""
        return Course.of(self) if self.config else None


@dataclass(frozen=True)
class Course:
    """How far a training goes.

    Attributes:
        pairs_per_step: The effective batch.
        num_steps: Optimizer steps.
        num_pairs: Pairs seen in all steps.
        num_different: Different pairs; none while no data set is chosen.
        epochs: How often each is seen.
        seconds: How long it takes; none where no such training has run.
    """

    pairs_per_step: int
    num_steps: int
    num_pairs: int
    num_different: int | None = None
    epochs: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, prepared: Prepared) -> "Course":
        """Work it out."""
        config, processes = prepared.config, prepared.place.engine.num_processes
        per_step = pairs_per_step(config.optimizer, num_processes=processes)
        total = per_step * config.optimizer.num_steps
        different = None
        if prepared.data:
            different = min(
                prepared.data.num_pairs, config.data.max_pairs or prepared.data.num_pairs
            )
        return cls(
            pairs_per_step=per_step,
            num_steps=config.optimizer.num_steps,
            num_pairs=total,
            num_different=different,
            epochs=total / different if different else None,
            seconds=total / prepared.speed.pairs_per_second if prepared.speed else None,
        )


class Preparation:
    """Checks settings against what a desk offers.

    Attributes:
        desk: Where trainings are handed in.
        groups: The settings of a training.
        choices: What those may be that come from a list.
    """

    def __init__(self, desk: TrainingDesk):
        self.desk = desk
        self.groups = describe(PlacedTraining)
        self.choices: Mapping[str, Choices] = {
            BASE: desk.bases,
            ENGINE: [(ENGINE_TITLES.get(name, name), name) for name in list_engines()],
            DEVICE: _device_offers(desk.devices),
        }

    def prepare(
        self,
        settings: Mapping[str, Any],
        *,
        data_id: Any,
        problems: Mapping[str, str] | None = None,
    ) -> Prepared:
        """Check settings and data.

        Args:
            settings: Nested, without the places of a run.
            data_id: The chosen data set.
            problems: What is known to be wrong with the settings already.
        """
        obstacles = [self.desk.refusal] if self.desk.refusal else []
        data = None
        try:
            data = self.desk.find_data(data_id)
        except UserError as error:
            obstacles.append(str(error))
        placed = {group: dict(values) for group, values in settings.items()}
        for group, values in self.desk.places(data.id if data else None).items():
            placed[group] = {**placed.get(group, {}), **values}
        found = check(PlacedTraining, self.groups, placed, choices=self.choices)
        wrong = {**found.problems, **(problems or {})}
        place, config = None, None
        if not wrong:
            try:
                place = self.desk.find_place(found.config.hardware)
                config = found.config.training()
            except UserError as error:
                wrong[_cause(found.config.hardware)] = str(error)
        if wrong:
            obstacles.append(self._in_words(wrong))
        return Prepared(
            config=config,
            problems=wrong,
            obstacles=tuple(obstacles),
            place=place,
            hardware=found.config.hardware if config else HardwareSettings(),
            data=data,
            speed=self.desk.speed(config, place) if config else None,
        )

    def _in_words(self, problems: Mapping[str, str]) -> str:
        known = all_settings(self.groups)
        titles = [known[name].title for name in sorted(problems) if name]
        general = problems.get("", "")
        if not titles:
            return general
        subject = "This setting is" if len(titles) == 1 else "These settings are"
        return f"{subject} wrong: {', '.join(titles)}. {general}".strip()


def _cause(hardware: HardwareSettings) -> str:
    """Name the setting that a machine without such hardware is told at."""
    if hardware.device is not None:
        return DEVICE
    return ENGINE if hardware.num_processes is None else NUM_PROCESSES


def _device_offers(devices: Mapping[str, str]) -> Choices:
    """Name devices by their titles, and by their ids where two have the same title."""
    titles = list(devices.values())
    return [
        (
            title.removeprefix("the ") + (f" ({name[-12:]})" if titles.count(title) > 1 else ""),
            name,
        )
        for name, title in devices.items()
    ]
