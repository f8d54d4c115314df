"""One request under way: the stock pipeline in a thread of its own, its steps told as events."""

import inspect
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

import chats
from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.decoding import decoded_to_fit
from chats.generation.events import StepEvent
from chats.generation.noise import starting_noise
from chats.generation.previews import preview_images
from chats.models.manager import Lease, ModelManager
from chats.models.memory import is_out_of_memory

_QUEUED_EVENTS = 8
_POLL_SECONDS = 0.05
_IN_TILES = "The pictures are so large that they were decoded in tiles."


class Painter:
    """One request: `run` works in a thread of its own, `steps` is read in the caller's."""

    def __init__(
        self,
        manager: ModelManager,
        lease: Lease,
        config: GenerationConfig,
        *,
        cancel: threading.Event,
        on_end: Callable[[], None],
    ) -> None:
        """Prepare the request.

        Args:
            manager: whose device is used; it is this request's turn.
            lease: the model.
            config: what to make, with nothing left open.
            cancel: when set, the work stops within one step; so does setting `stop`.
            on_end: called when the device is used no more, before the last event is told.
        """
        self.stop = threading.Event()
        self.images: list[Image.Image] = []
        self.notices: list[str] = []
        self.num_predictions = 0
        self.error: BaseException | None = None
        self.is_done = False
        self._manager, self._lease, self._config, self._cancel = manager, lease, config, cancel
        self._on_end = on_end
        self._max_rows = manager.max_rows
        self._events: queue.Queue[StepEvent | None] = queue.Queue(_QUEUED_EVENTS)
        self._pace = _Pace()

    @property
    def rows_per_call(self) -> int:
        """The most pictures that are made in one call; it is halved where memory runs short."""
        return self._max_rows

    def steps(self) -> Iterator[StepEvent]:
        """Yield steps until the work is over."""
        while (event := self._events.get()) is not None:
            yield event

    def forget_model(self) -> None:
        """Let go of the model, which may be dropped while somebody still reads the pictures."""
        self._lease = None

    def run(self) -> None:
        """Make all pictures; leaves the outcome in `images`, `is_done` and `error`."""
        try:
            try:
                self._paint_all()
            finally:
                self._on_end()
            self.is_done = True
        except _Stopped:
            pass
        except BaseException as error:  # the caller's thread raises it
            self.error = error
        finally:
            self._announce_end()

    def _check_wanted(self) -> None:
        if self.stop.is_set() or self._cancel.is_set():
            raise _Stopped

    def _paint_all(self) -> None:
        rows = self._config.rows
        while len(self.images) < len(rows):
            self._check_wanted()
            self._max_rows = min(self._max_rows, self._rows_with_room())
            part = rows[len(self.images) : len(self.images) + self._max_rows]
            images = self._paint_if_it_fits(part)
            if images is not None:
                self.images += images
                continue
            self._manager.cache.evict_unused(reason="memory ran out while pictures were made")
            if len(part) == 1:
                raise UserError(_too_large(self._config, device=self._lease.device_name))
            self._max_rows = len(part) // 2
            self.notices.append(
                f"Memory ran short: the pictures were made {self._max_rows} at a time."
            )

    def _paint_if_it_fits(self, rows: Sequence[Row]) -> list[Image.Image] | None:
        try:
            with self._working(num_rows=len(rows)):
                return self._paint(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _rows_with_room(self) -> int:
        """Return how many rows denoise at once by what is known of their memory; at least one."""
        room, for_one = self._manager.cache.room_bytes(), self._expected_bytes(num_rows=1)
        return max(1, room // for_one) if room is not None and for_one else self._max_rows

    def _expected_bytes(self, *, num_rows: int) -> int:
        return self._manager.working.expected_bytes(
            self._lease.family.name,
            num_pixels=self._config.width * self._config.height,
            num_rows=num_rows,
        )

    @contextmanager
    def _working(self, *, num_rows: int) -> Iterator[None]:
        """Keep room for what the rows will take, and learn what they took.

        Weights that come to the device only meanwhile would pass for work: they have room already.
        """
        family, num_pixels = self._lease.family.name, self._config.width * self._config.height
        with ExitStack() as stack:
            room = self._expected_bytes(num_rows=num_rows)
            stack.enter_context(self._manager.cache.reserve(room))
            if self._lease.placement == "resident":
                working = self._manager.working
                stack.enter_context(
                    working.measured(family, num_pixels=num_pixels, num_rows=num_rows)
                )
            yield

    def _paint(self, rows: Sequence[Row]) -> list[Image.Image]:
        """Call the stock pipeline once for all `rows`."""
        config, pipeline = self._config, self._lease.pipeline
        generators = [torch.Generator("cpu").manual_seed(row.seed) for row in rows]
        noise = starting_noise(pipeline, generators, width=config.width, height=config.height)
        guided = chats.guidance(
            pipeline,
            self._lease.pair,
            method=[row.method for row in rows],
            scale=[row.scale for row in rows],
            alpha=[row.alpha for row in rows],
            negative_prompt=config.negative_prompt,
            interval=config.interval,
            shaping=config.shaping,
        )
        size = config.width * config.height
        with guided as cost, decoded_to_fit(pipeline.vae, num_pixels=size) as in_tiles:
            images = pipeline(
                [config.prompt if row.prompt is None else row.prompt for row in rows],
                num_inference_steps=config.num_steps,
                width=config.width,
                height=config.height,
                generator=generators,
                latents=noise.to(self._manager.device, self._manager.dtype),
                **_call_options(pipeline, on_step=self._on_step),
            ).images
        self.num_predictions += cost.num_rows
        if in_tiles and _IN_TILES not in self.notices:
            self.notices.append(_IN_TILES)
        return images

    def _on_step(self, index: int, latents: torch.Tensor) -> None:
        """Tell of step `index` (from 0) of the part that is being painted."""
        self._check_wanted()
        if not torch.isfinite(latents).all():
            raise UserError(
                f"The numbers overflowed at step {index + 1}: lower the guidance scale s, or use "
                "float32."
            )
        steps_in_part = len(self._lease.pipeline.scheduler.timesteps)
        num_left = len(self._config.rows) - len(self.images)
        steps_before = steps_in_part * -(-len(self.images) // self._max_rows)
        step = steps_before + index + 1
        num_steps = steps_before + steps_in_part * -(-num_left // self._max_rows)
        elapsed, eta = self._pace.measure(step=step, num_steps=num_steps)
        if not self._events.full():
            event = StepEvent(
                step=step,
                num_steps=num_steps,
                previews=self._previews(step, num_steps=num_steps, latents=latents),
                elapsed_seconds=elapsed,
                eta_seconds=eta,
            )
            self._events.put(event)

    def _previews(
        self, step: int, *, num_steps: int, latents: torch.Tensor
    ) -> tuple[Image.Image, ...]:
        """Preview what is under way after what is done; the last step needs none."""
        every = self._config.preview_every
        decoder = self._lease.preview_decoder
        is_cheap = self._lease.placement == "resident" or decoder is not None
        if every == 0 or step % every or step == num_steps or not is_cheap:
            return ()
        current = preview_images(
            self._lease.pipeline,
            latents,
            width=self._config.width,
            height=self._config.height,
            decoder=decoder,
        )
        return (*self.images, *current) if current else ()

    def _announce_end(self) -> None:
        while not self.stop.is_set():
            try:
                return self._events.put(None, timeout=_POLL_SECONDS)
            except queue.Full:
                continue


def plain_options(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return the arguments that keep a pipeline from changing the size or prompt it is given."""
    known = inspect.signature(type(pipeline).__call__).parameters
    unchanged = {"use_resolution_binning": False, "clean_caption": False}
    return {name: value for name, value in unchanged.items() if name in known}


class _Stopped(Exception):
    """Leaves the pipeline's loop when nobody wants the pictures any more."""


class _Pace:
    """Time since the work began, and what is left judged by the steps so far."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first_step: tuple[int, float] | None = None

    def measure(self, *, step: int, num_steps: int) -> tuple[float, float]:
        """Return (elapsed, left) in seconds after `step` of `num_steps`."""
        now = time.perf_counter()
        first, then = self._first_step or (0, self._began)
        if self._first_step is None:
            self._first_step = (step, now)
        return now - self._began, (now - then) / max(1, step - first) * (num_steps - step)


def _call_options(
    pipeline: DiffusionPipeline, *, on_step: Callable[[int, torch.Tensor], None]
) -> dict[str, Any]:
    """Return the arguments in which pipelines differ.

    `on_step` is called with the latents after each step; sizes and prompts stay as they were asked.
    """

    def modern(_pipe: Any, index: int, _timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        on_step(index, state["latents"])
        return {}

    def legacy(index: int, _timestep: Any, latents: torch.Tensor) -> None:
        on_step(index, latents)

    known = inspect.signature(type(pipeline).__call__).parameters
    options = plain_options(pipeline)
    if "callback_on_step_end" in known:
        return {**options, "callback_on_step_end": modern}
    return {**options, "callback": legacy, "callback_steps": 1}


def _too_large(config: GenerationConfig, *, device: str) -> str:
    return (
        f"One picture of {config.width}×{config.height} does not fit into the memory of {device}. "
        "Lower the size, or unload models that are not in use."
    )
