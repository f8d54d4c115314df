"""Things that are costly to load, kept while they are used and as long as the budget allows.

What is leased is never evicted; of the rest, the least recently used goes first. Knows nothing of
models: it keeps any value under any key, with the bytes that the caller says it takes.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chats.errors import UserError

# Process-wide, because loading a model patches torch's globals for its duration.
_LOAD_LOCK = threading.Lock()
_NUM_REMEMBERED = 20


@dataclass(frozen=True)
class Kept:
    """One value in the cache, as it is shown to people."""

    key: Hashable
    num_bytes: int
    num_leases: int


@dataclass(frozen=True)
class Evicted:
    """One value that was dropped, and why in words."""

    key: Hashable
    num_bytes: int
    reason: str


@dataclass
class _Slot:
    value: Any
    num_bytes: int
    num_leases: int = 0


class LeaseCache:
    """Keep loaded values, and the memory that work takes beside them, within a budget of bytes.

    Nothing waits for memory: what does not fit is refused, so nothing can wait for ever.

    Args:
        budget_bytes: the most that all of it may take together; none means no limit.
        after_eviction: called when values were dropped, to give their memory back.
        is_out_of_memory: whether an error means that memory ran out.
    """

    def __init__(
        self,
        *,
        budget_bytes: int | None = None,
        after_eviction: Callable[[], None] = lambda: None,
        is_out_of_memory: Callable[[BaseException], bool] = lambda error: False,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._after_eviction = after_eviction
        self._is_out_of_memory = is_out_of_memory
        self._mutex = threading.RLock()
        self._slots: dict[Hashable, _Slot] = {}  # in the order of use, least recent first
        self._claimed_bytes = 0  # by loads under way, and by work
        self._evicted: deque[Evicted] = deque(maxlen=_NUM_REMEMBERED)

    @contextmanager
    def lease(
        self, key: Hashable, *, measure: Callable[[], int], load: Callable[[], Any]
    ) -> Iterator[Any]:
        """Lend the value under `key`, loading it first where it is not kept.

        Where memory runs out while it is loaded, all that nobody uses is dropped and it is tried
        once more.

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
                slot = None  # who evicts it must be the last that knows it

    @contextmanager
    def reserve(self, num_bytes: int) -> Iterator[None]:
        """Keep room for work beside the values, dropping what nobody uses.

        Raises:
            UserError: there is no such room beside what is leased; says the numbers.
        """
        self._claim(num_bytes, what="The work on these pictures")
        try:
            yield
        finally:
            self._unclaim(num_bytes)

    def room_bytes(self) -> int | None:
        """Bytes that would be free if nothing was kept that nobody uses; none means no limit."""
        with self._mutex:
            return None if self.budget_bytes is None else self.budget_bytes - self._in_use()

    def is_empty(self) -> bool:
        """Whether nothing is kept, loaded or worked on."""
        with self._mutex:
            return not self._slots and not self._claimed_bytes

    def kept(self) -> list[Kept]:
        """List what is kept, the most recently used last."""
        with self._mutex:
            return [
                Kept(key=key, num_bytes=slot.num_bytes, num_leases=slot.num_leases)
                for key, slot in self._slots.items()
            ]

    def evicted(self) -> list[Evicted]:
        """List what was dropped, the latest last."""
        with self._mutex:
            return list(self._evicted)

    def evict(self, key: Hashable, *, reason: str) -> bool:
        """Drop one value; say whether it was dropped (it is not while it is leased)."""
        with self._mutex:
            slot = self._slots.get(key)
            if slot is None or slot.num_leases:
                return False
            del slot
            self._drop([key], reason=reason)
            self._after_eviction()
        return True

    def evict_unused(self, *, reason: str) -> None:
        """Drop all that nobody uses, and give back what is left over of work that ended."""
        with self._mutex:
            self._drop(self._unused(), reason=reason)
            self._after_eviction()

    def _take(self, key: Hashable) -> _Slot | None:
        with self._mutex:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._slots[key] = slot
                slot.num_leases += 1
            return slot

    def _load(self, key: Hashable, *, num_bytes: int, load: Callable[[], Any]) -> _Slot:
        self._claim(num_bytes, what="This model")
        try:
            slot = _Slot(value=self._loaded(load), num_bytes=num_bytes, num_leases=1)
        except BaseException:
            self._unclaim(num_bytes)
            raise
        with self._mutex:
            self._claimed_bytes -= num_bytes
            self._slots[key] = slot
        return slot

    def _loaded(self, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except Exception as error:
            if not self._is_out_of_memory(error):
                raise
        self.evict_unused(reason="memory ran out while another was loaded")
        try:
            return load()
        except Exception as error:
            if not self._is_out_of_memory(error):
                raise
        self.evict_unused(reason="memory ran out while another was loaded")
        raise UserError(
            "Memory ran out while this model was loaded, though nothing else was kept that nobody "
            "uses. Other programs may use the device: end them, or choose a smaller model."
        )

    def _claim(self, num_bytes: int, *, what: str) -> None:
        """Set bytes aside; what must go for it is gone when this returns."""
        with self._mutex:
            if self.budget_bytes is not None:
                self._make_room(num_bytes, what=what)
            self._claimed_bytes += num_bytes

    def _unclaim(self, num_bytes: int) -> None:
        with self._mutex:
            self._claimed_bytes -= num_bytes

    def _make_room(self, num_bytes: int, *, what: str) -> None:
        in_use = self._in_use()
        if in_use + num_bytes > self.budget_bytes:
            raise UserError(
                f"{what} takes {_gb(num_bytes)} GB; the budget is {_gb(self.budget_bytes)} "
                f"GB, of which {_gb(in_use)} GB are in use. Wait until the running pictures are "
                "done, choose a smaller model, or raise the budget."
            )
        surplus = self._kept_bytes() + self._claimed_bytes + num_bytes - self.budget_bytes
        leaving = []
        for key in self._unused():
            if surplus > 0:
                surplus -= self._slots[key].num_bytes
                leaving.append(key)
        self._drop(leaving, reason=f"it made room for {_gb(num_bytes)} GB")
        if leaving:
            self._after_eviction()

    def _in_use(self) -> int:
        leased = sum(slot.num_bytes for slot in self._slots.values() if slot.num_leases)
        return leased + self._claimed_bytes

    def _kept_bytes(self) -> int:
        return sum(slot.num_bytes for slot in self._slots.values())

    def _unused(self) -> list[Hashable]:
        return [key for key, slot in self._slots.items() if not slot.num_leases]

    def _drop(self, keys: list[Hashable], *, reason: str) -> None:
        for key in keys:
            num_bytes = self._slots.pop(key).num_bytes
            self._evicted.append(Evicted(key=key, num_bytes=num_bytes, reason=reason))


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f}"
