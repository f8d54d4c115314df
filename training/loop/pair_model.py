"""One module that holds the trained models and their reference, so that one forward is a step."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from accelerate import PartialState
from torch import Tensor, nn

from chats.denoising.adapter_rows import (
    adapter_parameters,
    adapter_rows,
    add_pair_adapters,
    lora_layers,
)
from chats.denoising.calls import call_denoiser
from chats.denoising.family import Family
from chats.errors import UserError
from chats.objective import Condition, Half, Objective, Prediction, Role
from training.config import ModelSettings
from training.loop.sharding import is_shared_out, whole_tensors

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
        family: Family,
        seed: int,
    ):
        """Build it from copies of `base`, which stays as it is.

        Args:
            base: The denoiser that training starts from.
            objective: Says which predictions a step needs and which roles are trained.
            settings: LoRA or full, and the adapters' shape.
            family: How the denoiser is called, and the layers that get adapters by default.
            seed: Seed of the adapters' first values.
        """
        super().__init__()
        self.predictions = objective.predictions
        self.trained = objective.trained
        self.family = family
        self.is_lora = settings.kind == "lora"
        self._open = contextlib.ExitStack()
        reference = _frozen_copy(base)
        if self.is_lora:
            self.denoisers = nn.ModuleDict({"reference": reference})
            add_pair_adapters(
                reference,
                rank=settings.rank,
                alpha=settings.lora_alpha,
                targets=settings.targets or family.lora_targets,
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
        predict = self._predict_together if self.is_lora else self._predict_each
        self.end_step()
        outputs = {}
        if reference:
            with torch.no_grad():
                outputs |= predict(reference, *inputs)
        if self.is_lora:
            rows = [each.model for each in trained for _ in timesteps]
            self._open.enter_context(adapter_rows(self.denoisers["reference"], rows))
        return outputs | predict(trained, *inputs)

    def end_step(self) -> None:
        """Let go of the rows of the last forward.

        They stay until then, because gradient checkpointing computes that forward again in the
        backward, and must see the same rows.
        """
        self._open.close()

    def enable_gradient_checkpointing(self) -> None:
        """Compute the activations of the trained denoisers again in the backward.

        Raises:
            UserError: The denoiser can't.
        """
        for role, denoiser in self.denoisers.items():
            if role in self.trained or self.is_lora:
                try:
                    denoiser.enable_gradient_checkpointing()
                except (AttributeError, ValueError):
                    raise UserError(
                        f"{type(denoiser).__name__} has no gradient checkpointing. "
                        "Set optimizer.gradient_checkpointing to false."
                    ) from None

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that the optimizer may change."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def trained_half(self, role: Role) -> nn.Module | dict[str, Tensor]:
        """Return what was trained for a role: a denoiser, or an adapter's weights.

        Where processes share the weights out, every one of them must ask; a denoiser is then a
        copy, with whole weights in the main process and none in the others.
        """
        self.end_step()
        if self.is_lora:
            adapter = adapter_parameters(self.denoisers["reference"], role)
            return {
                name: each.to("cpu", copy=True).contiguous()
                for name, each in whole_tensors(adapter, keep=True).items()
            }
        denoiser = self.denoisers[role]
        if is_shared_out(denoiser):
            return _whole_copy(denoiser)
        return denoiser.to(memory_format=torch.contiguous_format)

    def _predict_each(
        self,
        predictions: Sequence[Prediction],
        latents: Latents,
        timesteps: Tensor,
        conditions: Conditions,
    ) -> dict[Prediction, Tensor]:
        """Make each prediction with its own denoiser, one after the other."""
        return {
            each: call_denoiser(
                self.denoisers[each.model],
                latents[each.half],
                timesteps,
                conditions[each.condition],
                family=self.family,
            )
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
        output = call_denoiser(
            self.denoisers["reference"],
            torch.cat([latents[each.half] for each in predictions]),
            timesteps.repeat(len(predictions)),
            {name: torch.cat([each[name] for each in arguments]) for name in arguments[0]},
            family=self.family,
        )
        return dict(zip(predictions, output.chunk(len(predictions)), strict=True))


def _freeze_adapters(denoiser: nn.Module, *, except_roles: Sequence[Role]) -> None:
    for layer in lora_layers(denoiser):
        for name in layer.r:
            if name not in except_roles:
                layer.lora_A[name].requires_grad_(False)
                layer.lora_B[name].requires_grad_(False)


def _whole_copy(denoiser: nn.Module) -> nn.Module:
    weights = whole_tensors(denoiser.state_dict(), keep=PartialState().is_main_process)
    with torch.device("meta"):
        twin = type(denoiser).from_config(denoiser.config)
    if weights:
        twin.load_state_dict(weights, assign=True)
    return twin


def _frozen_copy(base: nn.Module) -> nn.Module:
    """Copy the base as frozen 32-bit weights; convolutions run faster with channels last."""
    device = "meta" if next(base.parameters()).is_meta else "cpu"
    frozen = copy.deepcopy(base).to(device).float().requires_grad_(False).eval()
    has_convolutions = any(isinstance(module, nn.Conv2d) for module in frozen.modules())
    return frozen.to(memory_format=torch.channels_last) if has_convolutions else frozen
