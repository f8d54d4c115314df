"""The trainer's command line.

python -m training --config run.yaml --optimizer.learning-rate 1e-5
python -m training --config run.yaml --dry-run
"""

import sys

from chats.errors import UserError
from training.config import parse_command_line, take_dry_run


def main() -> int:
    """Train as the command line says; what a person can mend is one message, not a traceback."""
    try:
        asked, arguments = take_dry_run(sys.argv[1:])
        config = parse_command_line(arguments)
        if asked is not None:
            from training.dry_run import dry_run

            sys.stdout.write(dry_run(config, asked, arguments))
            return 0
    except UserError as error:
        return _fail(error)

    from torch import OutOfMemoryError

    from training.run import EXIT_STOPPED
    from training.trainer import TrainingInterruptedError, TrainingStoppedError, train

    try:
        result = train(config)
    except (UserError, TrainingStoppedError) as error:
        return _fail(error)
    except TrainingInterruptedError as error:
        return _fail(error, status=EXIT_STOPPED)
    except OutOfMemoryError as error:
        return _fail(
            f"Out of memory: lower optimizer.batch_size (now {config.optimizer.batch_size}) and "
            f"raise optimizer.gradient_accumulation, or set model.kind to lora.\n{error}"
        )
    sys.stdout.write(f"The pair is in {result.pair}\n")
    return 0


def _fail(message: object, *, status: int = 1) -> int:
    sys.stderr.write(f"{message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
