"""Steps of a training in every way that changes their speed or memory, against the released script.

A turn is the forwards and backwards of an optimizer step's pairs and its update, by the trainer's
own batches, model, loss and optimizer, without its records, checkpoints and saved pair. Where the
pairs would take longer than a turn may, fewer are measured, and the update counts once for all:
pairs/s = P / (P·seconds per pair + seconds of the update).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.speed.device import place, this_device
from benchmarks.speed.trained import OBJECTIVE, StepSettings, Trained, operations
from benchmarks.speed.turns import Contestant, Turn
from chats.denoising.families import denoiser_of
from chats.shapes.pairs import PairsConfig, make_pairs, write_pairs
from training.config import (
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
)
from training.data.batches import DrawSettings, ShuffledPairs, Unfinished
from training.data.draws import PairBatch
from training.data.encoded_pairs import encode_preferences
from training.data.online_pairs import open_online
from training.loop.losses import loss_terms
from training.loop.noise import NoiseSchedule
from training.preferences import read_preferences


@dataclass(frozen=True)
class Way:
    """One way to make a step."""

    cached: bool
    kept_errors: bool
    gradient_checkpointing: bool
    batch_size: int

    @property
    def name(self) -> str:
        """Its row."""
        data = "cached" if self.cached else "encoded in the loop"
        kept = ", reference's errors kept" if self.kept_errors else ""
        saved = ", checkpointing" if self.gradient_checkpointing else ""
        return f"{data}{kept}{saved}, batch {self.batch_size}"


def ways(batch_sizes: Sequence[int]) -> list[Way]:
    """Return all of them; those without a reference come last, so that it moves once."""
    data = ((False, False), (True, False), (True, True))
    return [
        Way(cached, kept, checkpointing, batch_size)
        for cached, kept in data
        for checkpointing in (True, False)
        for batch_size in batch_sizes
    ]


def write_pictures(folder: Path, *, num_pairs: int, side: int) -> Path:
    """Write preference pairs with pictures as large as the model's, so that reading counts too."""
    write_pairs(make_pairs(PairsConfig(source="rendered", num_prompts=num_pairs)), folder)
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            larger = picture.resize((side, side), Image.Resampling.BICUBIC)
        larger.save(path)
    return folder


class StepBench:
    """Everything that the contestants of one kind of pair share."""

    def __init__(
        self, settings: StepSettings, pipeline: Any, trained: Trained, folder: Path
    ) -> None:
        """Encode the pairs of a folder, with a pipeline that is on the device."""
        self.device = this_device()
        self.trained = trained
        self._forwards: dict[Way, float] = {}
        self.encoders = [
            part
            for name, part in pipeline.components.items()
            if name == "vae" or (name.startswith("text_encoder") and part is not None)
        ]
        self.schedule = NoiseSchedule.from_scheduler(pipeline.scheduler).to(self.device)
        self.weights = self.schedule.error_weights(None).to(self.device)
        online = DataSettings(path=folder, resolution=settings.resolution, encode="online")
        cached = DataSettings(
            path=folder, resolution=settings.resolution, cache=folder.with_name("cache")
        )
        pairs = read_preferences(online)
        self.online = open_online(pairs, pipeline, online)[0]
        denoiser_of(pipeline).to("cpu")
        # By whether they are cached.
        self.sources = {
            False: ShuffledPairs([self.online]),
            True: ShuffledPairs(encode_preferences(pairs, pipeline, cached)),
        }

    def contestant(self, way: Way, *, others: Sequence[nn.Module], clear: Callable) -> Contestant:
        """Return the contestant of a way.

        Args:
            way: How the step is made.
            others: What other contestants leave on the device.
            clear: Lets go of what else they hold.
        """
        trained = self.trained
        loss_of = functools.partial(self._loss, kept_errors=way.kept_errors)

        def ready() -> None:
            clear()
            needed = [] if way.cached else list(self.encoders)
            needed += [
                module
                for role, module in trained.model.denoisers.items()
                if trained.model.is_lora or role != "reference" or not way.kept_errors
            ]
            place(needed, [*others, *self.encoders, *trained.modules], self.device)
            trained.move_optimizer(self.device)
            trained.checkpoint(way.gradient_checkpointing)

        def prepare() -> dict[str, float]:
            ready()
            single = replace(way, batch_size=1)
            if single not in self._forwards:
                batch = next(self._batches(single))
                self._forwards[single] = self.forwards(
                    lambda: loss_of(batch().to(self.device)).backward()
                )
            return {"forwards": self._forwards[single]}

        def take() -> Turn:
            ready()
            turn = trained.turn(self._batches(way), loss_of, batch_size=way.batch_size)
            trained.let_go()
            return turn

        return Contestant(way.name, prepare, take, trained.let_go)

    def forwards(self, work: Callable[[], None]) -> float:
        """Count operations: what the work on one pair costs, in forwards with one row."""
        number = operations(work, self.device)
        self.trained.let_go()
        return number / self._of_a_forward

    @functools.cached_property
    def _of_a_forward(self) -> float:
        """Operations of one forward with one row: the reference makes two of a pair."""
        reference = self.trained.model.denoisers["reference"]
        place([reference], [], self.device)
        draw = next(self._batches(Way(True, False, False, 1)))().to(self.device)
        steps = self.schedule.timesteps[draw.levels]
        inputs = (draw.latents, steps, draw.conditions)

        def predict() -> None:
            with self.trained.autocast():
                self.trained.model.predict_reference(*inputs)

        return operations(predict, self.device) / 2

    def _loss(self, batch: PairBatch, *, kept_errors: bool) -> Tensor:
        model = self.trained.model
        if kept_errors:  # which numbers were kept does not change the speed
            zeros = torch.zeros(len(batch.levels), device=self.device)
            errors = dict.fromkeys(model.reference_predictions, zeros)
            batch = PairBatch(**{**vars(batch), "reference_errors": errors})
        return self.terms(batch, self.trained.predict).loss.mean()

    def terms(self, batch: PairBatch, model: Callable) -> Any:
        """Return the objective's terms of a batch."""
        return loss_terms(
            model,
            batch,
            schedule=self.schedule,
            error_weights=self.weights,
            objective=OBJECTIVE,
            settings=ObjectiveSettings(),
        )

    def _batches(self, way: Way) -> Iterator[Unfinished]:
        draws = DrawSettings(
            seed=0,
            batch_size=way.batch_size,
            level_at=lambda uniform: self.schedule.level_at(uniform, NoiseSettings()),
            prompt_drop=0.0,
            dispreferred_prompt_drop=0.5,
        )
        return self.sources[way.cached].batches(draws, after=0)
