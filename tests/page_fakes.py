"""A stand-in for the models behind the page: it paints at once, the same each time, no torch."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from chats.config import GenerationConfig, Row
from chats.generation.events import ImagesEvent, StepEvent
from chats.wording import combination
from training.datasets import DatasetStore
from ui.services import ModelChoice, ModelStatus, Services

MODEL = ModelChoice(
    name="shapes",
    title="Shapes",
    num_steps=3,
    scale=4.0,
    alpha=0.5,
    width=24,
    height=16,
    has_pair=True,
    is_fast=True,
    examples=("three red stars", "a circle left of a 'square'"),
)


@dataclass
class FakeStudio:
    """Answers like `chats.generation.generate`, and remembers what it was asked."""

    model: ModelChoice = MODEL
    error: Exception | None = None
    stop_after: int | None = None
    """Set the ticket after so many steps, as a person does who presses Stop."""
    notices: tuple[str, ...] = ()
    asked: list[GenerationConfig] = field(default_factory=list)
    num_closed: int = 0
    datasets: Path = Path("there-is-no-such-folder")

    def services(self) -> Services:
        """What the page is given."""
        return Services(
            generate=self.generate,
            models=lambda: (self.model,),
            status=lambda: ModelStatus("ready", "Fake, ready"),
            datasets=DatasetStore(self.datasets),
        )

    def generate(
        self, config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        """Tell three steps, then give one plain picture per row."""
        self.asked.append(config)
        try:
            yield from self._events(config, cancel)
        finally:
            self.num_closed += 1

    def _events(
        self, config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        size = (config.width or self.model.width, config.height or self.model.height)
        num_steps = config.num_steps or self.model.num_steps
        for step in range(1, num_steps + 1):
            if cancel.is_set():
                return
            yield StepEvent(
                step=step,
                num_steps=num_steps,
                previews=tuple(Image.new("RGB", size, (step, step, step)) for _ in config.rows),
                elapsed_seconds=0.5 * step,
                eta_seconds=0.5 * (num_steps - step),
            )
            if step == self.stop_after:
                cancel.set()
        if cancel.is_set():
            return
        if self.error:
            raise self.error
        settled = config.model_copy(
            update={"num_steps": num_steps, "width": size[0], "height": size[1]}
        )
        yield ImagesEvent(
            images=tuple(Image.new("RGB", size, color_of(row)) for row in config.rows),
            config=settled,
            notices=self.notices,
            seconds=1.5,
            num_predictions=5 * num_steps,
            rows_per_call=16,
            combined=tuple(combination(row) for row in config.rows),
        )


def without_pair(model: ModelChoice = MODEL) -> ModelChoice:
    """The same model before anyone has trained a pair for it."""
    return replace(model, has_pair=False)


def color_of(row: Row) -> tuple[int, int, int]:
    """A colour that tells method, s, α and seed apart."""
    return (len(row.method) * 9, round(100 + 20 * row.alpha), round(10 * row.scale) + row.seed % 50)


@dataclass(frozen=True)
class Visitor:
    """As much of `gr.Request` as the handlers read."""

    session_hash: str = "tab"
