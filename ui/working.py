"""Long work of the page in a thread, followed as a stream; closing the stream ends it."""

import threading
from collections.abc import Callable, Generator
from typing import Any

from training.progress import OnProgress, Progress
from ui.compare.cards import Status, render_status

POLL_SECONDS = 0.25


class _CancelledError(Exception):
    """Nobody waits for the work any more."""


def followed(
    work: Callable[[OnProgress], Any], *, outlives_page: bool = False
) -> Generator[Progress, None, Any]:
    """Yield how far the work is from time to time; return what it returns, raise what it raises.

    Args:
        work: The work; it calls what it is given, now and then.
        outlives_page: Whether it goes on when nobody follows it any more.
    """
    latest: list[Progress] = []
    outcome: dict[str, Any] = {}
    cancel = threading.Event()

    def on_progress(progress: Progress) -> None:
        if cancel.is_set():
            raise _CancelledError
        latest[:] = [progress]

    def run() -> None:
        try:
            outcome["result"] = work(on_progress)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="data", daemon=True)
    thread.start()
    shown = None
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if latest and latest[0] is not shown:
                shown = latest[0]
                yield shown
    finally:
        if not outlives_page:
            cancel.set()
            thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def status_of(progress: Progress) -> Status:
    """Say how far it is, in words and as a bar."""
    of = f" of {progress.total:,}" if progress.total else ""
    fraction = min(1.0, progress.done / progress.total) if progress.total else None
    return Status("busy", f"{progress.done:,}{of} {progress.doing}", fraction=fraction)


def rendered(stream: Generator[Progress, None, Any]) -> Generator[str, None, Any]:
    """Turn progress into status lines; return what the stream returns."""
    try:
        while True:
            try:
                yield render_status(status_of(next(stream)))
            except StopIteration as end:
                return end.value
    finally:
        stream.close()
