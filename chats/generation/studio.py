"""The models behind a page: loaded with the first use, one worker for each device.

This module imports no torch: that takes seconds, and the page is up before.
"""

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chats.config import GenerationConfig
from chats.devices import ON_CPU, Device
from chats.errors import DeviceBusyError, UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.models.choices import ModelStatus, model_title
from chats.models.reports import DeviceReport
from chats.models.sharing import DeviceShare
from chats.pairs import hub
from chats.pairs.hub import OnBytes
from chats.pairs.weight_files import local_folder
from chats.shapes import SHAPES_MODEL

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
        models_folder: Path | None = None,
    ):
        """Prepare it; nothing is loaded yet.

        Args:
            model: the model that is loaded first.
            pair: its pair.
            devices: those that pictures are made on; a request goes to the one that is free.
            share: with whom a device is shared.
            pair_of_run: gives the folder of a run's pair, none if it is no run.
            models_folder: whose folders may be loaded by their names.
        """
        self._model, self._pair, self._pair_of_run = model, pair, pair_of_run
        self._workers = [_Worker(device, share(device)) for device in devices]
        self._beside = _Worker(ON_CPU, DeviceShare(title=ON_CPU.title))
        self._models_folder = models_folder
        self._by_hand: dict[str, str | None] = {}
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

    def warm_up(self, *others: str) -> None:
        """Load model and pair, so that the first person does not wait for them.

        Args:
            others: modules to import besides; see `open_libraries`.
        """
        title = model_title(self._model)
        try:
            self.open_libraries(*others)
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

    def report(self) -> tuple[DeviceReport, ...]:
        """Say what is on each device; the CPU is named only if it was used."""
        beside = (self._beside,) if self._beside.manager else ()
        return tuple(_report(worker) for worker in (*self._workers, *beside))

    def load(self, name: str, pair: str | None = None, on_bytes: OnBytes | None = None) -> str:
        """Load a model, and offer it from now on; returns what to tell.

        Args:
            name: a Hub id, the name of a folder in the models folder, or `shapes`.
            pair: its preference pair, named in the same way; none means its own, if any.
            on_bytes: is told how much of the model was fetched; what it raises ends it.

        Raises:
            UserError: it is unknown, refused, damaged or too large, or a training has the device.
        """
        model, pair = self._located(name), self._located(pair) if pair else None
        with self._free_worker() as worker:
            manager = self._open(worker)
            manager.find(model, pair, on_bytes=on_bytes)
            with manager.turns.turn(threading.Event()), manager.lease(model, pair) as lease:
                where, placement = lease.device_name, lease.placement
        if model != self._model:
            self._by_hand[model] = pair
        how = "" if placement == "resident" else f", by {placement}"
        return f"{model_title(model)} is loaded on {where}{how}."

    def unload(self, name: str) -> str:
        """Drop what a report calls `name` from all devices; returns what to tell.

        Raises:
            UserError: there is no such thing, or pictures are being made with it.
        """
        managers = [each.manager for each in (*self._workers, self._beside) if each.manager]
        dropped = [manager.unload(name) for manager in managers]
        if any(dropped):
            return f"{name} is unloaded. The next pictures with it load it again."
        if any(each.name == name for manager in managers for each in manager.describe()):
            raise UserError(f"{name} is in use. Wait until its pictures are done, or stop them.")
        raise UserError(f"Nothing with the name {name[:80]!r} is loaded.")

    def loaded_by_hand(self) -> tuple[tuple[str, str | None], ...]:
        """Return models and their pairs that `load` loaded beside the first."""
        return tuple(self._by_hand.items())

    def folders(self) -> tuple[str, ...]:
        """Return the names of the folders that may be loaded."""
        if self._models_folder is None or not self._models_folder.is_dir():
            return ()
        found = [each for each in self._models_folder.iterdir() if each.is_dir()]
        return tuple(sorted(each.name for each in found if not each.name.startswith(".")))

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

    def _located(self, name: str) -> str:
        """Take only names that are no paths: they come from whoever reaches the page."""
        name = name.strip()
        if name in (SHAPES_MODEL, self._model):
            return name
        if name in self.folders():
            return str(self._models_folder / name)
        if hub.is_hub_id(name) and local_folder(name) is None:
            return name
        known = ", ".join(self.folders()) or "none yet"
        raise UserError(
            f"{name[:80]!r} is neither a Hub id such as owner/name nor a folder in the workspace's "
            f"models folder (there: {known})."
        )

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


def _report(worker: _Worker) -> DeviceReport:
    used_by = worker.share.used_by() or ""
    if worker.manager is None:
        return DeviceReport(title=worker.device.title, used_by=used_by)
    return replace(worker.manager.report(), used_by=used_by)


def _is_kept(worker: _Worker) -> bool:
    """Whether another program has the device."""
    lock = worker.share.lock
    return lock is not None and not lock.device.is_locked and lock.is_kept()
