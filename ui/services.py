"""What the page is given: callables and facts about models, no torch."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, GenerationConfig
from chats.generation.events import ImagesEvent, StepEvent
from chats.scoring import Scorer
from chats.sweeps.store import SweepStore
from training.datasets import DatasetStore
from training.desk import TrainingDesk
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole


@dataclass(frozen=True)
class ModelChoice:
    """One model that the page offers, as far as it is known without loading it."""

    name: str
    """What `GenerationConfig.model` takes."""
    title: str
    """How people call it."""
    num_steps: int
    """Number of steps that suits it."""
    scale: float = DEFAULT_SCALE
    """Guidance scale s that suits it: its pair's recommendation, else the paper's."""
    alpha: float = DEFAULT_ALPHA
    """Proxy strength α that suits it."""
    width: int | None = None
    """Its own width in pixels; none while it is not known."""
    height: int | None = None
    """Its own height in pixels; none while it is not known."""
    has_pair: bool = False
    """Whether a preference pair is there, so that CHATS can run."""
    pair: str | None = None
    """What `GenerationConfig.pair` takes, a run's id among it; none is the model's own."""
    run: str = ""
    """The run whose pair it is; empty for what the server was started with."""
    run_title: str = ""
    """How people call that run."""
    is_fast: bool = False
    """Whether a picture takes seconds, so that dragging a slider may make new ones."""
    examples: tuple[str, ...] = ()
    """Prompts worth a try."""

    @property
    def id(self) -> str:
        """What a page or a program calls it: a run's id, or the model's name."""
        return self.run or self.name

    @property
    def pair_title(self) -> str:
        """How people call its pair."""
        if self.run:
            return self.run_title or self.run
        if not self.has_pair:
            return "None: the base model alone"
        return "Embedded" if self.pair is None else PurePath(self.pair).name


@dataclass(frozen=True)
class ModelStatus:
    """How far the model is, in words for the page's header."""

    state: Literal["loading", "ready", "failed"]
    text: str


@dataclass(frozen=True)
class RunServices:
    """The trainings of a workspace."""

    console: JobConsole
    """Stops, resumes and reads them."""
    catalogue: RunCatalogue
    """All of them at a glance."""
    push: Callable[[str, str, bool], str]
    """Push a run's pair to a repository, privately or not; returns what to tell."""


@dataclass(frozen=True)
class LabServices:
    """What the Alpha lab needs beside pictures."""

    store: SweepStore
    """The sweeps of the workspace."""
    judge: Callable[[str], Scorer]
    """Make a scorer by its name in `chats.scoring.SCORERS`, loading its weights."""
    pair_folder: Callable[[str | None], Path]
    """The folder of a pair whose recommended setting may be changed; a UserError if it may not."""


@dataclass(frozen=True)
class Services:
    """Everything that the page asks of the rest of the program."""

    generate: Callable[[GenerationConfig, threading.Event], Iterator[StepEvent | ImagesEvent]]
    """Make the pictures of a configuration; setting the event stops it within one step."""
    models: Callable[[], tuple[ModelChoice, ...]]
    """The models on offer, the default one first."""
    status: Callable[[], ModelStatus]
    """How far loading the default model is."""
    datasets: DatasetStore
    """The preference data sets of the workspace."""
    desk: TrainingDesk | None = None
    """Where trainings are handed in; none where this server has no queue."""
    runs: RunServices | None = None
    """Trainings; none where this server has no queue."""
    lab: LabServices | None = None
    """Sweeps; none where this server keeps none."""
