"""Ends a count on tensors without content when its answer is no longer wanted."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode


class StoppedError(Exception):
    """The work was ended on request."""


@contextlib.contextmanager
def stopped_by(event: threading.Event) -> Iterator[None]:
    """End what is computed within as soon as the event is set: each operation of torch looks.

    Raises:
        StoppedError: The event was set.
    """
    with _Watch(event):
        yield


class _Watch(TorchFunctionMode):
    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._event.is_set():
            raise StoppedError
        return function(*args, **(kwargs or {}))
