"""Make pictures: one call serves a picture, a comparison, a sweep and the API.

    manager = ModelManager()
    config = GenerationConfig(prompt="three red stars", rows=(Row(method="cfg"), Row()))
    for event in generate(manager, config):
        ...  # StepEvent after StepEvent, then one ImagesEvent

All rows denoise in lockstep in one call of the stock pipeline, which runs in a thread of its own.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

from chats.config import GenerationConfig
from chats.generation.events import ImagesEvent, StepEvent
from chats.generation.painter import Painter
from chats.generation.plan import make_plan
from chats.models.manager import ModelManager
from chats.wording import combination


def generate(
    manager: ModelManager, config: GenerationConfig, *, cancel: threading.Event | None = None
) -> Iterator[StepEvent | ImagesEvent]:
    """Yield a StepEvent for each denoising step, then one ImagesEvent.

    A reader that falls behind misses steps; it never holds up the device. Setting `cancel`, or
    closing the generator, stops the work within one step and frees the lease; after a cancel the
    stream ends without an ImagesEvent.

    Args:
        manager: lends the model.
        config: what to make.
        cancel: set it to stop.

    Raises:
        DeviceBusyError: a training uses the device.
        UserError: the request cannot be met; the text says why and what to do.
    """
    started, cancel = time.perf_counter(), cancel or threading.Event()
    manager.find(config.model, config.pair)
    with ExitStack() as turn:
        if not turn.enter_context(manager.turns.turn(cancel)):
            return
        with manager.lease(config.model, config.pair, scheduler=config.scheduler) as lease:
            plan = make_plan(config, lease)
            painter = Painter(manager, lease, plan.config, cancel=cancel, on_end=turn.close)
            worker = threading.Thread(target=painter.run, name="generate", daemon=True)
            worker.start()
            try:
                yield from painter.steps()
            finally:
                painter.stop.set()
                worker.join()
        del lease
        painter.forget_model()
    if painter.error is not None:
        raise painter.error
    if painter.is_done:
        yield ImagesEvent(
            images=tuple(painter.images),
            config=plan.config,
            notices=(*plan.notices, *painter.notices),
            seconds=time.perf_counter() - started,
            num_predictions=painter.num_predictions,
            rows_per_call=painter.rows_per_call,
            combined=tuple(combination(row) for row in plan.config.rows),
        )
