"""How a model is placed that may be larger than its device: the ladder from whole to refused."""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DiffusionPipeline

from chats.errors import UserError

Placement = Literal["resident", "model offload", "group offload"]
"""`resident`: all of it on the device; `model offload`: the part that works (text encoder,
denoiser, autoencoder); `group offload`: the layer that works. The rest lies in main memory."""


@dataclass(frozen=True)
class Sizes:
    """What each placement of a model takes on the device, in bytes."""

    resident: int
    model_offload: int
    group_offload: int

    def of(self, placement: Placement) -> int:
        """Return what one of them takes."""
        return getattr(self, placement.replace(" ", "_"))


def choose_placement(
    sizes: Sizes, *, beside_bytes: int, room_bytes: int | None, can_offload: bool
) -> Placement:
    """Return the fastest placement that fits.

    Args:
        sizes: of the model.
        beside_bytes: what its pair and the work on pictures take on the device.
        room_bytes: what is free, or can be made so; none means no limit.
        can_offload: whether parts can wait in main memory.

    Raises:
        UserError: none fits; says what each takes.
    """
    ladder: tuple[Placement, ...] = ("resident", "model offload", "group offload")
    ladder = ladder if can_offload else ladder[:1]
    for placement in ladder:
        if room_bytes is None or sizes.of(placement) + beside_bytes <= room_bytes:
            return placement
    takes = ", ".join(f"{_gb(sizes.of(each) + beside_bytes)} GB by {each}" for each in ladder)
    takes = takes.replace(" by resident", " as a whole")
    raise UserError(
        f"This model does not fit: with its pair and its pictures it takes {takes}; "
        f"{_gb(room_bytes)} GB can be had. Unload what is not in use, lower the size of the "
        "pictures, or choose a smaller model."
    )


def place(pipeline: DiffusionPipeline, placement: Placement, *, device: torch.device) -> None:
    """Bring a pipeline, whose weights are in main memory, to the device."""
    if placement == "resident":
        pipeline.to(device)
    elif placement == "model offload":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(onload_device=device, offload_type="leaf_level")


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f}"
