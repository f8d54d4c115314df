"""From the start of a training to its end: who holds the run, and what the run says of it."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from chats.errors import UserError
from training.config import RunSettings, TrainingConfig
from training.loop.engine import make_accelerator
from training.loop.log import log_file
from training.loop.state import check_same_training
from training.loop.trackers import check_trackers, trackers_told
from training.loop.zero import require_deepspeed
from training.run import RunDirectory

logger = logging.getLogger(__name__)


class TrainingStoppedError(RuntimeError):
    """The training could not go on; its text says at which step, and what to do."""


class TrainingInterruptedError(RuntimeError):
    """The training was asked to stop, saved a checkpoint, and can go on."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves behind.

    Attributes:
        pair: Folder of the trained pair.
        metrics: The last line of metrics.jsonl.
    """

    pair: Path
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class Session:
    """One process of a training, and the run that it works for.

    Attributes:
        config: The settings.
        accelerator: Knows the device and the other processes.
        run: The run's folder; the main process holds it for all of them.
    """

    config: TrainingConfig
    accelerator: Accelerator
    run: RunDirectory

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.accelerator.is_main_process

    @property
    def is_trained(self) -> bool:
        """Whether the pair is there: a trainer died with nothing left to do but to say so."""
        return (self.run.pair / "pair.json").exists()

    def result(self) -> TrainingResult:
        """Return what the training left, once it has ended."""
        return TrainingResult(pair=self.run.pair, metrics=self.run.read_metrics()[-1])

    def tell(self, **status: object) -> None:
        """Change fields of status.json."""
        if self.is_main:
            self.run.update_status(**status)


@contextlib.contextmanager
def training_session(config: TrainingConfig) -> Iterator[Session]:
    """Hold the run, and write into it how the training ends, whatever way that is.

    Raises:
        UserError: The folder holds another or a finished run, or the settings ask for what is not
            there.
    """
    require_deepspeed()
    _check_run(config.run)
    check_trackers(config.run.trackers)
    accelerator = make_accelerator(config)
    session = Session(config, accelerator, RunDirectory(config.run.output))
    with _held(session), _logged(session):
        check_same_training(config, session.run)
        with _end_told(session), trackers_told(config, accelerator):
            yield session
    accelerator.free_memory()


@contextlib.contextmanager
def _held(session: Session) -> Iterator[None]:
    """Keep the run's folder, by the main process for all of them."""
    with session.run.hold() if session.is_main else contextlib.nullcontext():
        session.accelerator.wait_for_everyone()
        yield


@contextlib.contextmanager
def _logged(session: Session) -> Iterator[None]:
    if not session.is_main:
        yield
        return
    accelerator = session.accelerator
    began = time.monotonic()
    mistakes = (UserError, TrainingStoppedError, TrainingInterruptedError)
    with log_file(session.run.log, mistakes=mistakes):
        logger.info(
            "Training started: %d process%s on %s, torch %s.",
            accelerator.num_processes,
            "es" * (accelerator.num_processes > 1),
            _device_name(accelerator.device),
            torch.__version__,
        )
        yield
        logger.info(
            "Succeeded after %.1f minutes: the pair is in %s.",
            (time.monotonic() - began) / 60,
            session.run.pair.name,
        )


@contextlib.contextmanager
def _end_told(session: Session) -> Iterator[None]:
    try:
        yield
    except TrainingInterruptedError as error:
        session.tell(state="interrupted", message=str(error))
        raise
    except Exception as error:
        session.tell(state="failed", message=str(error))
        raise
    num_steps = session.config.optimizer.num_steps
    session.tell(state="succeeded", step=num_steps, num_steps=num_steps, exit_code=0)


def _check_run(settings: RunSettings) -> None:
    run = RunDirectory(settings.output)
    if (run.pair / "pair.json").exists() and run.is_finished():
        raise UserError(
            f"The folder {settings.output} holds a finished run. Set run.output to a new folder."
        )
    if settings.mixed_precision == "fp16" and PartialState().device.type == "cpu":
        raise UserError("fp16 training needs a GPU. Set run.mixed_precision to bf16 or no.")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
