"""What tests of the equations share: the scheduler's view of a call, and models apart."""

import copy
import functools
from dataclasses import dataclass

import torch

from chats.denoising.families import denoiser_of
from tests.tiny import merged


@dataclass
class Step:
    """What the scheduler was given at one step, and what the denoiser had been given."""

    prediction: torch.Tensor
    timestep: torch.Tensor
    denoiser_input: torch.Tensor


def record_steps(pipe) -> list[Step]:
    """Have the pipeline's scheduler write down its steps; signatures stay what they were."""
    steps, inputs = [], []
    scale, step = getattr(pipe.scheduler, "scale_model_input", None), pipe.scheduler.step

    @functools.wraps(step)
    def recorded_step(model_output, timestep, sample, *args, **kwargs):
        steps.append(Step(model_output.clone(), timestep, inputs.pop() if inputs else sample))
        return step(model_output, timestep, sample, *args, **kwargs)

    pipe.scheduler.step = recorded_step
    if scale:

        @functools.wraps(scale)
        def recorded_scale(*args, **kwargs):
            inputs.append(scale(*args, **kwargs).clone())
            return inputs[-1]

        pipe.scheduler.scale_model_input = recorded_scale
    return steps


def seeds(num_pictures: int, start: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(start + i) for i in range(num_pictures)]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def models_by_hand(pipe, pair) -> tuple:
    """Return reference, preferred and dispreferred as three separate stock models."""
    denoiser = denoiser_of(pipe)
    halves = (pair.preferred, pair.dispreferred)
    if pair.metadata.kind == "lora":
        halves = tuple(merged(denoiser, half) for half in halves)
    return (copy.deepcopy(denoiser), *halves)
