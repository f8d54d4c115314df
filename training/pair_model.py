"""One module that holds the trained models and their reference, so that one forward is a step."""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from chats.denoising.adapter_rows import (
    adapter_rows,
    adapter_weights,
    add_pair_adapters,
    lora_layers,
)
from chats.objective import Condition, Half, Objective, Prediction, Role
from training.config import ModelSettings

Latents = Mapping[Half, Tensor]
Conditions = Mapping[Condition, Mapping[str, Tensor]]


class PairModel(nn.Module):
    """The denoisers of one objective; `accelerator.prepare` wraps this and nothing inside it.

    Full: a copy of the base for each trained role, and the frozen base as the reference.
    LoRA: one frozen base; each trained role is an adapter, the reference the base without them.

    Attributes:
        denoisers: The modules that `forward` calls; full: by role, LoRA: only "reference".
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        objective: Objective,
        settings: ModelSettings,
        targets: tuple[str, ...],
        seed: int,
    ):
        """Build it from copies of `base`, which stays as it is.

        Args:
            base: The denoiser that training starts from.
            objective: Says which predictions a step needs and which roles are trained.
            settings: LoRA or full, and the adapters' shape.
            targets: Names of the layers that get adapters.
            seed: Seed of the adapters' first values.
        """
        super().__init__()
        self.predictions = objective.predictions
        self.trained = objective.trained
        self.is_lora = settings.kind == "lora"
        reference = _frozen_copy(base)
        if self.is_lora:
            self.denoisers = nn.ModuleDict({"reference": reference})
            add_pair_adapters(
                reference,
                rank=settings.rank,
                alpha=settings.lora_alpha,
                targets=targets,
                generator=torch.Generator().manual_seed(seed),
            )
            _freeze_adapters(reference, except_roles=self.trained)
            return
        self.denoisers = nn.ModuleDict(
            {role: copy.deepcopy(reference).requires_grad_(True) for role in self.trained}
        )
        if objective.reference:
            self.denoisers["reference"] = reference

    def forward(
        self, latents: Latents, timesteps: Tensor, conditions: Conditions
    ) -> dict[Prediction, Tensor]:
        """Return every prediction of a step.

        Trained adapters share one forward, each row its own adapter. The reference runs apart,
        without gradients, which saves its share of the memory and of the backward.

        Args:
            latents: z_t of each half, `(B, C, h, w)`.
            timesteps: Of each pair, `(B,)`.
            conditions: The denoiser's arguments under c and under c′, each `(B, ...)`.

        Returns:
            For each prediction the denoiser's output, `(B, C, h, w)`.
        """
        inputs = (latents, timesteps, conditions)
        trained = [each for each in self.predictions if each.model != "reference"]
        reference = [each for each in self.predictions if each.model == "reference"]
        if not self.is_lora:
            outputs = self._predict_each(trained, *inputs)
            with torch.no_grad():
                return outputs | self._predict_each(reference, *inputs)
        rows = [each.model for each in trained for _ in timesteps]
        with adapter_rows(self.denoisers["reference"], rows):
            outputs = self._predict_together(trained, *inputs)
        if reference:
            with torch.no_grad():
                outputs |= self._predict_together(reference, *inputs)
        return outputs

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that the optimizer may change."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def trained_half(self, role: Role) -> nn.Module | dict[str, Tensor]:
        """Return what was trained for a role: a denoiser, or an adapter's weights."""
        if self.is_lora:
            return adapter_weights(self.denoisers["reference"], role)
        return self.denoisers[role].to(memory_format=torch.contiguous_format)

    def _predict_each(
        self,
        predictions: Sequence[Prediction],
        latents: Latents,
        timesteps: Tensor,
        conditions: Conditions,
    ) -> dict[Prediction, Tensor]:
        """Make each prediction with its own denoiser, one after the other."""
        return {
            each: self.denoisers[each.model](
                latents[each.half], timesteps, **conditions[each.condition], return_dict=False
            )[0]
            for each in predictions
        }

    def _predict_together(
        self,
        predictions: Sequence[Prediction],
        latents: Latents,
        timesteps: Tensor,
        conditions: Conditions,
    ) -> dict[Prediction, Tensor]:
        """Make all predictions in one forward of the one denoiser, `B` rows for each."""
        arguments = [conditions[each.condition] for each in predictions]
        output = self.denoisers["reference"](
            torch.cat([latents[each.half] for each in predictions]),
            timesteps.repeat(len(predictions)),
            **{name: torch.cat([each[name] for each in arguments]) for name in arguments[0]},
            return_dict=False,
        )[0]
        return dict(zip(predictions, output.chunk(len(predictions)), strict=True))


def _freeze_adapters(denoiser: nn.Module, *, except_roles: Sequence[Role]) -> None:
    for layer in lora_layers(denoiser):
        for name in layer.r:
            if name not in except_roles:
                layer.lora_A[name].requires_grad_(False)
                layer.lora_B[name].requires_grad_(False)


def _frozen_copy(base: nn.Module) -> nn.Module:
    """Copy the base as frozen 32-bit weights; convolutions run faster with channels last."""
    frozen = copy.deepcopy(base).cpu().float().requires_grad_(False).eval()
    has_convolutions = any(isinstance(module, nn.Conv2d) for module in frozen.modules())
    return frozen.to(memory_format=torch.channels_last) if has_convolutions else frozen
