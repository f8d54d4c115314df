"""What the page is given: callables and facts about models, no torch."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, GenerationConfig
from chats.generation.events import ImagesEvent, StepEvent
from training.datasets import DatasetStore
from training.desk import TrainingDesk


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
    """What `GenerationConfig.pair` takes; none is the model's own."""
    is_fast: bool = False
    """Whether a picture takes seconds, so that dragging a slider may make new ones."""
    examples: tuple[str, ...] = ()
    """Prompts worth a try."""


@dataclass(frozen=True)
class ModelStatus:
    """How far the model is, in words for the page's header."""

    state: Literal["loading", "ready", "failed"]
    text: str


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
