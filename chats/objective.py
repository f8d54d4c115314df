"""Training objectives: one table of signed errors, and how they become a loss.

A pair (x⁺, x⁻, c) is a preferred image, a dispreferred image and their prompt. Per sample,

    e(model, z, c) = mean over C, H, W of (target − prediction)²

and every objective is a signed sum of such errors, bare or relative to the frozen reference:

    without reference   L = Σₖ signₖ · e(θₖ, zₖ, cₖ)
    with reference      L = −log σ(a),   a = −strength · Σₖ signₖ · [e(θₖ, zₖ, cₖ) − e(ref, zₖ, cₖ)]

so a new objective is one row of `OBJECTIVES`, and the training loop never asks which one it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chats.denoising.methods import Role

Half = Literal["preferred", "dispreferred"]
Condition = Literal["prompt", "dropped"]
PredictionType = Literal["epsilon", "v_prediction", "flow"]


@dataclass(frozen=True)
class Prediction:
    """Which model predicts, on which half of the pair, under which condition.

    `prompt` is c. `dropped` is c′: c, or the null condition ∅ for the samples whose prompt was
    dropped. The reference is given the same one as the model it is compared with.
    """

    model: Role
    half: Half
    condition: Condition


@dataclass(frozen=True)
class SignedError:
    """One error of a trained model: +1 if the objective lowers it, −1 if it raises it."""

    sign: Literal[1, -1]
    prediction: Prediction


@dataclass(frozen=True)
class Objective:
    """One row of the table.

    Attributes:
        errors: The errors of the trained models, with their signs.
        reference: Whether they are taken relative to the reference, inside −log σ.
        strength: The setting that multiplies them (T, or β/2); none without a reference.
    """

    errors: tuple[SignedError, ...]
    reference: bool
    strength: Literal["temperature", "half_beta"] | None

    @property
    def trained(self) -> tuple[Role, ...]:
        """Roles that are trained, in the order in which they appear."""
        return tuple(dict.fromkeys(error.prediction.model for error in self.errors))

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """Every prediction that one step needs: the trained models', then the reference's."""
        trained = tuple(error.prediction for error in self.errors)
        return trained + tuple(reference_of(p) for p in trained) if self.reference else trained


@dataclass(frozen=True)
class LossTerms:
    """What an objective says of a batch; each tensor is `(B,)`.

    Attributes:
        loss: Loss per sample; its mean is what is minimised.
        preferred_reward: r⁺ = −strength · [e(θ, z⁺) − e(ref, z⁺)], the implicit reward of the model
            that saw the preferred half; none without a reference.
        dispreferred_reward: r⁻, the same on the dispreferred half.
        margin: a, the argument of the sigmoid: r⁺ + r⁻ for CHATS, r⁺ − r⁻ for Diffusion-DPO.
            Where its spread is far below 1, T (or β) is too small for errors of this size: the
            sigmoid is flat.
    """

    loss: Tensor
    preferred_reward: Tensor | None = None
    dispreferred_reward: Tensor | None = None
    margin: Tensor | None = None

    @property
    def accuracy(self) -> Tensor | None:
        """1 where the margin is positive, else 0, `(B,)`."""
        return None if self.margin is None else (self.margin > 0).to(self.margin.dtype)

    def detach(self) -> "LossTerms":
        """Return the same numbers without their gradients."""
        return LossTerms(
            *(
                None if term is None else term.detach()
                for term in (
                    self.loss,
                    self.preferred_reward,
                    self.dispreferred_reward,
                    self.margin,
                )
            )
        )


def reference_of(prediction: Prediction) -> Prediction:
    """Return what the reference must predict to be compared with `prediction`."""
    return Prediction("reference", prediction.half, prediction.condition)


_PREFERRED = Prediction("preferred", "preferred", "prompt")
_DISPREFERRED = Prediction("dispreferred", "dispreferred", "dropped")
_SINGLE_ON_DISPREFERRED = Prediction("preferred", "dispreferred", "prompt")
_NEGATIVE_ON_PREFERRED = Prediction("dispreferred", "preferred", "prompt")
_NEGATIVE_ON_DISPREFERRED = Prediction("dispreferred", "dispreferred", "prompt")

OBJECTIVES: Mapping[str, Objective] = {
    # eq. 13 (ε and v) and eq. 14 (flow): −log σ(−T·[Δe(θ⁺, z⁺, c) + Δe(θ⁻, z⁻, c′)])
    "chats": Objective(
        (SignedError(1, _PREFERRED), SignedError(1, _DISPREFERRED)), True, "temperature"
    ),
    # Table 4, "two models w/o ref": e(θ⁺, z⁺, c) + e(θ⁻, z⁻, c′)
    "chats-no-ref": Objective(
        (SignedError(1, _PREFERRED), SignedError(1, _DISPREFERRED)), False, None
    ),
    # Wallace et al. 2024: −log σ(−β/2·[Δe(θ, z⁺, c) − Δe(θ, z⁻, c)])
    "diffusion-dpo": Objective(
        (SignedError(1, _PREFERRED), SignedError(-1, _SINGLE_ON_DISPREFERRED)), True, "half_beta"
    ),
    "sft-preferred": Objective((SignedError(1, _PREFERRED),), False, None),
    "sft-all": Objective(
        (SignedError(1, _PREFERRED), SignedError(1, _SINGLE_ON_DISPREFERRED)), False, None
    ),
    # Wang et al., ICLR 2025: diffusion-dpo with the halves swapped; trains θ⁻
    "diffusion-npo": Objective(
        (SignedError(1, _NEGATIVE_ON_DISPREFERRED), SignedError(-1, _NEGATIVE_ON_PREFERRED)),
        True,
        "half_beta",
    ),
}


def objective_loss(
    objective: Objective, errors: Mapping[Prediction, Tensor], *, temperature: float, beta: float
) -> LossTerms:
    """Combine per-sample errors into the objective's loss and its terms.

    Args:
        objective: A row of `OBJECTIVES`.
        errors: e of each of `objective.predictions`, `(B,)`.
        temperature: T of eq. 13 and 14; used by the CHATS rows with a reference.
        beta: β of Diffusion-DPO and Diffusion-NPO.

    Returns:
        The loss per sample and its terms; exactly log 2 where the models equal the reference.
    """
    if not objective.reference:
        return LossTerms(sum(error.sign * errors[error.prediction] for error in objective.errors))
    strength = temperature if objective.strength == "temperature" else beta / 2
    rewards = {
        error.prediction.half: strength
        * (errors[reference_of(error.prediction)] - errors[error.prediction])
        for error in objective.errors
    }
    margin = sum(error.sign * rewards[error.prediction.half] for error in objective.errors)
    return LossTerms(
        loss=-torch.nn.functional.logsigmoid(margin),
        preferred_reward=rewards["preferred"],
        dispreferred_reward=rewards["dispreferred"],
        margin=margin,
    )


def error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return e = mean over C, H, W of (target − prediction)²: `(B, C, H, W)` → `(B,)`."""
    return (target - prediction).square().flatten(1).mean(1)


def noisy_latents(latents: Tensor, noise: Tensor, *, signal: Tensor, sigma: Tensor) -> Tensor:
    """Return z_t = signal·x₀ + sigma·ε.

    Args:
        latents: x₀, `(B, C, H, W)`.
        noise: ε, the same shape.
        signal: √ᾱ_t for diffusion, 1 − t for rectified flow, `(B,)`.
        sigma: √(1 − ᾱ_t) for diffusion, t for rectified flow, `(B,)`.
    """
    return _per_sample(signal, latents) * latents + _per_sample(sigma, latents) * noise


def training_target(
    prediction_type: PredictionType,
    latents: Tensor,
    noise: Tensor,
    *,
    signal: Tensor,
    sigma: Tensor,
) -> Tensor:
    """Return what the model should predict from `noisy_latents` of the same arguments.

    ε for `epsilon`; v = √ᾱ·ε − √(1 − ᾱ)·x₀ for `v_prediction`; ε − x₀ for `flow`.

    Raises:
        ValueError: The prediction type is none of these.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return _per_sample(signal, latents) * noise - _per_sample(sigma, latents) * latents
    if prediction_type == "flow":
        return noise - latents
    raise ValueError(
        f"Prediction type {prediction_type!r} can't be trained; "
        "use a model whose scheduler predicts 'epsilon', 'v_prediction' or flow."
    )


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
