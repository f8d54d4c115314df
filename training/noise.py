"""The noise levels that a model was made for, read from its scheduler."""

from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

from chats.errors import UserError
from chats.objective import PredictionType


@dataclass(frozen=True)
class NoiseSchedule:
    """L noise levels; z_t = signal·x₀ + sigma·ε.

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
    def from_scheduler(cls, scheduler: SchedulerMixin) -> "NoiseSchedule":
        """Read the levels of a diffusers scheduler as the model was trained with them.

        Raises:
            UserError: The scheduler's prediction type can't be trained.
        """
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            fresh = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
            return cls("flow", fresh.timesteps, 1 - fresh.sigmas, fresh.sigmas)
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
