"""What is loaded on the device: models and pairs, lent to requests and kept within a budget."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline

from chats.config import SchedulerName
from chats.denoising.families import family_of
from chats.denoising.family import Family
from chats.denoising.schedulers import build_scheduler
from chats.denoising.sizes import default_size_px, size_factor_px
from chats.models.leases import LeaseCache
from chats.models.loading import (
    LoadedModel,
    best_dtype,
    can_be_offloaded,
    choose_device,
    load_model,
    model_sizes,
    resolve_model,
)
from chats.models.memory import (
    WorkingMemory,
    budget_of,
    device_memory,
    free_memory,
    is_out_of_memory,
)
from chats.models.placement import Placement, choose_placement
from chats.models.reports import DeviceReport, OnDevice, Unloaded
from chats.models.sharing import DeviceShare, DeviceTurns
from chats.pairs import hub
from chats.pairs.pair import Pair, load_pair, locate_pair
from chats.pairs.weight_files import check_weight_files, local_folder, weight_bytes
from chats.shapes import BASE, PAIR, SHAPES_MODEL, SHAPES_NUM_STEPS


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A loaded model for one request; valid until the `with` block of `lease` ends."""

    pipeline: DiffusionPipeline
    """This request's own pipeline: shared weights, a scheduler of its own."""
    pair: Pair | None
    family: Family
    default_size_px: int
    """Width and height that the model makes when none is asked for."""
    size_factor_px: int
    """Width and height must be divisible by this."""
    default_num_steps: int
    device_name: str
    placement: Placement
    """Whether all of it is on the device; previews of one that is not would cost too much."""
    preview_decoder: AutoencoderTiny | None = None
    """A tiny autoencoder for previews, where it is on this machine."""


@dataclass(frozen=True)
class _Key:
    kind: str
    folder: Path
    stamp: int
    placement: Placement = "resident"


class ModelManager:
    """Load models and pairs, lend them to requests, and keep them within a budget.

    Args:
        device: a torch device; none means CUDA, else MPS, else the CPU.
        dtype: of the weights; none means float32, on CUDA bfloat16 (float16 on older cards).
        budget_gb: the most memory that weights and work may take; none means nearly all that is
            free on the device.
        max_rows: the most pictures that denoise in one call; further rows come after them.
        share: with whom the device is shared.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        budget_gb: float | None = None,
        max_rows: int = 16,
        share: DeviceShare | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.dtype = dtype or best_dtype(self.device)
        self.max_rows = max_rows
        self.turns = DeviceTurns(share or DeviceShare())
        """Whose turn it is to use the device."""
        self.working = WorkingMemory(self.device)
        """What pictures took so far beside the weights."""
        self._has_own_budget = budget_gb is not None
        budget_bytes = int(budget_gb * 1e9) if self._has_own_budget else budget_of(self.device)
        self._fetched: dict[str, Path] = {}
        self.cache = LeaseCache(
            budget_bytes=budget_bytes,
            after_eviction=free_memory,
            is_out_of_memory=is_out_of_memory,
        )
        """What is loaded."""

    @contextmanager
    def lease(
        self, model: str, pair: str | None = None, *, scheduler: SchedulerName = "default"
    ) -> Iterator[Lease]:
        """Lend a model and its pair, loading what is not loaded yet.

        Args:
            model: `shapes`, a folder, or a Hub id.
            pair: a folder or a Hub id; none means the one that belongs to the model, if any.
            scheduler: sampler of this request.

        Raises:
            UserError: the model or the pair is unknown, refused, damaged or too large.
        """
        folder, pair_folder = self.find(model, pair)
        self._measure_again()
        with ExitStack() as stack:
            base = stack.enter_context(self._lease_base(folder, pair_folder))
            own_pair = base.own_pair
            if pair_folder not in (None, folder):
                own_pair = stack.enter_context(self._lease_pair(pair_folder))
            yield self._lease_of(base, own_pair, folder=folder, scheduler=scheduler)

    def find(
        self, model: str, pair: str | None = None, *, on_bytes: hub.OnBytes | None = None
    ) -> tuple[Path, Path | None]:
        """Return the folders of a model and its pair, fetched from the Hub if they are not here.

        Needs no device: it is best done before the turn on one begins.

        Raises:
            UserError: the model or the pair is unknown, or cannot be fetched.
        """
        folder = self._folder(model, lambda name: resolve_model(name, on_bytes=on_bytes))
        return folder, (_embedded_pair(folder) if pair is None else self._folder(pair, locate_pair))

    def _lease_of(
        self, base: LoadedModel, pair: Pair | None, *, folder: Path, scheduler: SchedulerName
    ) -> Lease:
        shared = base.pipeline
        pipeline = copy.copy(shared)  # the same weights; what a call writes stays in the copy
        pipeline.scheduler = build_scheduler(scheduler, model_scheduler=shared.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        family = family_of(pipeline)
        return Lease(
            pipeline=pipeline,
            pair=pair,
            family=family,
            default_size_px=default_size_px(pipeline),
            size_factor_px=size_factor_px(pipeline),
            default_num_steps=SHAPES_NUM_STEPS if folder == BASE else family.num_steps,
            device_name=self.device_name,
            placement=base.placement,
            preview_decoder=base.preview_decoder,
        )

    @property
    def device_name(self) -> str:
        """The device in words."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return "Apple GPU" if self.device.type == "mps" else "CPU"

    def describe(self) -> list[OnDevice]:
        """List what is loaded, the most recently used last."""
        return [
            OnDevice(
                name=_shown_name(kept.key.folder),
                kind=kept.key.kind,
                size_gb=kept.num_bytes / 1e9,
                in_use=kept.num_leases > 0,
                device_name=self.device_name,
                placement=kept.key.placement,
            )
            for kept in self.cache.kept()
        ]

    def report(self) -> DeviceReport:
        """Say what the device has, what lies on it, and what was dropped and why."""
        self._measure_again()
        memory, room = device_memory(self.device), self.cache.room_bytes()
        return DeviceReport(
            title=self.device_name,
            total_gb=memory.total_bytes / 1e9,
            used_gb=memory.used_bytes / 1e9,
            room_gb=(memory.total_bytes if room is None else max(room, 0)) / 1e9,
            loaded=tuple(self.describe()),
            unloaded=tuple(
                Unloaded(
                    name=_shown_name(gone.key.folder),
                    kind=gone.key.kind,
                    size_gb=gone.num_bytes / 1e9,
                    reason=gone.reason,
                )
                for gone in self.cache.evicted()
            ),
        )

    def unload(self, name: str) -> bool:
        """Drop what `describe` calls `name`; say whether anything was (nothing leased is)."""
        keys = [kept.key for kept in self.cache.kept() if _shown_name(kept.key.folder) == name]
        dropped = [self.cache.evict(key, reason="it was unloaded by hand") for key in keys]
        return any(dropped)

    def give_way(self) -> None:
        """Drop everything if a training has the device or is next, and no request is under way."""
        with self.turns.if_wanted_elsewhere() as is_wanted:
            if is_wanted:
                self.cache.evict_unused(reason="a training needs the device")

    def _measure_again(self) -> None:
        """Forget what a training took that had the device when the budget was measured."""
        if not self._has_own_budget and self.cache.is_empty():
            self.cache.budget_bytes = budget_of(self.device)

    def _folder(self, name: str, resolve: Callable[[str], Path]) -> Path:
        """Find the folder of a model or a pair; the Hub is asked once, not at every request."""
        if not hub.is_hub_id(name) or local_folder(name) is not None:
            return resolve(name)
        if name not in self._fetched:
            self._fetched[name] = resolve(name)
        return self._fetched[name]

    def _lease_base(
        self, folder: Path, pair_folder: Path | None
    ) -> AbstractContextManager[LoadedModel]:
        key = self._placed(self._key("model", folder), pair_folder)

        def measure() -> int:
            return model_sizes(folder, dtype=self.dtype).of(key.placement)

        def load() -> LoadedModel:
            return load_model(folder, device=self.device, dtype=self.dtype, placement=key.placement)

        return self.cache.lease(key, measure=measure, load=load)

    def _placed(self, key: _Key, pair_folder: Path | None) -> _Key:
        """Say how a model is placed: as it is already, else as fast as there is room for."""
        can_offload = self.device.type != "cpu" and can_be_offloaded(key.folder, pair_folder)
        loaded = {
            kept.key for kept in self.cache.kept() if replace(kept.key, placement="resident") == key
        }
        for known in loaded:
            if known.placement == "resident" or can_offload:
                return known
            self.cache.evict(known, reason="a full pair needs all of it on the device")
        check_weight_files(key.folder)
        beside = 0
        if pair_folder not in (None, key.folder):
            beside = weight_bytes(pair_folder, bytes_per_float=self.dtype.itemsize)
        placement = choose_placement(
            model_sizes(key.folder, dtype=self.dtype),
            beside_bytes=beside,
            room_bytes=self.cache.room_bytes(),
            can_offload=can_offload,
        )
        return replace(key, placement=placement)

    def _lease_pair(self, folder: Path) -> AbstractContextManager[Pair]:
        def measure() -> int:
            check_weight_files(folder)
            return weight_bytes(folder, bytes_per_float=self.dtype.itemsize)

        def load() -> Pair:
            return load_pair(folder, dtype=self.dtype)

        return self.cache.lease(self._key("pair", folder), measure=measure, load=load)

    def _key(self, kind: str, folder: Path) -> _Key:
        """Name what is in a folder now; what was loaded before it was written again is dropped."""
        stamps = [_changed(path) for path in folder.rglob("*")]
        key = _Key(kind, folder, stamp=max(stamps, default=0))
        for kept in self.cache.kept():
            is_older = (kept.key.kind, kept.key.folder) == (kind, folder)
            if is_older and kept.key.stamp != key.stamp:
                self.cache.evict(kept.key, reason="its files were written again")
        return key


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # removed meanwhile, or a link to nowhere
        return 0


def _embedded_pair(folder: Path) -> Path | None:
    return PAIR if folder == BASE and (PAIR / "pair.json").is_file() else None


def _shown_name(folder: Path) -> str:
    return SHAPES_MODEL if folder in (BASE, PAIR) else folder.name
