"""GPUs that a Hugging Face Space borrows for one request at a time (ZeroGPU).

PyPI's package `spaces` lends them: imported before CUDA starts, it lets models be placed on a GPU
that is not there yet, and runs what it decorates in a forked process that has one. Arguments and
results are pickled on the way; of an error only the name of its class comes back.
"""

import contextlib
import importlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from chats.config import GenerationConfig
from chats.denoising.methods import terms
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.models.choices import ModelChoice

Generate = Callable[[GenerationConfig, threading.Event], Iterator[StepEvent | ImagesEvent]]

MAX_SECONDS = 120
"""A visitor's GPU time of a day is a few minutes: no request may take all of it."""

_SECONDS_FOR_WEIGHTS = 20.0
"""Until the weights are on the GPU, and for encoding and decoding."""
_SECONDS_PER_FORWARD = 0.06
"""For one row of a megapixel: SDXL's 6.8 TFLOP at a third of what half an H200 can do, rounded up;
an estimate, for nobody has measured it there."""
_MEGAPIXEL = 1024 * 1024
_NOT_INSTALLED = (
    "This Space borrows GPUs, but the package spaces is not installed. Add spaces to "
    "requirements.txt."
)


@dataclass(frozen=True)
class _Refusal:
    """What a UserError said in the process that has the GPU."""

    text: str


def is_zerogpu(environment: Mapping[str, str]) -> bool:
    """Say whether this is a Space that borrows GPUs."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def find_lender(environment: Mapping[str, str]) -> ModuleType | None:
    """Return the package that lends GPUs; none elsewhere, whether it is installed or not.

    Must be called before CUDA starts.

    Raises:
        UserError: GPUs are to be borrowed here, but the package is not installed or is damaged.
    """
    if not is_zerogpu(environment):
        return None
    try:
        lender = importlib.import_module("spaces")
    except ModuleNotFoundError as error:
        if error.name != "spaces":
            raise UserError(_fails(error)) from error
        raise UserError(_NOT_INSTALLED) from None
    except Exception as error:  # it looks at torch and at the environment while it is imported
        raise UserError(_fails(error)) from error
    if lender.__file__ is None:  # the plain folder that a checkout has
        raise UserError(_NOT_INSTALLED)
    return lender


def lent(generate: Generate, *, lender: ModuleType, model: ModelChoice) -> Generate:
    """Return `generate` as something that borrows a GPU for each request.

    Args:
        generate: makes pictures, in a process that has a GPU; its model was placed beforehand.
        lender: what `find_lender` returned.
        model: says what a request leaves open.
    """
    from gradio import Error  # gradio must not be imported before its folder is set

    @lender.GPU(duration=lambda config: round(seconds_needed(config, model=model)))
    def on_gpu(config: GenerationConfig) -> Iterator[StepEvent | ImagesEvent | _Refusal]:
        try:
            yield from generate(config, threading.Event())
        except UserError as error:
            yield _Refusal(str(error))

    def generate_on_gpu(
        config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        _check_time(config, model=model)
        try:
            with contextlib.closing(on_gpu(config)) as events:
                for event in events:
                    if isinstance(event, _Refusal):
                        raise UserError(event.text)
                    if cancel.is_set():
                        return
                    yield event
        except Error as error:
            raise UserError(f"No GPU could be had: {_plain(error.message)}") from error

    return generate_on_gpu


def seconds_needed(config: GenerationConfig, *, model: ModelChoice) -> float:
    """Estimate how long a GPU is needed: it follows steps × forwards × size."""
    num_forwards = sum(len(terms(row.method, row.scale, row.alpha)) for row in config.rows)
    width = config.width or model.width or 1024
    height = config.height or model.height or 1024
    size = width * height / _MEGAPIXEL
    num_steps = config.num_steps or model.num_steps
    return _SECONDS_FOR_WEIGHTS + num_steps * num_forwards * size * _SECONDS_PER_FORWARD


def _check_time(config: GenerationConfig, *, model: ModelChoice) -> None:
    needed = seconds_needed(config, model=model)
    if needed > MAX_SECONDS:
        raise UserError(
            f"These pictures need a GPU for about {needed:.0f} seconds; this Space lends one for "
            f"{MAX_SECONDS} at most. Lower the steps, the size or the number of pictures."
        )


def _fails(error: Exception) -> str:
    return f"The package spaces, which lends GPUs here, fails: {error}"


def _plain(message: str) -> str:
    return re.sub(r"<[^>]*>", "", message).strip() or "no reason was given."
