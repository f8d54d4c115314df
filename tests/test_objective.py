"""The objectives, against values derived by hand and formulas written out from the paper."""

import math
from typing import get_args

import pytest
import torch

from chats.objective import (
    OBJECTIVES,
    Prediction,
    error,
    noisy_latents,
    objective_loss,
    training_target,
)
from training.config import ObjectiveName

SCALES = {"temperature": 1000.0, "beta": 2000.0}


def two_pixels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2)


def errors_of(objective, **values: float) -> dict[Prediction, torch.Tensor]:
    """Build errors from names such as `reference_preferred` = model and half."""
    return {
        each: torch.tensor([values[f"{each.model}_{each.half}"]], dtype=torch.float64)
        for each in objective.predictions
    }


def test_an_unknown_prediction_type_is_refused_by_name():
    pixels = two_pixels(0, 0)
    with pytest.raises(ValueError, match="'sample' can't be trained"):
        training_target("sample", pixels, pixels, signal=pixels[0, 0, 0], sigma=pixels[0, 0, 0])


def test_the_table_holds_exactly_the_objectives_that_the_settings_offer():
    assert set(OBJECTIVES) == set(get_args(ObjectiveName))


def test_the_error_is_the_mean_over_everything_but_the_batch():
    """Target (1, 2), prediction (0, 4): (1² + 2²) / 2 = 2.5."""
    assert error(two_pixels(0, 4), two_pixels(1, 2)).tolist() == [2.5]


def test_the_targets_are_the_hand_derived_ones():
    """x₀ = (2, 0), ε = (1, −1), signal 0.6, sigma 0.8.

    z = 0.6·x₀ + 0.8·ε = (2.0, −0.8); ε itself; v = 0.6·ε − 0.8·x₀ = (−1.0, −0.6);
    flow ε − x₀ = (−1, −1).
    """
    latents, noise = two_pixels(2, 0), two_pixels(1, -1)
    level = {
        "signal": torch.tensor([0.6], dtype=torch.float64),
        "sigma": torch.tensor([0.8], dtype=torch.float64),
    }
    torch.testing.assert_close(noisy_latents(latents, noise, **level), two_pixels(2.0, -0.8))
    assert training_target("epsilon", latents, noise, **level) is noise
    torch.testing.assert_close(
        training_target("v_prediction", latents, noise, **level), two_pixels(-1.0, -0.6)
    )
    torch.testing.assert_close(training_target("flow", latents, noise, **level), two_pixels(-1, -1))


def test_chats_on_two_pixels():
    """Eq. 13 by hand, T = 2, target (0, 0) everywhere.

    θ⁺ predicts (1, 0): e = 0.5; ref there (1, 1): e = 1 → Δ⁺ = −0.5, r⁺ = −2·(−0.5) = 1.
    θ⁻ predicts (0, 1): e = 0.5; ref there (0, 0): e = 0 → Δ⁻ = 0.5, r⁻ = −1.
    The argument is r⁺ + r⁻ = 0, so L = log 2.
    """
    target = two_pixels(0, 0)
    errors = {
        Prediction("preferred", "preferred", "prompt"): error(two_pixels(1, 0), target),
        Prediction("reference", "preferred", "prompt"): error(two_pixels(1, 1), target),
        Prediction("dispreferred", "dispreferred", "dropped"): error(two_pixels(0, 1), target),
        Prediction("reference", "dispreferred", "dropped"): error(two_pixels(0, 0), target),
    }
    terms = objective_loss(OBJECTIVES["chats"], errors, temperature=2.0, beta=7.0)
    assert terms.preferred_reward.tolist() == [1.0]
    assert terms.dispreferred_reward.tolist() == [-1.0]
    assert terms.margin.tolist() == [0.0]
    assert terms.loss.item() == pytest.approx(math.log(2), abs=1e-15)


def test_diffusion_dpo_by_hand():
    """β = 4, so β/2 = 2: Δ on z⁺ = 1 − 2 = −1, Δ on z⁻ = 3 − 2.5 = 0.5.

    Argument −2·(−1 − 0.5) = 3, L = log(1 + e⁻³); rewards 2 and −1, margin their difference.
    """
    errors = errors_of(
        OBJECTIVES["diffusion-dpo"],
        preferred_preferred=1.0,
        reference_preferred=2.0,
        preferred_dispreferred=3.0,
        reference_dispreferred=2.5,
    )
    terms = objective_loss(OBJECTIVES["diffusion-dpo"], errors, temperature=9.0, beta=4.0)
    assert (terms.preferred_reward.item(), terms.dispreferred_reward.item()) == (2.0, -1.0)
    assert terms.margin.tolist() == [3.0]
    assert terms.accuracy.tolist() == [1.0]
    assert terms.loss.item() == pytest.approx(math.log1p(math.exp(-3)), abs=1e-15)


def test_diffusion_npo_is_diffusion_dpo_with_the_halves_swapped():
    values = {"reference_preferred": 2.0, "reference_dispreferred": 2.5}
    npo = errors_of(
        OBJECTIVES["diffusion-npo"],
        dispreferred_dispreferred=1.0,
        dispreferred_preferred=3.0,
        **values,
    )
    dpo = errors_of(
        OBJECTIVES["diffusion-dpo"],
        preferred_preferred=1.0,
        preferred_dispreferred=3.0,
        reference_preferred=2.5,
        reference_dispreferred=2.0,
    )
    loss_npo = objective_loss(OBJECTIVES["diffusion-npo"], npo, **SCALES).loss
    loss_dpo = objective_loss(OBJECTIVES["diffusion-dpo"], dpo, **SCALES).loss
    assert torch.equal(loss_npo, loss_dpo)


@pytest.mark.parametrize(
    ("name", "loss"), [("chats-no-ref", 5.0), ("sft-preferred", 2.0), ("sft-all", 6.0)]
)
def test_objectives_without_a_reference_are_plain_sums_of_errors(name, loss):
    """θ⁺ on z⁺ 2; θ⁻ on z⁻ 3; θ⁺ on z⁻ 4."""
    errors = errors_of(
        OBJECTIVES[name],
        preferred_preferred=2.0,
        dispreferred_dispreferred=3.0,
        preferred_dispreferred=4.0,
    )
    terms = objective_loss(OBJECTIVES[name], errors, **SCALES)
    assert terms.loss.tolist() == [loss]
    assert terms.margin is None
    assert terms.accuracy is None


@pytest.mark.parametrize("name", ["chats", "diffusion-dpo", "diffusion-npo"])
@pytest.mark.parametrize("strength", [1.0, 1000.0, 1e6])
def test_the_loss_is_log_2_where_the_models_equal_the_reference(name, strength):
    objective = OBJECTIVES[name]
    size = torch.rand(5, dtype=torch.float64)
    errors = dict.fromkeys(objective.predictions, size)
    terms = objective_loss(objective, errors, temperature=strength, beta=strength)
    assert torch.equal(terms.loss, torch.full_like(size, math.log(2)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
def test_chats_equals_equations_13_and_14_written_out(prediction_type):
    """The whole way from images to loss, with linear stand-ins for the four predictions."""
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64)

    preferred, dispreferred, noise = draw(), draw(), draw()
    time = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    if prediction_type == "flow":
        signal, sigma = 1 - time, time
    else:
        signal, sigma = time.sqrt(), (1 - time).sqrt()
    models = {role: draw() for role in ("preferred", "dispreferred", "reference")}
    offsets = {"prompt": 0.1, "dropped": -0.2}

    def predict(role, latents, condition):
        return models[role] * latents + offsets[condition]

    objective = OBJECTIVES["chats"]
    halves = {"preferred": preferred, "dispreferred": dispreferred}
    errors = {}
    for each in objective.predictions:
        latents = halves[each.half]
        noisy = noisy_latents(latents, noise, signal=signal, sigma=sigma)
        target = training_target(prediction_type, latents, noise, signal=signal, sigma=sigma)
        errors[each] = error(predict(each.model, noisy, each.condition), target)
    terms = objective_loss(objective, errors, temperature=3.0, beta=0.1)

    expected = []
    for b in range(3):
        a, s = signal[b], sigma[b]
        bracket = 0.0
        for x, role, offset in (
            (preferred, "preferred", 0.1),
            (dispreferred, "dispreferred", -0.2),
        ):
            z = a * x[b] + s * noise[b]
            y = {
                "epsilon": noise[b],
                "v_prediction": a * noise[b] - s * x[b],
                "flow": noise[b] - x[b],
            }[prediction_type]
            bracket += ((y - (models[role][b] * z + offset)) ** 2).mean()
            bracket -= ((y - (models["reference"][b] * z + offset)) ** 2).mean()
        expected.append(math.log1p(math.exp(3.0 * bracket)))
    torch.testing.assert_close(
        terms.loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_the_gradient_of_chats_is_the_papers_scalar_times_each_branch():
    """∇θ± = T·σ(T·(Δ⁺ + Δ⁻))·∇Δ±: with e = θ², θ⁺ = 1, θ⁻ = 2, ref 0 and T = 0.1.

    T·(Δ⁺ + Δ⁻) = 0.5, σ(0.5) = 0.6225; ∇θ⁺ = 0.1·0.6225·2 = 0.1245, ∇θ⁻ = 0.1·0.6225·4 = 0.249.
    """
    plus = torch.tensor([1.0], requires_grad=True)
    minus = torch.tensor([2.0], requires_grad=True)
    objective = OBJECTIVES["chats"]
    values = (plus**2, minus**2, torch.zeros(1), torch.zeros(1))
    errors = dict(zip(objective.predictions, values, strict=True))
    objective_loss(objective, errors, temperature=0.1, beta=1.0).loss.sum().backward()
    assert plus.grad.item() == pytest.approx(0.1245, abs=1e-4)
    assert minus.grad.item() == pytest.approx(0.2490, abs=1e-4)
