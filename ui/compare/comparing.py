"""One comparison as a stream of views: what the board and the status line show at each moment."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from chats.config import GenerationConfig
from chats.errors import DeviceBusyError, UserError
from chats.generation.events import ImagesEvent, StepEvent
from ui.compare.board import Board, lay_out, with_images, with_previews
from ui.compare.cards import Status
from ui.services import ModelChoice, Services
from ui.stopping import STOPPED

logger = logging.getLogger(__name__)

STOPPING = "Stopping…"
NO_PAIR = "There is no preference pair, and every method that is chosen needs one."


@dataclass(frozen=True)
class View:
    """The board and the line above it."""

    board: Board
    status: Status


def compare(
    services: Services,
    config: GenerationConfig,
    *,
    model: ModelChoice,
    before: Board,
    reuse: bool,
    ticket: threading.Event,
    is_current: Callable[[], bool],
    on_cpu: bool = False,
) -> Iterator[View]:
    """Make the pictures of `config` and show them as they come.

    Args:
        services: where pictures come from.
        config: all rows of the board, also those that lack a pair.
        model: the model that `config` names.
        before: what the board shows now.
        reuse: keep finished pictures that would come out the same, as a moved slider wants.
        ticket: ends the run within one step when it is set.
        is_current: false once newer settings have taken this run's place; then it ends silently.
        on_cpu: make them on the CPU though there is a GPU.
    """
    board = lay_out(config, model=model, reuse=before if reuse else None)
    pending = board.pending()
    if not pending:
        yield _nothing_to_do(board)
        return
    request = config.model_copy(update={"rows": tuple(config.rows[k] for k in pending)})
    board = replace(board, state="running")
    yield View(board, Status("busy", _opening(services)))
    step: StepEvent | None = None
    generate = (on_cpu and services.generate_on_cpu) or services.generate
    try:
        for event in generate(request, ticket):
            if isinstance(event, ImagesEvent):
                board = with_images(board, pending, event)
                yield View(board, _done(event))
                return
            step = event
            board = with_previews(board, pending, event.previews)
            yield View(board, _progress(event))
        if is_current():
            yield View(replace(board, state="stopped"), _stopped(step))
    except DeviceBusyError as error:
        yield View(replace(board, state="failed"), _busy(error, services))
    except UserError as error:
        yield View(replace(board, state="failed"), Status("error", str(error)))
    except Exception as error:
        logger.exception("A comparison failed")
        text = f"The pictures could not be made: {type(error).__name__}: {error}"
        detail = "Your settings are kept; the server's log has the details."
        yield View(replace(board, state="failed"), Status("error", text, detail))


def _nothing_to_do(board: Board) -> View:
    if all(cell.state == "missing" for cell in board.cells):
        return View(replace(board, state="failed"), Status("error", NO_PAIR))
    return View(replace(board, state="done"), Status("done", "Done.", "Nothing had to change."))


def _opening(services: Services) -> str:
    status = services.status()
    return "Starting…" if status.state == "ready" else status.text


def _progress(event: StepEvent) -> Status:
    detail = f"{event.elapsed_seconds:.1f} s so far"
    if event.step < event.num_steps:
        detail += f", about {_duration(event.eta_seconds)} to go"
    return Status(
        "busy",
        f"Step {event.step} of {event.num_steps}",
        detail,
        fraction=event.step / event.num_steps,
    )


def _done(event: ImagesEvent) -> Status:
    num = len(event.images)
    pictures = "1 picture" if num == 1 else f"{num} pictures"
    detail = f"{pictures} in {_duration(event.seconds)}, {event.config.num_steps} steps"
    return Status("done", "Done.", detail, notices=tuple(event.notices))


def _busy(error: DeviceBusyError, services: Services) -> Status:
    if services.generate_on_cpu is None:
        return Status("error", str(error))
    text = str(error).replace(", or stop it in Runs.", ", stop it in Runs, or use the CPU.")
    return Status("error", text, offers_cpu=True)


def _stopped(step: StepEvent | None) -> Status:
    if step is None:
        return Status("stopped", STOPPED, "No step was taken.")
    return Status(
        "stopped",
        STOPPED,
        f"The pictures are as they were after step {step.step} of {step.num_steps}.",
        fraction=step.step / step.num_steps,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
