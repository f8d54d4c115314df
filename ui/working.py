"""Long work of the page in a thread, followed as a stream; closing the stream ends it."""

import threading
from collections.abc import Callable, Generator
from typing import Any

from training.progress import OnProgress, Progress

POLL_SECONDS = 0.25


class _CancelledError(Exception):
    """Nobody waits for the work any more."""


def followed(work: Callable[[OnProgress], Any]) -> Generator[Progress, None, Any]:
    """Yield how far the work is from time to time; return what it returns, raise what it raises."""
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
        cancel.set()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
