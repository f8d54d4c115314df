"""Memory reports for a page that asks with every change: one at a time, none twice.

Torch is imported with the first.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from training.config import TrainingConfig
from training.launch import Engine
from training.planning.estimate import MemoryReport

_MAX_KNOWN = 100


class EstimateSupersededError(Exception):
    """Nobody waits for this estimate any more."""


class MemoryCounts:
    """Counts what trainings would hold."""

    def __init__(self, open_libraries: Callable[[], None]) -> None:
        """Take what imports torch, and what stands on it, where other threads may do so too."""
        self._open_libraries = open_libraries
        self._counting = threading.Lock()
        self._known: dict[tuple[str, Engine], MemoryReport] = {}

    def report(
        self, config: TrainingConfig, engine: Engine, cancel: threading.Event
    ) -> MemoryReport:
        """Count, after those before; ends soon after `cancel` is set.

        Raises:
            UserError: The base model is not there, or can't be trained with these settings.
            EstimateSupersededError: `cancel` was set.
        """
        settings = config.model_dump_json(exclude={"data": {"path", "cache"}, "run": {"output"}})
        key = (settings, engine)
        with self._turn(cancel):
            if key not in self._known:
                self._open_libraries()
                from training.planning.dry_run import memory_report
                from training.planning.stopping import StoppedError, stopped_by

                try:
                    with stopped_by(cancel):
                        found = memory_report(config, engine)
                except StoppedError:
                    raise EstimateSupersededError from None
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[key] = found
            return self._known[key]

    @contextlib.contextmanager
    def _turn(self, cancel: threading.Event) -> Iterator[None]:
        while not self._counting.acquire(timeout=0.1):
            if cancel.is_set():
                raise EstimateSupersededError
        try:
            if cancel.is_set():
                raise EstimateSupersededError
            yield
        finally:
            self._counting.release()
