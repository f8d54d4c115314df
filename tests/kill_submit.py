"""Submits in forked children that are killed, each in a workspace of its own.

    python -m tests.kill_submit FOLDER NUMBER

Child N of NUMBER is killed at file operation 3·N − 2 (an audit hook counts them), the last one as
its launcher answers.
"""

import os
import signal
import sys
from pathlib import Path

from tests.job_queue import Cluster, make_config
from training.jobs.console import JobConsole, JobSettings


class _DyingCluster(Cluster):
    def submit(self, folder):
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Leave a folder for each child."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    for each in range(1, number + 1):
        is_last = each == number
        child = os.fork()
        if child == 0:
            workspace = folder / str(each)
            settings = JobSettings(workspace=workspace)
            cluster = _DyingCluster() if is_last else Cluster()
            console = JobConsole(settings, launchers={"here": cluster})
            if not is_last:
                die_after(3 * each - 2, folder=str(workspace))
            console.submit(make_config())
            os._exit(0)
        os.waitpid(child, 0)


def die_after(operations: int, *, folder: str) -> None:
    """Kill this process when it opens, moves or makes so many files in a folder."""
    left = operations

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir") and folder in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    main()
