"""What starts trainings: this machine, or another queue such as a cluster's.

A launcher keeps nothing in memory. What it calls a job stands in the run's job.json, and `list`
finds again what it started and nobody wrote down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from training.jobs.reading import LogChunk
from training.jobs.workspace import JobFolder
from training.launch import Engine


@dataclass(frozen=True)
class Report:
    """What a launcher knows of a job.

    Attributes:
        is_alive: Whether it waits, begins or runs.
        reason: Why it waits, if the run's status.json can't say.
    """

    is_alive: bool
    reason: str = ""


class Launcher(Protocol):
    """Starts trainings somewhere, each from its run directory."""

    def devices(
        self,
        engine: Engine,
        *,
        wanted: str | None,
        before: tuple[str, ...],
        load: Mapping[str, int],
    ) -> tuple[str, ...]:
        """Return the devices of this machine that a training will keep; none for other machines.

        Args:
            engine: How its processes are started.
            wanted: A device by its name; none lets the launcher decide.
            before: Devices that the training had, to be kept if they are still there.
            load: Runs that wait for each device or keep it.

        Raises:
            UserError: What is asked is not there.
        """

    def submit(self, folder: JobFolder) -> str:
        """Start the training of a queued run, or put it into the launcher's own queue.

        Returns at once; what it returns is the launcher's name for it.

        Raises:
            UserError: It can't be started.
        """

    def poll(self, folder: JobFolder) -> Report:
        """Say whether a run's training lives; asked often, so it has to be quick."""

    def cancel(self, folder: JobFolder, *, force: bool) -> None:
        """Ask a run's training to save and end, or end it and all of its processes by force."""

    def logs(self, folder: JobFolder, *, offset: int | None, max_bytes: int) -> LogChunk:
        """Read what its processes printed; see `training.jobs.reading.read_log`."""

    def list(self) -> Mapping[str, str]:
        """Return what it started and still lives: its own names by the ids of the runs."""
