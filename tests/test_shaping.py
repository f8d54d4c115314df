"""Reuse between steps, guidance rescale and adaptive projection, against formulas by hand.

The oracle calls the two models of a pair apart, one picture at a time, on the latents that the real
pipeline was at, and does with their predictions what the cited formulas say.
"""

import math

import pytest
import torch
from pydantic import ValidationError

import chats
from chats.config import Shaping
from chats.denoising.families import denoiser_of
from chats.errors import UserError
from tests.families_by_hand import ENCODE, PREDICT
from tests.steps import models_by_hand, record_steps, relative_error, seeds
from tests.test_denoiser import encode, predict, proxy
from tests.tiny import FAMILIES, tiny_call, tiny_pair, tiny_pipeline

S, ALPHA = 4.0, 0.5
TOLERANCE = 1e-10


def deltas_by_hand(pipe, pair, family, shaping, *, num_steps=6, **settings):
    """Sample; return for each step the prediction, and g and δ made by hand."""
    _, good, bad = models_by_hand(pipe, pair)
    c, null = encode(pipe, family, "ab"), encode(pipe, family, "")
    steps = record_steps(pipe)
    call = {**tiny_call(family), "num_inference_steps": num_steps}
    with chats.guidance(pipe, pair, scale=S, alpha=ALPHA, shaping=shaping, **settings) as cost:
        pipe("ab", generator=seeds(1), **call)
    found = []
    for step in steps:
        z, t = step.denoiser_input, step.timestep
        guided = predict(good, family, z, t, c)
        delta = guided - predict(bad, family, z, t, proxy(c, null, ALPHA))
        found.append((step.prediction, guided, delta))
    return found, cost


@pytest.mark.parametrize(
    "wrong",
    [{"refresh_every": 0}, {"rescale": 1.1}, {"apg_eta": -0.1}, {"apg_momentum": 1.0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Shaping(**wrong)


def test_what_is_no_shaping_is_refused():
    pipe = tiny_pipeline("sd15")
    with (
        pytest.raises(UserError, match=r"shaping must be a chats.Shaping, got 0.7"),
        chats.guidance(pipe, method="cfg", shaping=0.7),
    ):
        pass


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reused_difference_is_added_as_it_was_and_costs_nothing(family, kind):
    """Six steps, every third one fresh: x = g + s·δ of steps 0 0 0 3 3 3; 2·2 + 4·1 rows."""
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, kind)
    found, cost = deltas_by_hand(pipe, pair, family, Shaping(refresh_every=3))
    assert cost.num_rows == 2 * 2 + 4
    for number, (prediction, guided, _) in enumerate(found):
        delta = found[number // 3 * 3][2]
        assert relative_error(prediction, guided + S * delta) < TOLERANCE


def test_steps_are_counted_from_the_first_guided_one():
    """Of 10 steps 2 to 7 are guided, fresh at 2, 4 and 6: 3 more rows than one a step."""
    pipe = tiny_pipeline("sd15")
    found, cost = deltas_by_hand(
        pipe,
        tiny_pair(pipe, "lora"),
        "sd15",
        Shaping(refresh_every=2),
        num_steps=10,
        interval=(0.2, 0.8),
    )
    assert cost.num_rows == 10 + 3
    for number, (prediction, guided, _) in enumerate(found):
        is_guided = 2 <= number < 8
        delta = found[number // 2 * 2][2] if is_guided else 0 * guided
        assert relative_error(prediction, guided + S * delta) < TOLERANCE


def test_a_call_starts_with_a_difference_of_its_own():
    pipe = tiny_pipeline("sd15")
    pictures = []
    with chats.guidance(pipe, method="cfg", shaping=Shaping(refresh_every=50)) as cost:
        for _ in range(2):
            pictures.append(pipe("ab", generator=seeds(1), **tiny_call("sd15")).images)
    assert torch.equal(*pictures)
    assert cost.num_rows == 2 * (2 + 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_rescale_is_lin_et_al(family):
    """φ·x·std(g)/std(x) + (1 − φ)·x with x = g + s·δ."""
    pipe = tiny_pipeline(family)
    found, _ = deltas_by_hand(pipe, tiny_pair(pipe, "lora"), family, Shaping(rescale=0.7))
    for prediction, guided, delta in found:
        x = guided + S * delta
        hand = 0.7 * x * guided.std() / x.std() + 0.3 * x
        assert relative_error(prediction, hand) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_adaptive_projection_is_sadat_et_al(family):
    """M ← δ + β·m, shortened to the norm r, then g + s·(m⊥ + η·m∥)."""
    pipe = tiny_pipeline(family)
    eta, beta, most = 0.25, -0.5, 3.0
    shaping = Shaping(apg_eta=eta, apg_momentum=beta, apg_threshold=most)
    found, _ = deltas_by_hand(pipe, tiny_pair(pipe, "full"), family, shaping)
    average, num_limited = 0.0, 0
    for prediction, guided, delta in found:
        average = delta + beta * average
        norm = average.norm().item()
        num_limited += norm > most
        short = average * min(1.0, most / norm)
        direction = guided / guided.norm()
        along = (short * direction).sum() * direction
        hand = guided + S * (short - along + eta * along)
        assert relative_error(prediction, hand) < TOLERANCE
    assert num_limited > 0


@pytest.mark.parametrize("family", ["flux", "z-image"])
@torch.no_grad()
def test_packed_latents_and_lists_of_them_are_shaped_too(family):
    """CFG with every second difference fresh and φ = 1: x·std(g)/std(x), x = g + s·δ."""
    pipe = tiny_pipeline(family)
    c, null = (ENCODE[family](pipe, text, False) for text in ("ab", ""))
    steps = record_steps(pipe)
    shaping = Shaping(refresh_every=2, rescale=1.0)
    with chats.guidance(pipe, method="cfg", scale=S, shaping=shaping) as cost:
        pipe("ab", generator=seeds(1), **tiny_call(family))
    assert cost.num_rows == 2 + 1 + 2 + 1
    for number, step in enumerate(steps):
        z, t = step.denoiser_input, step.timestep
        guided = PREDICT[family](pipe, denoiser_of(pipe), z, t, c)
        if number % 2 == 0:
            delta = guided - PREDICT[family](pipe, denoiser_of(pipe), z, t, null)
        x = guided + S * delta
        hand = x * guided.std() / x.std()
        assert relative_error(step.prediction, hand) < (1e-5 if family == "z-image" else TOLERANCE)


def test_pipelines_own_rescale_is_ours():
    pipe = tiny_pipeline("sd15")
    call = {**tiny_call("sd15"), "generator": None}
    stock = pipe(
        "ab",
        guidance_scale=1 + S,
        guidance_rescale=0.7,
        **{**call, "generator": seeds(1)},
    ).images
    with chats.guidance(pipe, method="cfg", scale=S, shaping=Shaping(rescale=0.7)):
        ours = pipe("ab", **{**call, "generator": seeds(1)}).images
    assert relative_error(ours, stock) < TOLERANCE


@pytest.mark.parametrize("method", ["standard", "cfg", "chats-exact", "npo"])
def test_every_picture_of_a_call_has_its_own_shaping(method):
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    settings = {
        "shaping": [
            Shaping(),
            Shaping(refresh_every=2, rescale=0.5),
            Shaping(apg_eta=0.0, apg_momentum=-0.5, refresh_every=3),
        ],
        "method": [method, method, "chats"],
        "scale": [1.0, 3.0, 6.0],
        "interval": [(0.0, 1.0), (0.25, 1.0), (0.0, 0.5)],
    }
    prompts = ["ab", "cd ef gh", "x"]
    with chats.guidance(pipe, pair, **settings):
        together = pipe(prompts, generator=seeds(3), **tiny_call("sd15")).images
    for i, prompt in enumerate(prompts):
        alone = {name: values[i] for name, values in settings.items()}
        with chats.guidance(pipe, pair, **alone):
            one = pipe(prompt, generator=seeds(1, start=i), **tiny_call("sd15")).images
        assert relative_error(together[i : i + 1], one) < TOLERANCE


def test_a_picture_without_guidance_is_not_changed():
    pipe = tiny_pipeline("sd15")
    all_of_it = Shaping(refresh_every=2, rescale=1, apg_eta=0, apg_threshold=1, apg_momentum=0.5)
    stock = pipe("ab", guidance_scale=1.0, generator=seeds(1), **tiny_call("sd15")).images
    with chats.guidance(pipe, method="cfg", scale=0.0, shaping=all_of_it) as cost:
        ours = pipe("ab", generator=seeds(1), **tiny_call("sd15")).images
    assert torch.equal(ours, stock)
    assert cost.num_rows == 4


def test_half_precision_stays_half_precision_and_finite():
    pipe = tiny_pipeline("sd15", dtype=torch.bfloat16)
    steps = record_steps(pipe)
    with chats.guidance(pipe, method="cfg", shaping=Shaping(refresh_every=2, rescale=0.7)):
        pipe("ab", **tiny_call("sd15"))
    assert all(step.prediction.dtype == torch.bfloat16 for step in steps)
    assert all(math.isfinite(step.prediction.float().sum()) for step in steps)
