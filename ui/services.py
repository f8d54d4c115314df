"""What the page is given: callables and facts about models, no torch."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chats.config import GenerationConfig
from chats.generation.events import ImagesEvent, StepEvent
from chats.models.choices import ModelChoice, ModelStatus
from training.datasets import DatasetStore
from training.desk import TrainingDesk
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole


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
    generate_on_cpu: (
        Callable[[GenerationConfig, threading.Event], Iterator[StepEvent | ImagesEvent]] | None
    ) = None
    """The same beside a GPU that is in use; none where it would be no help."""
    desk: TrainingDesk | None = None
    """Where trainings are handed in; none where this server has no queue."""
    runs: RunServices | None = None
    """Trainings; none where this server has no queue."""
