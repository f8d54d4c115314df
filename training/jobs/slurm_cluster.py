"""What a Slurm cluster is asked for, and the programs by which it is asked."""

import subprocess

from pydantic import Field

from chats.config import FrozenSettings
from chats.errors import UserError

_ASK_SECONDS = 30


class SlurmSettings(FrozenSettings):
    """A training as a batch job of Slurm."""

    partition: str | None = None
    """Partition; none means the cluster's default."""

    account: str | None = None
    """Account that is charged; none means the user's default."""

    qos: str | None = None
    """Quality of service; none means the default."""

    hours: float = Field(24.0, gt=0)
    """Slurm ends it after so long; it can then be resumed."""

    gpus_per_node: int = Field(1, ge=0)
    """GPUs; the engine's processes must be as many."""

    cpus: int = Field(8, ge=1)
    """CPU cores."""

    memory_gb: int = Field(64, ge=1)
    """Main memory."""


def rows(columns: str) -> tuple[str, ...]:
    """Return the arguments of squeue for rows of columns such as `%i %j`."""
    return "--noheader", "--format", columns


def ask(*command: str) -> str:
    """Run one of Slurm's programs and return what it printed.

    Raises:
        UserError: It is not installed, fails, or does not answer.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on this machine: it belongs to no cluster.") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip() or f"exit status {error.returncode}"
        raise UserError(f"{command[0]}: {said}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} has not answered for {_ASK_SECONDS} seconds.") from None
    return done.stdout
