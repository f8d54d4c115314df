"""Things that are costly to load, kept while they are used and as long as the budget allows.

What is leased is never evicted; of the rest, the least recently used goes first. Knows nothing of
models: it keeps any value under any key, with the bytes that the caller says it takes.
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chats.errors import UserError

# Process-wide, because loading a model patches torch's globals for its duration.
_LOAD_LOCK = threading.Lock()


@dataclass(frozen=True)
class Kept:
    """One value in the cache, as it is shown to people."""

    key: Hashable
    num_bytes: int
    num_leases: int


@dataclass
class _Slot:
    value: Any
    num_bytes: int
    num_leases: int = 0


class LeaseCache:
    """Keep loaded values within a budget of bytes.

    Args:
        budget_bytes: the most that all values may take together; none means no limit.
        after_eviction: called when values were dropped, to give their memory back.
    """

    def __init__(
        self, *, budget_bytes: int | None = None, after_eviction: Callable[[], None] = lambda: None
    ) -> None:
        self._budget_bytes = budget_bytes
        self._after_eviction = after_eviction
        self._mutex = threading.Lock()
        self._slots: dict[Hashable, _Slot] = {}  # in the order of use, least recent first

    @contextmanager
    def lease(
        self, key: Hashable, *, measure: Callable[[], int], load: Callable[[], Any]
    ) -> Iterator[Any]:
        """Lend the value under `key`, loading it first where it is not kept.

        Args:
            key: what names the value.
            measure: says how many bytes the value will take; called before `load`.
            load: makes the value.

        Raises:
            UserError: the value does not fit beside what is leased; says the numbers.
        """
        slot = self._take(key)
        if slot is None:
            with _LOAD_LOCK:
                slot = self._take(key) or self._load(key, num_bytes=measure(), load=load)
        try:
            yield slot.value
        finally:
            with self._mutex:
                slot.num_leases -= 1

    def kept(self) -> list[Kept]:
        """List what is kept, the most recently used last."""
        with self._mutex:
            return [
                Kept(key=key, num_bytes=slot.num_bytes, num_leases=slot.num_leases)
                for key, slot in self._slots.items()
            ]

    def evict(self, key: Hashable) -> bool:
        """Drop one value; say whether it was dropped (it is not while it is leased)."""
        with self._mutex:
            slot = self._slots.get(key)
            if slot is None or slot.num_leases:
                return False
            del self._slots[key]
        del slot
        self._after_eviction()
        return True

    def _take(self, key: Hashable) -> _Slot | None:
        with self._mutex:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._slots[key] = slot
                slot.num_leases += 1
            return slot

    def _load(self, key: Hashable, *, num_bytes: int, load: Callable[[], Any]) -> _Slot:
        self._make_room(num_bytes)
        slot = _Slot(value=load(), num_bytes=num_bytes, num_leases=1)
        with self._mutex:
            self._slots[key] = slot
        return slot

    def _make_room(self, num_bytes: int) -> None:
        if self._budget_bytes is None:
            return
        kept = self.kept()
        self._refuse_if_over(num_bytes, in_use=sum(k.num_bytes for k in kept if k.num_leases))
        used = sum(item.num_bytes for item in kept)
        for item in kept:
            if used + num_bytes <= self._budget_bytes:
                return
            if self.evict(item.key):
                used -= item.num_bytes
        self._refuse_if_over(num_bytes, in_use=used)

    def _refuse_if_over(self, num_bytes: int, *, in_use: int) -> None:
        if in_use + num_bytes > self._budget_bytes:
            raise UserError(
                f"This model takes {_gb(num_bytes)} GB; the budget is {_gb(self._budget_bytes)} "
                f"GB, of which {_gb(in_use)} GB are in use. Wait until the running pictures are "
                "done, choose a smaller model, or raise the budget."
            )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f}"
