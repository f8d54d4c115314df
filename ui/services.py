"""What the page is given: callables and facts about models, no torch."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chats.config import GenerationConfig
from chats.generation.events import ImagesEvent, StepEvent
from chats.models.choices import ModelChoice, ModelStatus
from chats.models.reports import DeviceReport
from chats.pairs.hub import OnBytes
from chats.scoring import Scorer
from chats.sweeps.store import SweepStore
from training.datasets import DatasetStore
from training.desk import TrainingDesk
from training.evaluate.desk import EvaluationDesk
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole
from training.progress import OnProgress
from training.votes import VoteStore
from training.votes.scores import Judge


@dataclass(frozen=True)
class ModelServices:
    """What is on the devices."""

    report: Callable[[], tuple[DeviceReport, ...]]
    """Every device with its memory and what lies in it."""
    load: Callable[[str, str | None, OnBytes | None], str]
    """Load a model and its pair, which may be none, telling what is fetched; returns words."""
    unload: Callable[[str], str]
    """Drop what has a name; returns what to tell."""
    folders: Callable[[], tuple[str, ...]]
    """Names of the folders that can be loaded."""
    refusal: str = ""
    """Why this server loads nothing on request; empty if it does."""


@dataclass(frozen=True)
class RunServices:
    """The runs of a workspace."""

    console: JobConsole
    """Stops, resumes and reads them."""
    catalogue: RunCatalogue
    """All of them at a glance."""
    push: Callable[[str, str, bool, OnProgress], str]
    """Push a run's pair to a repository, privately or not; returns what to tell."""
    refusal: str = ""
    """Why nobody may resume or score a run here; empty if they may."""


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
    datasets: DatasetStore | None
    """The preference data sets of the workspace; none where visitors may keep nothing."""
    generate_on_cpu: (
        Callable[[GenerationConfig, threading.Event], Iterator[StepEvent | ImagesEvent]] | None
    ) = None
    """The same beside a GPU that is in use; none where it would be no help."""
    desk: TrainingDesk | None = None
    """Where trainings are handed in; none where this server has no queue."""
    evaluations: EvaluationDesk | None = None
    """Where evaluations are handed in; none where this server has no queue."""
    shelf: ModelServices | None = None
    """What is loaded; none where this server does not say."""
    num_at_once: int = 1
    """Requests for pictures that run at the same time."""
    notices: tuple[str, ...] = ()
    """What visitors should know of this server, in sentences."""
    runs: RunServices | None = None
    """Trainings; none where this server has no queue."""
    votes: VoteStore | None = None
    """Votes on pictures; none where this server takes none."""
    score: Callable[[str], Judge] | None = None
    """Load a scorer by its name; none where there are none."""
    lab: LabServices | None = None
    """Sweeps; none where this server keeps none."""
