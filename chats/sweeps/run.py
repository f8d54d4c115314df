"""Work on a sweep until it is done, cancelled or killed; the next start goes on from there.

    folder = SweepFolder.create(Path("sweeps/first"), config)
    for event in run_sweep(folder, generate=partial(generate, manager), judge=scorer("shapes")):
        ...

No torch here: pictures and scores come from what is handed in.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from chats.config import GenerationConfig
from chats.generation.events import ImagesEvent, StepEvent
from chats.generation.png import config_of_row
from chats.scoring import Scorer, score_pictures
from chats.sweeps.folder import Call, SweepFolder
from chats.sweeps.plan import next_call, pictures, request

_TRIAL_PX = 64
"""Side of the blank pictures on which a scorer is tried, so that it fails before any work."""

Generate = Callable[[GenerationConfig, threading.Event], Iterator[StepEvent | ImagesEvent]]


@dataclass(frozen=True, kw_only=True)
class SweepEvent:
    """How far a sweep is: after a step of a call, or after a call."""

    num_done: int
    """Pictures that are on the disk."""
    num_pictures: int
    fraction: float
    """Share of the work that is done; a call under way counts by its steps."""
    eta_seconds: float
    """What is left, judged by what was made since the start."""
    call: Call | None = None
    """The call that has just been done; none after a step."""


def run_sweep(
    folder: SweepFolder,
    *,
    generate: Generate,
    judge: Scorer | None,
    cancel: threading.Event | None = None,
) -> Iterator[SweepEvent]:
    """Make what is missing, call by call; yields after each step and each call.

    Setting `cancel`, or closing the generator, ends it within one step; finished calls are kept.

    Args:
        folder: the sweep.
        generate: makes the pictures of a configuration.
        judge: scores them; none gives no scores.
        cancel: set it to stop.

    Raises:
        UserError: the pictures cannot be made or scored, another program works on the sweep, or
            the disk refuses; what is done is kept.
    """
    cancel, config, plan = cancel or threading.Event(), folder.config, pictures(folder.config)
    with folder.working():
        calls = folder.calls()
        first = sum(call.count for call in calls)
        max_rows = min([config.rows_per_call, *(call.rows_per_call for call in calls)])
        if first == 0:
            blank = Image.new("RGB", (_TRIAL_PX, _TRIAL_PX))
            _scores(judge, [blank] * len(config.prompts), config.prompts)
        progress = _Progress(first, len(plan))
        while first < len(plan) and not cancel.is_set():
            places = next_call(config, first, max_rows=max_rows)
            made = plan[places.start : places.stop]
            done: ImagesEvent | None = None
            for event in generate(request(config, made), cancel):
                if isinstance(event, ImagesEvent):
                    done = event
                else:
                    yield progress.after_step(first, len(made) * event.step / event.num_steps)
            if done is None:
                return
            call = Call(
                first=first,
                count=len(made),
                scores=_scores(judge, done.images, [config.prompts[each.prompt] for each in made]),
                rows_per_call=min(max_rows, done.rows_per_call),
                seconds=done.seconds,
                num_predictions=done.num_predictions,
                notices=done.notices,
            )
            configs = [config_of_row(done.config, k) for k in range(len(made))]
            folder.append(call, done.images, configs)
            first, max_rows = first + call.count, call.rows_per_call
            yield progress.after_call(call)


class _Progress:
    """Tells how far the work is."""

    def __init__(self, num_before: int, num_pictures: int) -> None:
        self._began = time.perf_counter()
        self._num_before, self._num_pictures = num_before, num_pictures

    def after_step(self, num_done: int, under_way: float) -> SweepEvent:
        return self._event(num_done, num_done + under_way, None)

    def after_call(self, call: Call) -> SweepEvent:
        num_done = call.first + call.count
        return self._event(num_done, num_done, call)

    def _event(self, num_done: int, worked: float, call: Call | None) -> SweepEvent:
        pace = (time.perf_counter() - self._began) / max(worked - self._num_before, 1e-9)
        return SweepEvent(
            num_done=num_done,
            num_pictures=self._num_pictures,
            fraction=worked / self._num_pictures,
            eta_seconds=pace * (self._num_pictures - worked),
            call=call,
        )


def _scores(
    judge: Scorer | None, images: Sequence[Image.Image], prompts: Sequence[str]
) -> tuple[float, ...] | None:
    return None if judge is None else tuple(score_pictures(judge, images, prompts).tolist())
