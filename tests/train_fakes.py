"""Stand-ins for the data sets and the queue behind the Train tab."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from chats.errors import UserError
from training.config import TrainingConfig
from training.desk import TrainingDesk
from training.hardware import HardwareSettings
from training.recipe import complete, list_recipes
from training.run import RunDirectory

Made = TypeVar("Made")

START = next(complete(each) for each in list_recipes() if each.name == "shapes_demo").optimizer
"""What the form shows at first."""
NUM_STEPS, NUM_PAIRS = START.num_steps, START.num_steps * START.batch_size
COURSE = f"{NUM_PAIRS:,} pairs in {NUM_STEPS} steps of {START.batch_size}"
"""What the page says of it; every pair of the fake data set is seen 20 times."""


@dataclass(frozen=True)
class FakeDataSet:
    """A data set, and its line in a list."""

    id: str = "20260101-0a0b0c0d"
    name: str = "Votes of <b>spring</b>"
    num_pairs: int = NUM_PAIRS // 20
    folder: Path = Path("workspace/datasets/20260101-0a0b0c0d")


@dataclass
class FakeDataSets:
    """Some data sets."""

    known: list[FakeDataSet] = field(default_factory=lambda: [FakeDataSet()])

    def summaries(self) -> list[FakeDataSet]:
        return list(self.known)

    def open(self, dataset_id: str) -> FakeDataSet:
        for each in self.known:
            if each.id == dataset_id:
                return each
        raise UserError(f"There is no data set {dataset_id!r} here.")


@dataclass(frozen=True)
class FakeRun:
    """A run's line in a list."""

    id: str
    engine: str | None = None
    num_processes: int = 1
    devices: tuple[str, ...] = ("cpu",)


@dataclass
class FakeConsole:
    """A queue that remembers what it was given; metrics of its runs lie in `folder`."""

    folder: Path = Path("there-is-no-such-folder")
    error: str = ""
    submitted: list[TrainingConfig] = field(default_factory=list)
    hardware: list[HardwareSettings] = field(default_factory=list)

    def submit(self, config: TrainingConfig, **hardware: object) -> str:
        if self.error:
            raise UserError(self.error)
        self.submitted.append(config)
        self.hardware.append(HardwareSettings.model_validate(hardware))
        return self.list()[0].id

    def list(self) -> list[FakeRun]:
        runs = []
        for k, each in enumerate(self.hardware):
            devices = (each.device or "cpu",) * (1 if each.device else each.num_processes or 1)
            run_id = f"20260101-00000{k}-abcdef"
            runs.append(FakeRun(run_id, each.engine, each.num_processes or 1, devices))
        return runs[::-1]

    def get(self, run_id: str) -> FakeRun:
        for run in self.list():
            if run.id == run_id:
                return run
        raise UserError(f"There is no run {run_id!r}.")

    def config(self, run_id: str) -> TrainingConfig:
        self.get(run_id)
        return self.submitted[int(run_id[14])]

    def directory(self, run_id: str) -> RunDirectory:
        return RunDirectory(self.folder / run_id)


def build_page(build: Callable[[], Made]) -> Made:
    """Build a page's parts; outside a running loop gradio makes one that it never closes."""

    async def inside() -> Made:
        with gr.Blocks(analytics_enabled=False):
            return build()

    return asyncio.run(inside())


def make_desk(
    *,
    data_sets: FakeDataSets | None = None,
    console: FakeConsole | None = None,
    refusal: str = "",
    **others: Any,
) -> TrainingDesk:
    """A desk around fakes."""
    return TrainingDesk(
        data_sets=FakeDataSets() if data_sets is None else data_sets,
        console=FakeConsole() if console is None else console,
        workspace=Path("workspace"),
        models=(("Shapes", "shapes"),),
        refusal=refusal,
        **others,
    )
