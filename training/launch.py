"""How a training's processes are started: an engine is a config file of accelerate.

This module imports no torch, so that a page that starts trainings opens at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chats.errors import UserError

ENGINES = Path(__file__).parent / "engines"


@dataclass(frozen=True)
class Engine:
    """How processes are started.

    Attributes:
        path: A config file of accelerate; none starts one process without it.
        num_processes: On all machines together.
        num_machines: Each of them is given the command.
        on_cpu: Whether a GPU is left alone.
        shares_out: Whether each process holds only a part of the models.
        shares_states: Whether it holds only a part of gradients and optimizer, but all weights.
    """

    path: Path | None = None
    num_processes: int = 1
    num_machines: int = 1
    on_cpu: bool = False
    shares_out: bool = False
    shares_states: bool = False


def list_engines() -> tuple[str, ...]:
    """Return the names of the engines that start all processes on one machine."""
    files = sorted(ENGINES.glob("*.yaml"))
    alone = [each for each in files if _read(each).get("num_machines", 1) == 1]
    return tuple(each.stem for each in alone)


def find_engine(name: str | None, *, num_processes: int | None) -> Engine:
    """Return an engine with as many processes as it would start.

    Args:
        name: A file of training/engines without its ending; none starts one process without it.
        num_processes: On all machines together; none means what the file says.

    Raises:
        UserError: There is no such engine, or the number of processes does not fit it.
    """
    if name is None:
        if num_processes not in (None, 1):
            raise UserError(
                "Without an engine there is one process. Give --engine ddp with --num-processes."
            )
        return Engine()
    path = ENGINES / f"{name}.yaml"
    if path not in ENGINES.glob("*.yaml"):
        known = ", ".join(sorted(each.stem for each in ENGINES.glob("*.yaml")))
        raise UserError(f"There is no engine {name!r}; the engines are {known}.")
    content = _read(path)
    number = num_processes or content.get("num_processes")
    if number is None:
        raise UserError(
            f"The engine {name} does not say how many GPUs there are. "
            "Give --num-processes, one for each GPU of all machines."
        )
    if content["distributed_type"] == "NO" and number > 1:
        raise UserError(f"The engine {name} starts one process. Choose ddp for more.")
    num_machines = content.get("num_machines", 1)
    if content["distributed_type"] != "NO" and (number < 2 or number % num_machines):
        raise UserError(
            f"The engine {name} can't start {number} processes on {num_machines} "
            "machines: each must get as many, and there must be at least two."
        )
    return Engine(
        path,
        number,
        num_machines,
        on_cpu=content.get("use_cpu", False),
        shares_out=content["distributed_type"] == "FSDP",
        shares_states=content["distributed_type"] == "DEEPSPEED",
    )


def launch_command(
    engine: Engine, arguments: Sequence[str], *, module: str = "training"
) -> list[str]:
    """Return the command that starts a module's processes, as a list of arguments.

    On several machines, RANK and ADDRESS stand for what each of them has to fill in.
    """
    if engine.path is None:
        return ["python", "-m", module, *arguments]
    command = ["accelerate", "launch", "--config_file", _shown(engine.path)]
    if engine.num_processes > 1:
        command += ["--num_processes", str(engine.num_processes)]
    if engine.num_machines > 1:
        command += ["--machine_rank", "RANK", "--main_process_ip", "ADDRESS"]
    return [*command, "-m", module, *arguments]


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
