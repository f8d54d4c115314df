"""Memory of a device: how much there is, what work took, and when it ran out."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

_SHARE_FOR_USE = {"cuda": 0.95, "mps": 0.9, "cpu": 0.8}
"""The rest is for the system, the allocator's gaps and, on the CPU, for other programs."""


@dataclass(frozen=True)
class Memory:
    """The memory of a device in bytes."""

    total_bytes: int
    used_bytes: int
    """By all programs."""


def device_memory(device: torch.device) -> Memory:
    """Return how much memory a device has and how much of it is used."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total_bytes=total, used_bytes=total - free)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return Memory(total_bytes=total, used_bytes=torch.mps.driver_allocated_memory())
    main = psutil.virtual_memory()
    return Memory(total_bytes=main.total, used_bytes=main.total - main.available)


def budget_of(device: torch.device) -> int:
    """Return the bytes that models may take on a device, whose other programs keep theirs."""
    memory = device_memory(device)
    share = _SHARE_FOR_USE.get(device.type, 0.8)
    return int((memory.total_bytes - memory.used_bytes) * share)


def free_memory() -> None:
    """Give the memory of what was dropped back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    is_of_torch = isinstance(error, RuntimeError)
    return is_of_torch and ("can't allocate memory" in text or "out of memory" in text)


class WorkingMemory:
    """What work on pictures takes beside the weights, learned from what it took before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._most: dict[str, float] = {}  # bytes for each pixel of each row, by family

    def expected_bytes(self, family: str, *, num_pixels: int, num_rows: int) -> int:
        """Return what rows of a size will take; 0 while nothing is known of the family.

        Args:
            family: the model's family.
            num_pixels: of one picture.
            num_rows: that denoise at once.
        """
        with self._lock:
            return int(self._most.get(family, 0.0) * num_pixels * num_rows)

    def learn(self, family: str, *, num_pixels: int, num_rows: int, num_bytes: int) -> None:
        """Take note of what work took; the most that was ever seen counts."""
        with self._lock:
            found = num_bytes / (num_pixels * num_rows)
            self._most[family] = max(found, self._most.get(family, 0.0))

    @contextmanager
    def measured(self, family: str, *, num_pixels: int, num_rows: int) -> Iterator[None]:
        """Learn what the work within takes, where the device can tell (CUDA)."""
        if self._device.type != "cuda":
            yield
            return
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        num_bytes = torch.cuda.max_memory_allocated(self._device) - before
        self.learn(family, num_pixels=num_pixels, num_rows=num_rows, num_bytes=num_bytes)
