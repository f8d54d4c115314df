"""A sweep under way as a stream: the line above the pictures, and when they have changed."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from chats.errors import UserError
from chats.sweeps.config import NO_SCORER, SweepConfig
from chats.sweeps.folder import SweepFolder
from chats.sweeps.run import SweepEvent, run_sweep
from ui.compare.cards import Status
from ui.services import Services
from ui.stopping import STOPPED

logger = logging.getLogger(__name__)

TELLS_EVERY_SECONDS = 0.25
KEPT = "What is made is kept: Start goes on from there."


@dataclass(frozen=True)
class SweepView:
    """What to show now."""

    status: Status
    is_running: bool
    folder: SweepFolder | None = None
    """The sweep, where its pictures are to be drawn again."""


def follow_sweep(
    services: Services, config: SweepConfig, *, ticket: threading.Event
) -> Iterator[SweepView]:
    """Make a sweep, or what is missing of it, and tell how far it is.

    Args:
        services: where pictures and scores come from.
        config: the sweep.
        ticket: ends the work within one step when it is set.
    """
    folder: SweepFolder | None = None
    try:
        folder = services.lab.store.create(config)
        yield SweepView(Status("busy", "Starting…"), is_running=True, folder=folder)
        if folder.num_done() < config.num_pictures:
            yield from _work(services, folder, ticket=ticket)
        yield SweepView(_end(folder), is_running=False, folder=folder)
    except UserError as error:
        yield SweepView(Status("error", str(error), _kept(folder)), False, folder)
    except Exception as error:
        logger.exception("A sweep failed")
        text = f"The sweep could not be made: {type(error).__name__}: {error}"
        yield SweepView(Status("error", text, _kept(folder)), False, folder)


def _work(
    services: Services, folder: SweepFolder, *, ticket: threading.Event
) -> Iterator[SweepView]:
    name = folder.config.scorer
    judge = None if name == NO_SCORER else services.lab.judge(name)
    told = 0.0
    events = run_sweep(folder, generate=services.generate, judge=judge, cancel=ticket)
    try:
        for event in events:
            now = time.monotonic()
            if event.call is not None or now - told >= TELLS_EVERY_SECONDS:
                told = now
                drawn = folder if event.call is not None else None
                yield SweepView(_progress(event), is_running=True, folder=drawn)
    finally:
        events.close()


def _progress(event: SweepEvent) -> Status:
    detail = f"about {_duration(event.eta_seconds)} to go" if event.eta_seconds else ""
    notices = event.call.notices if event.call else ()
    return Status(
        "busy",
        f"{event.num_done:,} of {event.num_pictures:,} pictures",
        detail,
        fraction=event.fraction,
        notices=notices,
    )


def _end(folder: SweepFolder) -> Status:
    calls = folder.calls()
    num_done, num_pictures = sum(call.count for call in calls), folder.config.num_pictures
    notices = tuple(dict.fromkeys(notice for call in calls for notice in call.notices))
    if num_done < num_pictures:
        detail = f"{num_done:,} of {num_pictures:,} pictures. {KEPT}"
        return Status("stopped", STOPPED, detail, num_done / num_pictures, notices)
    seconds = sum(call.seconds for call in calls)
    detail = f"{num_pictures:,} pictures in {len(calls)} calls, {_duration(seconds)}"
    return Status("done", "Done.", detail, notices=notices)


def _kept(folder: SweepFolder | None) -> str:
    return KEPT if folder is not None and folder.num_done() else "Your settings are kept."


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
