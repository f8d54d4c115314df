"""The devices of this machine, found without torch, and the locks by which programs share them.

A device is called by one name everywhere: `cpu`, `mps`, or `cuda:` and a GPU's UUID.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from chats.errors import UserError

CPU = "cpu"
_ASK_SECONDS = 20


@dataclass(frozen=True)
class Device:
    """One device that models may run on."""

    name: str
    """How the programs of this machine call it."""
    title: str
    """How people call it."""
    torch_name: str | None
    """How torch calls it in this process; none lets torch choose."""

    @property
    def is_shared(self) -> bool:
        """Whether a training and pictures may use it at the same time."""
        return self.name == CPU


ON_CPU = Device(name=CPU, title="the CPU", torch_name="cpu")


@dataclass(frozen=True)
class DeviceLock:
    """The lock of a device and the door before it.

    Whoever uses the device holds `device`, and must hold `door` at the moment of taking it. A
    training that is next keeps the door until the device is free, so that pictures, which are made
    one request after the other, can't keep it out.
    """

    device: FileLock
    door: FileLock

    def take(self) -> bool:
        """Take the device if it is free and nobody is next; say whether it was."""
        if not taken(self.door):
            return False
        try:
            return taken(self.device)
        finally:
            self.door.release()

    def is_kept(self) -> bool:
        """Whether somebody uses the device, or is next."""
        probe = _lock_of(self.device.lock_file, self.door.lock_file)
        if not probe.take():
            return True
        probe.device.release()
        return False


def device_lock(folder: Path, device: str) -> DeviceLock:
    """Return the lock of a device among those of one workspace, which lie in `folder`."""
    name = device.replace("cuda:GPU-", "gpu-").replace("cuda:", "gpu-")
    return _lock_of(folder / f"{name}.lock", folder / f"{name}.next.lock")


def taken(lock: FileLock) -> bool:
    """Take a lock if it is free; say whether it was."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _lock_of(device: str | Path, door: str | Path) -> DeviceLock:
    # Not bound to a thread: what one thread of a server took another may have to give back.
    return DeviceLock(
        device=FileLock(device, thread_local=False), door=FileLock(door, thread_local=False)
    )


def machine_devices() -> dict[str, str]:
    """Return names and titles of the devices that trainings can have here, the best first.

    CUDA_VISIBLE_DEVICES narrows the GPUs, as it does for torch.
    """
    found = dict(_visible(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        found["mps"] = "the Apple GPU"
    return found | {CPU: "the CPU"}


def find_devices(wanted: str | None = None) -> tuple[Device, ...]:
    """Return the devices that pictures are made on: the wanted one, else all GPUs, else the CPU.

    Args:
        wanted: what torch calls it, such as `cuda:1`, in the order of the bus.

    Raises:
        UserError: this machine has no such device.
    """
    here = machine_devices()
    gpus = [name for name in here if name.startswith("cuda:")]
    found = [Device(name, here[name], f"cuda:{k}") for k, name in enumerate(gpus)]
    if "mps" in here:
        found.append(Device("mps", here["mps"], "mps"))
    if wanted is None:
        return tuple(found) or (Device(CPU, here[CPU], None),)
    if wanted == CPU:
        return (ON_CPU,)
    full = "cuda:0" if wanted == "cuda" else wanted
    if chosen := [each for each in found if each.torch_name == full]:
        return tuple(chosen)
    if not found and wanted.startswith("cuda"):
        return (Device(CPU, wanted, wanted),)  # torch may know what nvidia-smi could not tell
    known = ", ".join([*(each.torch_name for each in found), CPU])
    raise UserError(f"There is no device {wanted!r} here. There is: {known}.")


def _gpus() -> list[tuple[str, str]]:
    """Return the UUID and the title of every NVIDIA GPU, in the order of the bus."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.partition(",") for line in done.stdout.splitlines()]
    return [(uuid.strip(), name.strip()) for uuid, _, name in rows if uuid.startswith("GPU-")]


def _visible(gpus: list[tuple[str, str]], variable: str | None) -> list[tuple[str, str]]:
    """Keep what CUDA_VISIBLE_DEVICES lets through: numbers, or (the start of) UUIDs."""
    named = [(f"cuda:{uuid}", title) for uuid, title in gpus]
    if variable is None:
        return named
    found = []
    for entry in (each.strip() for each in variable.split(",")):
        if entry.isdecimal() and int(entry) < len(named):
            found.append(named[int(entry)])
        elif entry.startswith("MIG-"):
            found.append((f"cuda:{entry}", "a part of a GPU"))
        elif entry.startswith("GPU-"):
            found += [each for each in named if each[0].startswith(f"cuda:{entry}")]
        else:
            break  # CUDA stops at the first that it does not know
    return found
