"""Which data sets the queue needs: none of them may change under a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chats.errors import UserError
from training.jobs.console import JobConsole
from training.jobs.states import FINAL

_DOING = {"running": "runs on it", "stopping": "still runs on it"}


@contextmanager
def unused_data(console: JobConsole, folder: Path) -> Iterator[None]:
    """Let nobody start a training while a data set is changed or removed within.

    Raises:
        UserError: A run that waits or is trained needs the data set.
    """
    with console.unchanged():
        for run in console.list():
            if run.state not in FINAL and _path(console, run.id) == folder.resolve():
                raise UserError(
                    f"The data set {folder.name} can't be changed or deleted now: the run "
                    f"{run.id} {_DOING.get(run.state, 'waits for its turn on it')}. Stop that "
                    "run first, or let it finish."
                )
        yield


def _path(console: JobConsole, run_id: str) -> Path | None:
    try:
        return console.config(run_id).data.path.expanduser().resolve()
    except UserError:
        return None  # damaged: it can't be trained either
