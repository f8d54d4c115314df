"""The command line of evaluations.

python -m training.evaluate --output runs/eval
accelerate launch -m training.evaluate --config eval.yaml --output runs/eval
"""

import sys

from chats.environment import quieten_libraries
from chats.errors import UserError
from training.evaluation_config import EvaluateConfig, parse_evaluation
from training.jobs.turn import NotNowError, turn
from training.run import EXIT_STOPPED


def main() -> int:
    """Evaluate; what a person can mend is one message, not a traceback."""
    try:
        config = parse_evaluation(sys.argv[1:])
        quieten_libraries()
        with turn(config.output.expanduser()):
            return _evaluate(config)
    except NotNowError as error:
        return _fail(error, status=EXIT_STOPPED)
    except UserError as error:
        return _fail(error)


def _evaluate(config: EvaluateConfig) -> int:
    from accelerate import Accelerator
    from torch import OutOfMemoryError

    from training.evaluate.loop import EvaluationStoppedError, evaluate

    accelerator = Accelerator()
    try:
        evaluate(
            config,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
            device=str(accelerator.device),
            say=_say,
        )
    except EvaluationStoppedError as error:
        return _fail(error, status=EXIT_STOPPED)
    except OutOfMemoryError as error:
        raise UserError(
            f"Out of memory: lower batch_size (now {config.batch_size}).\n{error}"
        ) from error
    finally:
        accelerator.end_training()
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _fail(message: object, *, status: int = 1) -> int:
    sys.stderr.write(f"{message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
