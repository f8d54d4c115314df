"""From a batch to what the objective says of it, on one process and on all."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from chats.objective import (
    LossTerms,
    Objective,
    error,
    noisy_latents,
    objective_loss,
    training_target,
)
from training.config import ObjectiveSettings
from training.data.draws import PairBatch
from training.loop.noise import NoiseSchedule


def loss_terms(
    model: nn.Module,
    batch: PairBatch,
    *,
    schedule: NoiseSchedule,
    error_weights: Tensor,
    objective: Objective,
    settings: ObjectiveSettings,
) -> LossTerms:
    """Noise a batch, predict, and compare: the objective's loss per sample and its terms."""
    level = {"signal": schedule.signal[batch.levels], "sigma": schedule.sigma[batch.levels]}
    noisy, targets = {}, {}
    for half, latents in batch.latents.items():
        noisy[half] = noisy_latents(latents, batch.noise, **level)
        targets[half] = training_target(schedule.prediction_type, latents, batch.noise, **level)
    predictions = model(noisy, schedule.timesteps[batch.levels], batch.conditions)
    counts = error_weights[batch.levels]
    errors = {
        each: counts * error(output, targets[each.half]) for each, output in predictions.items()
    }
    return objective_loss(objective, errors, temperature=settings.temperature, beta=settings.beta)


def gathered(terms: LossTerms, accelerator: Accelerator) -> LossTerms:
    """Return the terms of every process's samples, in the processes' order, without gradients."""
    terms = terms.detach()
    if accelerator.num_processes == 1:
        return terms
    found = {name: value for name, value in vars(terms).items() if value is not None}
    return LossTerms(**accelerator.gather(found))


def any_of(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in some process."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.gather(torch.tensor([flag], device=accelerator.device)).any().item()
