"""Loads batches in a thread of its own, a few ahead, so that the loop does not wait for them."""

import queue
import threading
from collections.abc import Iterator
from types import TracebackType

import torch

from training.data.batches import Unfinished

_NUM_AHEAD = 3
_POLL_SECONDS = 0.1


class BatchLoader:
    """A training's batches in their order; leaving the context ends its thread."""

    def __init__(self) -> None:
        """Make it; nothing is loaded before `start`."""
        self._loaded: queue.Queue[Unfinished | BaseException] = queue.Queue(_NUM_AHEAD)
        self._is_over = threading.Event()
        self._is_alone = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, batches: Iterator[Unfinished]) -> None:
        """Begin to load; once.

        The thread gets no others to help it: two such groups on the same cores wait for each other
        in turns, which halved the speed of a training on the CPU.
        """
        num_threads = torch.get_num_threads()
        self._thread = threading.Thread(
            target=self._load, args=(batches,), name="load batches", daemon=True
        )
        self._thread.start()
        self._is_alone.wait()
        torch.set_num_threads(num_threads)  # for threads to come; this one's own never changed

    def next(self) -> Unfinished:
        """Wait for the next batch, if it is not there yet, and return it.

        Raises:
            UserError: The data can't be read.
        """
        loaded = self._loaded.get()
        if isinstance(loaded, BaseException):
            raise loaded
        return loaded

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(_POLL_SECONDS * 50)  # not for ever: it may wait for the network

    def _load(self, batches: Iterator[Unfinished]) -> None:
        torch.get_num_threads()  # torch sets a thread's number when it first asks: not after this
        torch.set_num_threads(1)
        self._is_alone.set()
        try:
            for batch in batches:
                if not self._hand_over(batch):
                    break
        except BaseException as error:  # the loop raises it
            self._hand_over(error)

    def _hand_over(self, loaded: Unfinished | BaseException) -> bool:
        """Wait for a place; returns whether anybody still wants it."""
        while not self._is_over.is_set():
            try:
                self._loaded.put(loaded, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
