"""Requests for pictures and trainings on one device, in turn. No torch here."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chats.devices import DeviceLock
from chats.errors import DeviceBusyError, UserError

_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.2
"""How often a lock that other programs may hold is tried."""


@dataclass(frozen=True)
class DeviceShare:
    """With whom a device is shared."""

    title: str = "the device"
    """How people call the device."""
    lock: DeviceLock | None = None
    """The lock that a training on it holds; none where both may run at the same time."""
    used_by: Callable[[], str | None] = lambda: None
    """Says in words which training runs on the device; none if none does."""


class DeviceTurns:
    """Lets one request at a time use a device, and none while a training uses it."""

    def __init__(self, share: DeviceShare) -> None:
        self.execution_lock = threading.Lock()
        """Held by the one request that runs on the device."""
        self._share = share

    @contextmanager
    def turn(self, cancel: threading.Event) -> Iterator[bool]:
        """Wait for the device and keep it; gives false if `cancel` was set before it was free.

        Raises:
            DeviceBusyError: a training uses the device; says which.
        """
        if not self._wait_for_other_requests(cancel):
            yield False
            return
        try:
            is_ours = self._wait_for_other_programs(cancel)
            try:
                yield is_ours
            finally:
                if is_ours and self._share.lock is not None:
                    self._share.lock.device.release()
        finally:
            self.execution_lock.release()

    @contextmanager
    def if_wanted_elsewhere(self) -> Iterator[bool]:
        """Say whether a training has the device or is next; no request begins meanwhile."""
        if not self.execution_lock.acquire(blocking=False):
            yield False
            return
        try:
            yield self.is_kept()
        finally:
            self.execution_lock.release()

    def is_kept(self) -> bool:
        """Whether another program uses the device, or is next."""
        lock = self._share.lock
        return lock is not None and not lock.device.is_locked and lock.is_kept()

    def _wait_for_other_requests(self, cancel: threading.Event) -> bool:
        while not cancel.is_set():
            if self.execution_lock.acquire(timeout=_POLL_SECONDS):
                return True
        return False

    def _wait_for_other_programs(self, cancel: threading.Event) -> bool:
        while not cancel.is_set():
            if self._is_free():
                return True
            if training := self._share.used_by():
                raise DeviceBusyError(
                    f"{_capitalised(self._share.title)} is used by {training}. Wait until it has "
                    "ended, or stop it in Runs."
                )
            time.sleep(_LOOK_SECONDS)
        return False

    def _is_free(self) -> bool:
        try:
            return self._share.lock is None or self._share.lock.take()
        except OSError as error:
            raise UserError(
                f"The lock of {self._share.title} can't be taken: {error.strerror or error}. "
                "Make the workspace a folder that can be written to."
            ) from None


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
