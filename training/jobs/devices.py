"""Which of this machine's devices a training gets."""

import os
from collections.abc import Mapping

from chats.errors import UserError
from training.launch import Engine


def choose_devices(
    engine: Engine, *, wanted: str | None, available: Mapping[str, str], load: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the devices that a training gets: the wanted one, or those with the shortest queues.

    Args:
        engine: How its processes are started.
        wanted: A device by its name; none lets the queues decide.
        available: What `chats.devices.machine_devices` found.
        load: Runs that wait for each device or keep it.

    Raises:
        UserError: The machine does not have what is asked.
    """
    if engine.num_machines > 1:
        raise UserError(
            "The queue starts trainings on this machine only. Start one on several machines by "
            "hand: --dry-run prints the command."
        )
    if wanted is not None:
        return _checked(_wanted(wanted, engine, available), engine)
    gpus = [name for name in available if name.startswith("cuda:")]
    on_cpu = engine.on_cpu or _is_true(os.environ.get("ACCELERATE_USE_CPU"))
    if on_cpu or (engine.num_processes == 1 and not gpus):
        return _checked(("cpu",) if on_cpu else (next(iter(available)),), engine)
    if engine.num_processes > len(gpus):
        raise UserError(
            f"{engine.num_processes} processes need a GPU each, and this machine has "
            f"{len(gpus)}. Give fewer --num-processes and more optimizer.gradient_accumulation."
        )
    return tuple(sorted(gpus, key=lambda name: load.get(name, 0))[: engine.num_processes])


def device_variables(devices: tuple[str, ...]) -> dict[str, str]:
    """Return the environment that shows a training its devices and no others."""
    if "cpu" in devices:
        return {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    gpus = [name.removeprefix("cuda:") for name in devices if name.startswith("cuda:")]
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}


def _wanted(name: str, engine: Engine, available: Mapping[str, str]) -> tuple[str, ...]:
    if name not in available:
        known = ", ".join(available)
        raise UserError(f"This machine has no device {name!r}; it has {known}.")
    if engine.num_processes > 1 and name != "cpu":
        raise UserError(f"{engine.num_processes} processes need a GPU each: leave out --device.")
    return (name,)


def _checked(devices: tuple[str, ...], engine: Engine) -> tuple[str, ...]:
    """Refuse what would drown the machine: each process holds the models once more."""
    most = max(os.cpu_count() or 1, 2)
    if devices == ("cpu",) and engine.num_processes > most:
        raise UserError(
            f"{engine.num_processes} processes can't share the CPU, which has {os.cpu_count()} "
            f"cores. Give --num-processes {most} at most."
        )
    return devices


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on")
