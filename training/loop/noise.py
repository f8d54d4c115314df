"""The noise levels that a model was made for, read from its scheduler, and how they are drawn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

from chats.errors import UserError
from chats.objective import PredictionType
from training.config import NoiseSettings


@dataclass(frozen=True)
class NoiseSchedule:
    """L noise levels, from little to much; z_t = signal·x₀ + sigma·ε.

    Attributes:
        prediction_type: What the denoiser predicts.
        timesteps: What the denoiser is told of each level, `(L,)`.
        signal: √ᾱ_t for diffusion, 1 − t for rectified flow, `(L,)`.
        sigma: √(1 − ᾱ_t) for diffusion, t for rectified flow, `(L,)`.
    """

    prediction_type: PredictionType
    timesteps: Tensor
    signal: Tensor
    sigma: Tensor

    @classmethod
    def from_scheduler(
        cls, scheduler: SchedulerMixin, *, shift: float | None = None, num_tokens: int | None = None
    ) -> "NoiseSchedule":
        """Read the levels of a diffusers scheduler as the model was trained with them.

        Args:
            scheduler: The pipeline's scheduler.
            shift: Flow models: replaces the scheduler's own shift.
            num_tokens: Tokens of a picture, where the scheduler's own shift depends on them.

        Raises:
            UserError: The scheduler's prediction type can't be trained, or it has no shift.
        """
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            num_levels = scheduler.config.num_train_timesteps
            if shift is None:
                shift = _own_shift(scheduler.config, num_tokens)
            time = torch.arange(1, num_levels + 1) / num_levels
            sigma = shift * time / (1 + (shift - 1) * time)
            return cls("flow", sigma * num_levels, 1 - sigma, sigma)
        if shift is not None:
            raise UserError(
                f"noise.shift {shift:g} is for flow models; this one has the scheduler "
                f"{type(scheduler).__name__}. Leave noise.shift out."
            )
        prediction_type = scheduler.config.prediction_type
        if prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f"This model predicts {prediction_type!r}; only 'epsilon', 'v_prediction' and "
                "flow models can be trained."
            )
        alphas_cumprod = scheduler.alphas_cumprod
        return cls(
            prediction_type,
            torch.arange(len(alphas_cumprod)),
            alphas_cumprod.sqrt(),
            (1 - alphas_cumprod).sqrt(),
        )

    def level_at(self, uniform: float, settings: NoiseSettings) -> int:
        """Return the row of the schedule that a uniform number in [0, 1) stands for."""
        if settings.sampling == "logit-normal":
            normal = NormalDist(settings.logit_mean, settings.logit_std)
            uniform = 1 / (1 + math.exp(-normal.inv_cdf(min(max(uniform, 1e-9), 1 - 1e-9))))
        return min(int(uniform * len(self)), len(self) - 1)

    def error_weights(self, gamma: float | None) -> Tensor:
        """Return what the error of each level counts, `(L,)`: min-SNR, or 1 without a γ.

        min(SNR, γ) of x₀'s error is min(SNR, γ)/SNR of ε's and min(SNR, γ)/(SNR + 1) of v's
        (Hang et al. 2023).

        Raises:
            UserError: A γ for a flow model, which has no such weights.
        """
        if gamma is None:
            return torch.ones_like(self.sigma)
        if self.prediction_type == "flow":
            raise UserError(
                f"noise.min_snr_gamma {gamma:g} is for diffusion models; this is a flow model. "
                "Leave it out, or choose noise.sampling logit-normal."
            )
        snr = (self.signal / self.sigma).square()
        counted = snr.clamp(max=gamma)
        return counted / (snr if self.prediction_type == "epsilon" else snr + 1)

    def to(self, device: torch.device) -> "NoiseSchedule":
        """Return the schedule on a device."""
        return NoiseSchedule(
            self.prediction_type,
            self.timesteps.to(device),
            self.signal.to(device),
            self.sigma.to(device),
        )

    def __len__(self) -> int:
        return len(self.timesteps)


def _own_shift(config: Mapping[str, Any], num_tokens: int | None) -> float:
    """Return a flow scheduler's shift; for Flux exp(µ), µ linear in the number of tokens."""
    if not config["use_dynamic_shifting"]:
        return config["shift"]
    if num_tokens is None:
        raise ValueError("This scheduler's shift depends on the number of tokens; give it.")
    small, large = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (large - small)
    mu = config["base_shift"] + slope * (num_tokens - small)
    return math.exp(mu) if config["time_shift_type"] == "exponential" else mu
