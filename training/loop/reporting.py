"""What a person sees of a training: metrics, held-out pairs, pictures, progress, log."""

import contextlib
import logging
import math
import time

from training.config import TrainingConfig
from training.data.encoded_pairs import EncodedPairs
from training.loop.losses import any_of
from training.loop.metrics import MetricsWindow
from training.loop.optimizers import MovingAverage
from training.loop.samples import Sampler
from training.loop.session import Session
from training.loop.trackers import as_numbers
from training.loop.validation import Validation
from training.run import Metrics

logger = logging.getLogger(__name__)


class Reporter:
    """Tells of a training as it goes on; nothing of it reaches the training itself.

    Every process calls it, since all of them measure and make pictures; the main one writes.
    """

    def __init__(
        self,
        session: Session,
        *,
        window: MetricsWindow,
        average: MovingAverage | None,
        validation: Validation | None,
        sampler: Sampler | None,
    ) -> None:
        """Prepare it.

        Args:
            session: Where it is told.
            window: Takes what the steps say.
            average: If one is kept, held-out pairs and pictures are made with it, as the pair is.
            validation: Measures held-out pairs, if there are any.
            sampler: Makes pictures, if they are asked for.
        """
        self._session, self._window, self._average = session, window, average
        self._validation, self._sampler = validation, sampler
        self._config, self._run = session.config, session.run
        self._num_steps = session.config.optimizer.num_steps
        self._done, self._began = 0, time.monotonic()

    def begin(self, done: int) -> None:
        """Drop what was told after step `done`, and tell what was not told of it yet."""
        self._done, self._began = done, time.monotonic()
        if self._session.is_main:
            # What stands at step 0 may be of other settings.
            kept = done or -1
            self._run.cut_metrics(after_step=kept)
            self._run.cut_samples(after_step=kept)
            self._session.tell(state="running", step=done, num_steps=self._num_steps, message="")
            logger.info(
                "Resumed after step %d of %d." if done else "Starting at step %d of %d.",
                done,
                self._num_steps,
            )
        self._session.accelerator.wait_for_everyone()
        if done == 0 and self._validation is not None:
            self._append(0, self._validated(0))
        if self._sampler is not None:
            self._paint_what_is_missing(done)

    def after_step(self, step: int, *, lr: float) -> Metrics:
        """Tell the metrics of a step, if a line or a measurement is due; returns what was told."""
        metrics: Metrics = {}
        is_last = step == self._num_steps
        is_full = step % self._config.run.log_every == 0
        if is_full or is_last:
            metrics |= self._window.summary(lr=lr, device=self._session.accelerator.device)
        if is_full:
            self._window.restart()
        if self._validation is not None and (step % self._config.validation.every == 0 or is_last):
            metrics |= self._validated(step)
        if metrics:
            self._append(step, metrics)
        return metrics

    def paint(self, step: int) -> None:
        """Make the pictures of a step, if they are due."""
        if self._sampler is not None and self._is_picture_due(step):
            with self._as_saved():
                self._sampler.paint(step, with_base=False)

    def _append(self, step: int, metrics: Metrics) -> None:
        if not self._session.is_main:
            return
        self._run.append_metrics({"step": step} | metrics)
        self._session.accelerator.log(as_numbers(metrics), step=step)
        steps_here = step - self._done
        pace = (time.monotonic() - self._began) / steps_here if steps_here else None
        self._session.tell(
            step=step,
            seconds_left=None if pace is None else pace * (self._num_steps - step),
            is_durable=False,
        )

    def _validated(self, step: int) -> Metrics:
        with self._as_saved():
            found = self._validation.measure()
        if self._session.is_main:
            told = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
            logger.info("Step %d: %s.", step, told)
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def _paint_what_is_missing(self, done: int) -> None:
        """Make what a trainer that was killed did not come to, and the base model's pictures."""
        samples = self._run.read_samples()
        has_base = any(each.method == "cfg" for each in samples)
        has_step = any(each.step == done for each in samples)
        lacks_base = not has_base and self._sampler.can_paint_base(done)
        lacks_step = not has_step and self._is_picture_due(done)
        # The main process looks for all: the others may see its files later than it does.
        is_main, accelerator = self._session.is_main, self._session.accelerator
        lacks_base = any_of(is_main and lacks_base, accelerator)
        if any_of(is_main and (lacks_base or lacks_step), accelerator):
            with self._as_saved():
                self._sampler.paint(done, with_base=lacks_base)

    def _is_picture_due(self, step: int) -> bool:
        every = self._config.samples.every
        if every is None:
            every = self._config.run.save_every
        return step % every == 0 or step == self._num_steps

    def _as_saved(self) -> contextlib.AbstractContextManager[None]:
        """Have the weights meanwhile that the pair would be saved with."""
        return contextlib.nullcontext() if self._average is None else self._average.in_place()


def log_training(
    config: TrainingConfig,
    dataset: EncodedPairs,
    *,
    held_out: EncodedPairs | None,
    num_processes: int,
) -> None:
    """Log what is trained, on what, and how; config.yaml has all of it."""
    model, optimizer = config.model, config.optimizer
    kind = f"LoRA pair, rank {model.rank}," if model.kind == "lora" else "full pair"
    logger.info("Trains a %s on %s with %s.", kind, model.base, config.objective.name)
    logger.info(
        "Data %s: %d pairs, %d held out, %d prompts to train on.",
        dataset.name,
        len(dataset),
        0 if held_out is None else len(held_out),
        len(dataset.prompt_rows.unique()),
    )
    logger.info(
        "%d steps of %d pairs (batch %d × accumulation %d × %d processes), %s at %g, precision %s, "
        "seed %d.",
        optimizer.num_steps,
        optimizer.batch_size * optimizer.gradient_accumulation * num_processes,
        optimizer.batch_size,
        optimizer.gradient_accumulation,
        num_processes,
        optimizer.name,
        optimizer.learning_rate,
        config.run.mixed_precision,
        config.run.seed,
    )
