"""The models behind a page: loaded with the first use, one worker for each device.

This module imports no torch: that takes seconds, and the page is up before.
"""

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chats.config import GenerationConfig
from chats.devices import ON_CPU, Device
from chats.errors import DeviceBusyError, UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.models.choices import ModelStatus, model_title
from chats.models.sharing import DeviceShare

if TYPE_CHECKING:
    from chats.models.manager import ModelManager

logger = logging.getLogger("chats")
_WATCH_SECONDS = 2.0


@dataclass
class _Worker:
    """One device, and the requests that are under way on it."""

    device: Device
    share: DeviceShare
    manager: "ModelManager | None" = None
    num_requests: int = 0


class Studio:
    """Makes pictures on the devices of this machine."""

    def __init__(
        self,
        *,
        model: str,
        pair: str | None,
        devices: Sequence[Device],
        share: Callable[[Device], DeviceShare],
        pair_of_run: Callable[[str], str | None],
    ):
        """Prepare it; nothing is loaded yet.

        Args:
            model: the model that is loaded first.
            pair: its pair.
            devices: those that pictures are made on; a request goes to the one that is free.
            share: with whom a device is shared.
            pair_of_run: gives the folder of a run's pair, none if it is no run.
        """
        self._model, self._pair, self._pair_of_run = model, pair, pair_of_run
        self._workers = [_Worker(device, share(device)) for device in devices]
        self._beside = _Worker(ON_CPU, DeviceShare(title=ON_CPU.title))
        self._lock = threading.Lock()
        self._status = ModelStatus("loading", f"Loading {model_title(model)}…")

    def generate(
        self, config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        """Make the pictures of a configuration; a run's pair is called by the run's id.

        Raises:
            DeviceBusyError: trainings use all devices.
            UserError: the request cannot be met.
        """
        with self._free_worker() as worker:
            yield from self._generate(worker, config, cancel)

    def generate_on_cpu(
        self, config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        """Make them on the CPU, whatever the devices do."""
        yield from self._generate(self._beside, config, cancel)

    def status(self) -> ModelStatus:
        """How far loading is."""
        return self._status

    def warm_up(self) -> None:
        """Load model and pair, so that the first person does not wait for them."""
        title = model_title(self._model)
        try:
            with self._free_worker() as worker:
                manager = self._open(worker)
                self._status = self._loaded_first(manager, title=title)
        except DeviceBusyError:
            self._status = ModelStatus("ready", f"{title}: a training uses {worker.device.title}")
        except UserError as error:
            logger.error("%s", error)
            self._status = ModelStatus("failed", str(error))
        except Exception as error:
            logger.exception("%s could not be loaded", title)
            self._status = ModelStatus("failed", f"{title} could not be loaded: {error}")

    def open_libraries(self, *others: str) -> None:
        """Import all that models and `others` need; two threads that do so at once fail."""
        with self._lock:
            for name in ("chats.models.manager", *others):
                importlib.import_module(name)

    def watch(self, stop: threading.Event) -> None:
        """Drop what is loaded on a device as soon as a training has it or is next, until `stop`."""
        while not stop.wait(_WATCH_SECONDS):
            for worker in self._workers:
                if worker.manager is not None:
                    worker.manager.give_way()

    def _loaded_first(self, manager: "ModelManager", *, title: str) -> ModelStatus:
        with (
            manager.turns.turn(threading.Event()),
            manager.lease(self._model, self._pair) as lease,
        ):
            return ModelStatus("ready", f"{title}, ready on {lease.device_name}")

    def _generate(
        self, worker: _Worker, config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        manager = self._open(worker)
        from chats.generation.generate import generate

        folder = self._pair_of_run(config.pair) if config.pair else None
        located = config.model_copy(update={"pair": folder}) if folder else config
        for event in generate(manager, located, cancel=cancel):
            if folder and isinstance(event, ImagesEvent):
                # Pictures carry their settings: the id, not a path of this machine.
                named = event.config.model_copy(update={"pair": config.pair})
                event = replace(event, config=named)
            yield event

    @contextmanager
    def _free_worker(self) -> Iterator[_Worker]:
        """Choose the device with the fewest requests, one without a training first."""
        with self._lock:
            chosen = min(self._workers, key=lambda each: (_is_kept(each), each.num_requests))
            chosen.num_requests += 1
        try:
            yield chosen
        finally:
            with self._lock:
                chosen.num_requests -= 1

    def _open(self, worker: _Worker) -> "ModelManager":
        with self._lock:
            if worker.manager is None:
                from chats.models.manager import ModelManager

                worker.manager = ModelManager(device=worker.device.torch_name, share=worker.share)
            return worker.manager


def _is_kept(worker: _Worker) -> bool:
    """Whether another program has the device."""
    lock = worker.share.lock
    return lock is not None and not lock.device.is_locked and lock.is_kept()
