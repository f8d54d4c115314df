"""Answers that are asked for with every key that is pressed, and cost a look at the disk."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

_SECONDS = 5.0
Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """An answer that may be some seconds old."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._kept: tuple[float, Answer] | None = None

    def get(self) -> Answer:
        """Return it as it was some seconds ago at most."""
        kept = self._kept
        is_old = kept is None or time.monotonic() - kept[0] > _SECONDS
        return self.renewed() if is_old else kept[1]

    def renewed(self) -> Answer:
        """Return it as it is now."""
        answer = self._ask()
        self._kept = (time.monotonic(), answer)
        return answer
