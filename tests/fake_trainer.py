"""Stands in for `python -m training --config FILE`: takes its turn and counts steps, without torch.

FAKE_TRAINER in the environment says how it behaves: `slow` steps take 0.1 s, `stubborn` ones hear
no signal and a child in a session of its own does neither, `broken` ends before it begins.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from chats.errors import UserError
from training.config import load_training_config
from training.jobs.turn import NotNowError, turn
from training.run import EXIT_STOPPED, RunDirectory


def main() -> int:
    """Count from the step that a trainer before came to."""
    kind = os.environ.get("FAKE_TRAINER", "")
    if kind == "broken":
        sys.exit("No module named 'torch'")
    config = load_training_config(Path(sys.argv[-1]))
    run = RunDirectory(config.run.output)
    try:
        with turn(run.path):
            _train(run, kind=kind, num_steps=config.optimizer.num_steps)
    except NotNowError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_STOPPED
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _train(run: RunDirectory, *, kind: str, num_steps: int) -> None:
    with (run.path / "begun.txt").open("a") as file:
        file.write(f"{os.getpid()} {time.time()}\n")
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    with run.hold():
        for step in range(run.stored_status().step + 1, num_steps + 1):
            time.sleep(0.1 if kind else 0)
            run.append_metrics({"step": step, "loss": 1 / step, "pairs_per_second": 80.0})
            run.update_status(step=step)
        run.update_status(state="succeeded", exit_code=0)


if __name__ == "__main__":
    sys.exit(main())
