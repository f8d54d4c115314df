"""What reaches the scheduler equals equations 8, 16 and 17 written out by hand.

The oracle calls each model on its own, one picture at a time, on the very latents that the real
pipeline was at; LoRA halves are merged into copies of the weights by hand. Errors are relative to
the largest value of the prediction.
"""

import functools

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)

import chats
from chats.denoising.families import denoiser_of
from tests.steps import models_by_hand, record_steps, relative_error, seeds
from tests.tiny import (
    FAMILIES,
    SIZE_PX,
    T5_LENGTH,
    left_half,
    merged,
    picture,
    tiny_call,
    tiny_pair,
    tiny_pipeline,
)

# diffusers' multistep schedulers hand torch tensors to NumPy in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

PROMPTS = ["ab", "cd ef gh", "x"]
S, ALPHA = 4.0, 0.5
TOLERANCE = 1e-10

SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(clip_sample=False, steps_offset=1),
    "multistep": lambda: DPMSolverMultistepScheduler(),
    "ancestral": lambda: EulerAncestralDiscreteScheduler(steps_offset=1),
    "flow-euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow-heun": lambda: FlowMatchHeunDiscreteScheduler(),
    "flow-multistep": lambda: DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    ),
}
DIFFUSION = ("ddim", "multistep", "ancestral")
FLOW = ("flow-euler", "flow-heun", "flow-multistep")


def encode(pipe, family: str, text: str) -> dict[str, torch.Tensor]:
    """Encode one text with the stock pipeline: its condition, pooled condition and mask."""
    if family == "sd15":
        return {"c": pipe.encode_prompt(text, "cpu", 1, False)[0]}
    if family == "sdxl":
        c, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False)
        return {"c": c, "pooled": pooled}
    if family == "sd3":
        c, _, pooled, _ = pipe.encode_prompt(
            text, None, None, do_classifier_free_guidance=False, max_sequence_length=T5_LENGTH
        )
        return {"c": c, "pooled": pooled}
    c, mask, _, _ = pipe.encode_prompt(text, False, max_sequence_length=T5_LENGTH)
    return {"c": c, "mask": mask}


def proxy(prompt: dict, null: dict, alpha: float) -> dict[str, torch.Tensor]:
    """Return c̃ = −α·c + (1+α)·∅, pooled likewise, with the prompt's mask."""
    mixed = {key: -alpha * prompt[key] + (1 + alpha) * null[key] for key in prompt}
    return {**mixed, **({"mask": prompt["mask"]} if "mask" in prompt else {})}


@torch.no_grad()
def predict(model, family: str, z: torch.Tensor, t: torch.Tensor, given: dict) -> torch.Tensor:
    """Call one model on one picture, as its family's pipeline does."""
    if family == "sd15":
        return model(z, t, encoder_hidden_states=given["c"]).sample
    if family == "sdxl":
        sizes = torch.tensor([[16, 16, 0, 0, 16, 16]], dtype=z.dtype)
        extra = {"text_embeds": given["pooled"], "time_ids": sizes}
        return model(z, t, encoder_hidden_states=given["c"], added_cond_kwargs=extra).sample
    if family == "sd3":
        return model(z, given["c"], given["pooled"], t.expand(1)).sample
    extra = {"resolution": None, "aspect_ratio": None}
    both = model(z, given["c"], t.expand(1), extra, encoder_attention_mask=given["mask"]).sample
    return both[:, :4]


def by_hand(method: str, ref, good, bad, *, family: str, z, t, c, null) -> torch.Tensor:
    """Combine the predictions of one picture, equation by equation."""
    eps = functools.partial(predict, family=family, z=z, t=t)
    if method == "standard":
        return eps(ref, given=c)
    if method == "cfg":  # eq. 8
        return (1 + S) * eps(ref, given=c) - S * eps(ref, given=null)
    if method == "chats-exact":  # eq. 16
        negative = -ALPHA * eps(bad, given=c) + (1 + ALPHA) * eps(bad, given=null)
        return (1 + S) * eps(good, given=c) - S * negative
    if method == "chats":  # eq. 17
        return (1 + S) * eps(good, given=c) - S * eps(bad, given=proxy(c, null, ALPHA))
    if method == "preferred-cfg":
        return (1 + S) * eps(good, given=c) - S * eps(good, given=null)
    return (1 + S) * eps(ref, given=c) - S * eps(bad, given=null)  # npo


def check_agreement(pipe, pair, family: str, *, methods: list[str], **call) -> None:
    prompts = PROMPTS[: len(methods)]
    models = models_by_hand(pipe, pair)
    conditions, null = [encode(pipe, family, text) for text in prompts], encode(pipe, family, "")
    steps = record_steps(pipe)
    with chats.guidance(pipe, pair, method=methods, scale=S, alpha=ALPHA):
        pipe(prompts, generator=seeds(len(prompts)), **{**tiny_call(family), **call})
    assert len(steps) >= 3
    for step in steps:
        for i, method in enumerate(methods):
            z, given = step.denoiser_input[i : i + 1], conditions[i]
            hand = by_hand(method, *models, family=family, z=z, t=step.timestep, c=given, null=null)
            assert relative_error(step.prediction[i : i + 1], hand) < TOLERANCE, method


@pytest.mark.parametrize(
    "methods",
    [["cfg"], ["chats-exact"], ["chats"], ["cfg", "chats-exact", "chats"]],
    ids="+".join,
)
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(
    ("family", "scheduler"),
    [(family, name) for family in FAMILIES for name in (FLOW if family == "sd3" else DIFFUSION)],
)
def test_equations_written_by_hand_reach_the_scheduler(family, scheduler, kind, methods):
    pipe = tiny_pipeline(family)
    pipe.scheduler = SCHEDULERS[scheduler]()
    pair = tiny_pair(pipe, kind)
    check_agreement(pipe, pair, family, methods=methods, num_inference_steps=3)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(
    ("family", "pipeline"),
    [
        ("sd15", StableDiffusionImg2ImgPipeline),
        ("sd15", StableDiffusionInpaintPipeline),
        ("sdxl", StableDiffusionXLImg2ImgPipeline),
        ("sdxl", StableDiffusionXLInpaintPipeline),
        ("sd3", StableDiffusion3Img2ImgPipeline),
        ("sd3", StableDiffusion3InpaintPipeline),
    ],
)
def test_equations_hold_where_a_pipeline_starts_from_a_picture(family, pipeline, kind):
    which = "sd3-16" if pipeline is StableDiffusion3InpaintPipeline else family
    pipe = pipeline.from_pipe(tiny_pipeline(which), dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    call = {"image": picture(), "strength": 0.8, "num_inference_steps": 5}
    if "Inpaint" in pipeline.__name__:
        call |= {"mask_image": left_half(), "height": SIZE_PX, "width": SIZE_PX}
    check_agreement(pipe, tiny_pair(pipe, kind), family, methods=["chats"], **call)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "methods",
    [["chats"] * 3, ["standard", "npo", "chats-exact"], ["npo", "preferred-cfg"]],
    ids="+".join,
)
def test_pictures_of_one_call_can_each_have_their_own_method(family, kind, methods):
    pipe = tiny_pipeline(family)
    check_agreement(pipe, tiny_pair(pipe, kind), family, methods=methods)


@pytest.mark.parametrize("family", FAMILIES)
def test_cfg_through_the_hooks_is_diffusers_own_at_one_plus_s(family):
    pipe = tiny_pipeline(family)
    stock = pipe(
        PROMPTS,
        negative_prompt=[""] * 3,
        guidance_scale=1 + S,
        generator=seeds(3),
        **tiny_call(family),
    ).images
    with chats.guidance(pipe, method="cfg", scale=S):
        ours = pipe(PROMPTS, generator=seeds(3), **tiny_call(family)).images
    assert relative_error(ours, stock) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_negative_prompt_is_diffusers_own_at_one_plus_s(family):
    pipe = tiny_pipeline(family)
    negatives = ["no", "", "blur of it"]
    stock = pipe(
        PROMPTS,
        negative_prompt=negatives,
        guidance_scale=1 + S,
        generator=seeds(3),
        **tiny_call(family),
    ).images
    with chats.guidance(pipe, method="cfg", scale=S, negative_prompt=negatives):
        ours = pipe(PROMPTS, generator=seeds(3), **tiny_call(family)).images
    assert relative_error(ours, stock) < TOLERANCE


def test_zeros_for_the_null_prompt_are_what_sdxl_does_without_a_negative_prompt():
    pipe = tiny_pipeline("sdxl")
    call = {"num_inference_steps": 3, "output_type": "latent"}
    stock = pipe(PROMPTS, guidance_scale=1 + S, generator=seeds(3), **call).images
    with chats.guidance(pipe, method="cfg", scale=S, null_prompt="zeros"):
        ours = pipe(PROMPTS, generator=seeds(3), **call).images
    assert relative_error(ours, stock) < TOLERANCE


@pytest.mark.parametrize("method", ["cfg", "chats"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pairs_null_prompt_of_zeros_is_zeros_under_the_prompts_own_mask(family, method):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, "lora", null_prompt="zeros")
    ref, good, bad = models_by_hand(pipe, pair)
    c = encode(pipe, family, "cd ef gh")
    null = {**{key: torch.zeros_like(c[key]) for key in c}, **{k: c[k] for k in c if k == "mask"}}
    steps = record_steps(pipe)
    with chats.guidance(pipe, pair, method=method, scale=S, alpha=ALPHA):
        pipe("cd ef gh", generator=seeds(1), **tiny_call(family))
    step = steps[1]
    hand = by_hand(
        method,
        ref,
        good,
        bad,
        family=family,
        z=step.denoiser_input,
        t=step.timestep,
        c=c,
        null=null,
    )
    assert relative_error(step.prediction, hand) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_equal_halves_and_alpha_zero_are_cfg(family, kind):
    """θ⁺ = θ⁻ = ref and α = 0 ⇒ eq. 17 is eq. 8."""
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, kind)
    if kind == "lora":
        for half in (pair.preferred, pair.dispreferred):
            for name, tensor in half.items():
                tensor.mul_("lora_A" in name)
    else:
        for half in (pair.preferred, pair.dispreferred):
            half.load_state_dict(denoiser_of(pipe).state_dict())
    pictures = {}
    for method in ("cfg", "chats", "chats-exact"):
        with chats.guidance(pipe, pair, method=method, scale=S, alpha=0.0):
            pictures[method] = pipe(PROMPTS, generator=seeds(3), **tiny_call(family)).images
    assert relative_error(pictures["chats"], pictures["cfg"]) < TOLERANCE
    assert relative_error(pictures["chats-exact"], pictures["cfg"]) < TOLERANCE


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_scale_zero_is_the_preferred_model_alone_and_costs_one_row(kind):
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, kind)
    _, good, _ = models_by_hand(pipe, pair)
    with chats.guidance(pipe, pair, scale=0.0) as cost:
        ours = pipe("ab", generator=seeds(1), **tiny_call("sd15")).images
    assert (cost.num_forwards, cost.num_rows) == (4, 4)
    pipe.unet = good
    alone = pipe("ab", guidance_scale=1.0, generator=seeds(1), **tiny_call("sd15")).images
    assert relative_error(ours, alone) < TOLERANCE


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_three_columns_in_one_call_equal_three_calls(family, kind, dtype, tolerance):
    pipe = tiny_pipeline(family, dtype=dtype)
    pair = tiny_pair(pipe, kind)
    methods = ["standard", "cfg", "chats"]
    one_seed = [torch.Generator().manual_seed(7) for _ in methods]
    with chats.guidance(pipe, pair, method=methods, scale=S):
        together = pipe(["ab cd"] * 3, generator=one_seed, **tiny_call(family)).images
    for column, method in zip(together, methods, strict=True):
        with chats.guidance(pipe, pair, method=method, scale=S):
            alone = pipe("ab cd", generator=seeds(1, start=7), **tiny_call(family)).images
        assert relative_error(column[None], alone) < tolerance
    assert relative_error(together[2], together[1]) > 0.01


@pytest.mark.parametrize("scheduler", DIFFUSION)
def test_the_same_seed_gives_the_same_picture_in_any_batch(scheduler):
    pipe = tiny_pipeline("sd15")
    pipe.scheduler = SCHEDULERS[scheduler]()
    pair = tiny_pair(pipe, "lora")
    call = {**tiny_call("sd15"), "num_inference_steps": 3}
    with chats.guidance(pipe, pair):
        batch = pipe(["ab"] * 5, generator=seeds(5), **call).images
        alone = [pipe("ab", generator=seeds(1, start=i), **call).images[0] for i in range(5)]
    # The ancestral scheduler steps in float32 whatever the latents are.
    tolerance = 1e-5 if scheduler == "ancestral" else TOLERANCE
    assert relative_error(batch, torch.stack(alone)) < tolerance


def test_every_picture_can_have_its_own_scale_alpha_interval_and_negative_prompt():
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    settings = {
        "method": ["chats", "chats-exact", "cfg"],
        "scale": [1.0, 3.0, 6.0],
        "alpha": [-0.5, 0.7, 0.0],
        "interval": [(0.0, 1.0), (0.25, 0.75), (0.0, 0.5)],
        "negative_prompt": ["", "no", "blur"],
    }
    with chats.guidance(pipe, pair, **settings):
        together = pipe(PROMPTS, generator=seeds(3), **tiny_call("sd15")).images
    for i, prompt in enumerate(PROMPTS):
        with chats.guidance(pipe, pair, **{name: values[i] for name, values in settings.items()}):
            alone = pipe(prompt, generator=seeds(1, start=i), **tiny_call("sd15")).images
        assert relative_error(together[i : i + 1], alone) < TOLERANCE


def test_outside_the_interval_there_is_no_second_branch():
    """Of 10 steps those at 0.3 to 0.7 are guided: 4 × 2 rows and 6 × 1 row."""
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    good = merged(pipe.unet, pair.preferred)
    c = encode(pipe, "sd15", "ab")
    steps = record_steps(pipe)
    call = {**tiny_call("sd15"), "num_inference_steps": 10}
    with chats.guidance(pipe, pair, interval=(0.3, 0.7)) as cost:
        pipe("ab", **call)
    assert (cost.num_forwards, cost.num_rows) == (10, 14)
    alone = [
        relative_error(
            step.prediction, predict(good, "sd15", step.denoiser_input, step.timestep, c)
        )
        < TOLERANCE
        for step in steps
    ]
    assert alone == [True] * 3 + [False] * 4 + [True] * 3


def test_the_interval_follows_the_timestep_where_a_scheduler_calls_twice_a_step():
    """Heun's timesteps are t0 t1 t1 t2 t2 t3 t3; half of the 4 are guided: t0 t1 t1."""
    pipe = tiny_pipeline("sd15")
    pipe.scheduler = HeunDiscreteScheduler()
    with chats.guidance(pipe, method="cfg", interval=(0.0, 0.5)) as cost:
        pipe("ab", **tiny_call("sd15"))
    assert (cost.num_forwards, cost.num_rows) == (7, 3 * 2 + 4)


def test_an_empty_interval_is_standard_sampling():
    pipe = tiny_pipeline("sd15")
    stock = pipe("ab", guidance_scale=1.0, generator=seeds(1), **tiny_call("sd15")).images
    with chats.guidance(pipe, method="cfg", interval=(0.4, 0.4)):
        ours = pipe("ab", generator=seeds(1), **tiny_call("sd15")).images
    assert torch.equal(ours, stock)


def test_a_full_pair_never_runs_the_model_that_no_picture_uses():
    pipe = tiny_pipeline("sd15")
    pair, calls = tiny_pair(pipe, "full"), []
    pipe.unet.register_forward_hook(lambda *args: calls.append(args))
    with chats.guidance(pipe, pair) as cost:
        pipe("ab", **tiny_call("sd15"))
    assert calls == []
    assert (cost.num_forwards, cost.num_rows) == (8, 8)


def test_a_lora_pair_costs_one_forward_a_step():
    pipe = tiny_pipeline("sd15")
    with chats.guidance(pipe, tiny_pair(pipe, "lora"), method="chats-exact") as cost:
        pipe(PROMPTS, **tiny_call("sd15"))
    assert (cost.num_forwards, cost.num_rows) == (4, 4 * 3 * 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_stays_half_precision(family):
    pipe = tiny_pipeline(family, dtype=torch.bfloat16)
    steps = record_steps(pipe)
    with chats.guidance(pipe, tiny_pair(pipe, "lora")):
        pipe("ab", **tiny_call(family))
    assert all(step.prediction.dtype == torch.bfloat16 for step in steps)
