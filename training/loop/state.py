"""What a training is at an optimizer step, saved and given back bit for bit.

Everything random is a function of the seed and the step (`training.data.draws`), so weights,
optimizer and moving average are all there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from chats.errors import UserError
from training.changes import flat_settings
from training.config import TrainingConfig
from training.loop import zero
from training.loop.checkpoints import (
    newest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from training.loop.metrics import MetricsWindow
from training.loop.optimizers import MovingAverage
from training.loop.sharding import own_part, shared_out, whole_tensors
from training.run import RunDirectory


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The parts of a training that its steps change.

    Attributes:
        model: The `PairModel`, not wrapped.
        optimizer: The optimizer, not wrapped.
        average: The moving average of the trained weights, if one is kept.
        scaler: Scales the loss for float16, if that is used.
        num_pairs: How many pairs are trained on: the draws depend on it; none for a stream.
        window: What was measured since the last line of metrics.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    scaler: Any
    num_pairs: int | None
    window: MetricsWindow

    def save(self, run: RunDirectory, *, step: int, keep_last: int) -> None:
        """Save a checkpoint of what stands after a step; every process must call it.

        The main process writes whole tensors, whatever the engine.

        Raises:
            UserError: The disk refuses it; earlier checkpoints stay.
        """
        is_writer = PartialState().is_main_process
        held = self.optimizer
        if zero.is_zero(held):
            held = zero.by_parameter(held, [*self._trained().values()], keep=is_writer)
        optimizer, settings = optimizer_tensors(held)
        tensors = {"model": self._weights(), "optimizer": optimizer}
        if self.average is not None:
            tensors["average"] = dict(zip(self._weights(), self.average.values, strict=True))
        tensors = {group: whole_tensors(each, keep=is_writer) for group, each in tensors.items()}
        if not is_writer:
            return
        scaler = None if self.scaler is None else self.scaler.state_dict()
        state = {
            "optimizer": settings,
            "num_pairs": self.num_pairs,
            "scaler": scaler,
            "window": self.window.saved(),
        }
        save_checkpoint(
            run.checkpoints, step=step, tensors=tensors, state=state, keep_last=keep_last
        )

    def resume(self, run: RunDirectory) -> int:
        """Take up the newest whole checkpoint; returns its step, 0 if there is none.

        Raises:
            UserError: The checkpoint is of another training.
        """
        checkpoint = newest_checkpoint(run.checkpoints)
        if checkpoint is None:
            return 0
        tensors, state = checkpoint.load()
        if state["num_pairs"] != self.num_pairs:
            raise UserError(
                f"The run {run.path} was trained on {state['num_pairs']} pairs, the data now has "
                f"{self.num_pairs}. Give it the same data, or set run.output to a new folder."
            )
        _copy(tensors["model"], self._weights())
        self._restore_optimizer(tensors["optimizer"], state["optimizer"])
        if self.average is not None:
            _copy(tensors["average"], dict(zip(self._weights(), self.average.values, strict=True)))
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.window.restore(state.get("window", []))
        return checkpoint.step

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        if not zero.is_zero(self.optimizer):
            return restore_optimizer(self.optimizer, tensors, state)
        parameters = [*self._trained().values()]
        held = zero.without_state(self.optimizer, parameters)
        restore_optimizer(held, tensors, state)
        return zero.take_up(self.optimizer, parameters, held)

    def _weights(self) -> dict[str, Tensor]:
        return {name: each.detach() for name, each in self._trained().items()}

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}


def check_same_training(config: TrainingConfig, run: RunDirectory) -> None:
    """Refuse to go on with other settings than the run was started with.

    Those may differ that only say where it runs and what is seen of it. Without a checkpoint
    there is nothing to go on with: the run is started afresh, whatever was asked before.

    Raises:
        UserError: A setting differs; says which, and both values.
    """
    if not (run.path / "config.yaml").exists() or not run.has_progress():
        return
    before, now = (flat_settings(each) for each in (run.read_config(), config))
    changed = [
        f"{name}: {before.get(name)} then, {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if _is_kept(name) and before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"The run in {run.path} was started with other settings:\n  "
            + "\n  ".join(changed)
            + "\nGive the same ones to go on with it, or set run.output to a new folder."
        )


def _is_kept(name: str) -> bool:
    """Whether a setting has to stay what it was; `validation.max_pairs` keeps curves of a piece."""
    return name in ("run.seed", "validation.held_out", "validation.max_pairs") or not (
        name.startswith(("run.", "samples.", "validation."))
    )


def _copy(saved: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    if {name: each.shape for name, each in saved.items()} != {
        name: each.shape for name, each in places.items()
    }:
        raise UserError(
            "The checkpoint holds other weights than this training has. Resume with the settings "
            "that the run was started with."
        )
    with torch.no_grad():
        for name, place in places.items():
            own_part(place).copy_(own_part(shared_out(saved[name], place)))
