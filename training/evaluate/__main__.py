"""The command line of evaluations.

python -m training.evaluate --output runs/eval
accelerate launch -m training.evaluate --config eval.yaml --output runs/eval
"""

import sys
from collections.abc import Sequence

from chats.environment import quieten_libraries
from chats.errors import UserError
from training.config import parse_flags
from training.evaluate.config import EvaluateConfig


def parse_arguments(arguments: Sequence[str]) -> EvaluateConfig:
    """Read `--config eval.yaml` and the flags over it.

    Raises:
        UserError: See `training.config.parse_flags`.
    """
    return parse_flags(
        EvaluateConfig,
        arguments,
        prog="python -m training.evaluate",
        description="Compare methods on a prompt set by scorers, with error bars. "
        "--config FILE.yaml reads settings from a file; flags go over it. It goes on where it was "
        "interrupted, and `accelerate launch` spreads it over devices.",
    )


def main() -> int:
    """Evaluate; what a person can mend is one message, not a traceback."""
    try:
        config = parse_arguments(sys.argv[1:])
        quieten_libraries()
        from accelerate import Accelerator

        from training.evaluate.loop import evaluate

        accelerator = Accelerator()
        try:
            evaluate(
                config,
                rank=accelerator.process_index,
                num_processes=accelerator.num_processes,
                device=str(accelerator.device),
                say=_say,
            )
        finally:
            accelerator.end_training()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
