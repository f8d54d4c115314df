"""Trains again and again in forked children that are killed, until one comes to its end.

    python -m tests.kill_training CONFIG.json KILLS

Moments are drawn from a seed: each child is killed after a random number of file operations (an
audit hook counts them), so that many die in the middle of a save.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import torch

from tests.tiny import tiny_pipeline
from training.config import TrainingConfig
from training.data.encoded_pairs import encode_pairs
from training.loop.trainer import train_on
from training.preferences import read_pairs


def main() -> None:
    """Print how many children were killed before one finished."""
    torch.set_num_threads(1)
    config = TrainingConfig.model_validate_json(Path(sys.argv[1]).read_text())
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    dataset = encode_pairs(read_pairs(config.data.path), pipeline)
    wanted = int(sys.argv[2])
    rng = random.Random(0)
    kills = 0
    while True:
        # A step costs about 25 operations: a child gets on by one or two steps before its end.
        operations = rng.randint(20, 60) if kills < wanted else 10**9
        child = os.fork()
        if child == 0:
            _die_after(operations, folder=str(config.run.output))
            train_on(config, dataset, pipeline)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    sys.stdout.write(json.dumps({"kills": kills, "status": status}) + "\n")
    sys.exit(os.waitstatus_to_exitcode(status))


def _die_after(operations: int, *, folder: str) -> None:
    left = operations

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    main()
