"""The trainer's command line.

python -m training --config run.yaml --optimizer.learning-rate 1e-5
python -m training --config run.yaml --dry-run
python -m training export runs/first --output pairs/first --layout lora
python -m training push runs/first --repo owner/name --private
python -m training import build/pairs --workspace workspace
python -m training submit --config run.yaml
python -m training list
"""

import sys

from chats.errors import UserError
from training.commands import parse_arguments
from training.config import TrainingConfig
from training.jobs.turn import NotNowError, turn
from training.run import EXIT_STOPPED


def main() -> int:
    """Do as the command line says; what a person can mend is one message, not a traceback."""
    try:
        command = parse_arguments(sys.argv[1:])
        if isinstance(command, TrainingConfig):
            with turn(command.run.output):
                return _train(command)
        sys.stdout.write(f"{command.run()}\n")
    except NotNowError as error:
        return _fail(error, status=EXIT_STOPPED)
    except UserError as error:
        return _fail(error)
    return 0


def _train(config: TrainingConfig) -> int:
    from torch import OutOfMemoryError

    from training.loop.trainer import TrainingInterruptedError, TrainingStoppedError, train

    try:
        result = train(config)
    except TrainingStoppedError as error:
        return _fail(error)
    except TrainingInterruptedError as error:
        return _fail(error, status=EXIT_STOPPED)
    except OutOfMemoryError as error:
        raise UserError(
            f"Out of memory: lower optimizer.batch_size (now {config.optimizer.batch_size}) and "
            f"raise optimizer.gradient_accumulation, or set model.kind to lora.\n{error}"
        ) from error
    sys.stdout.write(f"The pair is in {result.pair}\n")
    return 0


def _fail(message: object, *, status: int = 1) -> int:
    sys.stderr.write(f"{message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
