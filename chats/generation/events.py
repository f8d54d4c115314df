"""What a running generation tells: steps with previews, then the pictures. No torch here."""

from dataclasses import dataclass

from PIL.Image import Image

from chats.config import GenerationConfig


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A denoising step is done."""

    step: int
    """Steps done, counted from 1."""

    num_steps: int
    """Steps in all. Rows beyond what fits on the device at once come after the first ones."""

    previews: tuple[Image, ...]
    """One picture per row that has begun, in the order of the rows; empty between previews."""

    elapsed_seconds: float
    """Since the first step began."""

    eta_seconds: float
    """What is left, judged by the steps that were measured."""


@dataclass(frozen=True, kw_only=True)
class ImagesEvent:
    """The pictures are done; always the last event."""

    images: tuple[Image, ...]
    """One picture per row of `config`."""

    config: GenerationConfig
    """What was made: sizes and steps filled in, prompts as the model read them, and only the rows
    that could be made."""

    notices: tuple[str, ...]
    """What was changed or left out, in words for the person who asked."""

    seconds: float
    """From the request to the pictures, waiting and loading included."""

    num_predictions: int
    """Predictions of a denoiser for one picture, summed over steps and rows: CFG makes two a step
    wherever guidance is on, Standard one."""

    rows_per_call: int
    """The most pictures that fit into one call; less than the manager's where memory ran short."""

    combined: tuple[str, ...]
    """For each row, in words, what was combined: `6·preferred(prompt) − 5·dispreferred(proxy)`."""
