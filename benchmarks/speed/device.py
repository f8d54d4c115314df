"""The device that is measured: what lies on it, how much it holds, and what it is."""

from __future__ import annotations

import datetime
import gc
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import psutil
import torch


def place(
    needed: Sequence[torch.nn.Module], others: Sequence[torch.nn.Module], device: Any
) -> None:
    """Move what is not needed off the device, then what is onto it."""
    wanted = {id(each) for each in needed}
    for module in others:
        if id(module) not in wanted:
            module.to("cpu")
    for module in needed:
        module.to(device)
    free_memory()


def free_memory() -> None:
    """Give back to the device what nobody holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def begin_memory() -> None:
    """Forget the most that was in use."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def memory_gb() -> float:
    """Return the most that was in use on the GPU since `begin_memory`; else the process's own."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return psutil.Process().memory_info().rss / 1e9


def wait() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def this_device() -> torch.device:
    """Return where all of it runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        device = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    libraries = ("torch", "diffusers", "transformers", "accelerate", "peft")
    return {
        "device": device,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "date": datetime.date.today().isoformat(),
    }
