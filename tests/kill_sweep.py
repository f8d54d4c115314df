"""Run a sweep of a tiny model and kill this process hard while the second call is written down.

    python -m tests.kill_sweep FOLDER

FOLDER holds `sweep`, begun by the test; its third picture of the second call is the last one.
"""

import os
import signal
import sys
from pathlib import Path

from chats.generation.generate import generate
from chats.models.manager import ModelManager
from chats.sweeps import folder as folders
from chats.sweeps.folder import SweepFolder
from chats.sweeps.run import run_sweep
from tests.sweeping import Brightness


def main() -> None:
    """Make calls until the second one has half its pictures on the disk."""
    sweep = SweepFolder.open(Path(sys.argv[1]) / "sweep")
    write, num_left = folders._write_durably, [7]

    def write_some(path: Path, content: bytes) -> None:
        num_left[0] -= 1
        if not num_left[0]:
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    folders._write_durably = write_some
    manager = ModelManager(device="cpu")
    for _ in run_sweep(
        sweep,
        generate=lambda config, cancel: generate(manager, config, cancel=cancel),
        judge=Brightness(),
    ):
        pass


if __name__ == "__main__":
    main()
