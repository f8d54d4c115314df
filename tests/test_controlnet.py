"""ControlNet pipelines under guidance: the control sees every row's own condition."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

import chats
from chats.errors import UserError
from tests.steps import models_by_hand, record_steps, relative_error, seeds
from tests.test_denoiser import encode, proxy
from tests.tiny import SIZE_PX, big, picture, tiny_call, tiny_pair, tiny_pipeline

S, ALPHA = 4.0, 0.5
TOLERANCE = 1e-10
PIPELINES = {
    "sd15": StableDiffusionControlNetPipeline,
    "sdxl": StableDiffusionXLControlNetPipeline,
}
CALL = {"output_type": "latent", "num_inference_steps": 3}


def controlled(family, *, kind=None, num_controls=1):
    plain = tiny_pipeline(family)
    nets = [
        big(
            ControlNetModel.from_unet(
                plain.unet, conditioning_channels=3, load_weights_from_unet=False
            ),
            seed=7 + i,
        )
        for i in range(num_controls)
    ]
    for net in nets:
        # One block less of shrinking, as the tiny autoencoder shrinks once.
        net.controlnet_cond_embedding = _embedding(net)
    control = MultiControlNetModel(nets) if num_controls > 1 else nets[0]
    parts = {
        name: part
        for name, part in plain.components.items()
        if name not in ("image_encoder", "feature_extractor")
    }
    if family == "sd15":
        parts["requires_safety_checker"] = False
        parts["feature_extractor"] = None
    pipe = (kind or PIPELINES[family])(**parts, controlnet=control.to(torch.float64))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _embedding(net):
    width = net.conv_in.out_channels
    return big(torch.nn.Conv2d(3, width, 3, stride=2, padding=1), seed=5).to(torch.float64)


def hint(num_pictures=1):
    one = torch.linspace(0, 1, SIZE_PX).double().expand(1, 3, SIZE_PX, SIZE_PX)
    return one.repeat(num_pictures, 1, 1, 1)


@pytest.mark.parametrize("num_controls", [1, 2])
@pytest.mark.parametrize("family", PIPELINES)
def test_cfg_is_diffusers_own_at_one_plus_s(family, num_controls):
    pipe = controlled(family, num_controls=num_controls)
    call = {**CALL, "image": hint() if num_controls == 1 else [hint()] * num_controls}
    stock = pipe(
        "ab cd", negative_prompt="no", guidance_scale=1 + S, generator=seeds(1), **call
    ).images
    with chats.guidance(pipe, method="cfg", scale=S, negative_prompt="no"):
        ours = pipe("ab cd", generator=seeds(1), **call).images
    assert relative_error(ours, stock) < TOLERANCE


@pytest.mark.parametrize("kind", ["lora", "full"])
@torch.no_grad()
def test_equation_17_by_hand_with_residuals_of_each_rows_own_condition(kind):
    pipe = controlled("sd15")
    pair = tiny_pair(pipe, kind)
    _, good, bad = models_by_hand(pipe, pair)
    c, null = encode(pipe, "sd15", "ab"), encode(pipe, "sd15", "")

    def predict(model, z, t, given):
        down, middle = pipe.controlnet(
            z, t, encoder_hidden_states=given["c"], controlnet_cond=hint(), return_dict=False
        )
        return model(
            z,
            t,
            encoder_hidden_states=given["c"],
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample

    steps = record_steps(pipe)
    with chats.guidance(pipe, pair, scale=S, alpha=ALPHA):
        pipe("ab", generator=seeds(1), image=hint(), **CALL)
    for step in steps:
        z, t = step.denoiser_input, step.timestep
        hand = (1 + S) * predict(good, z, t, c) - S * predict(bad, z, t, proxy(c, null, ALPHA))
        assert relative_error(step.prediction, hand) < TOLERANCE


def test_pictures_of_one_call_are_what_each_is_alone():
    """Standard beside CHATS: two pictures, three rows of control and denoiser."""
    pipe = controlled("sd15")
    pair = tiny_pair(pipe, "lora")
    with chats.guidance(pipe, pair, method=["standard", "chats"], interval=(0.0, 0.7)):
        both = pipe(["ab", "cd ef"], image=hint(2), generator=seeds(2), **CALL).images
    with chats.guidance(pipe, pair, method="chats", interval=(0.0, 0.7)):
        second = pipe("cd ef", image=hint(), generator=seeds(1, start=1), **CALL).images
    assert relative_error(both[1:], second) < TOLERANCE


def test_a_picture_to_start_from_and_a_control_go_together():
    pipe = controlled("sd15", kind=StableDiffusionControlNetImg2ImgPipeline)
    call = {
        **tiny_call("sd15"),
        "image": picture(),
        "control_image": hint(),
        "strength": 0.8,
        "num_inference_steps": 5,
    }
    stock = pipe("ab", negative_prompt="", guidance_scale=1 + S, generator=seeds(1), **call).images
    with chats.guidance(pipe, method="cfg", scale=S):
        ours = pipe("ab", generator=seeds(1), **call).images
    assert relative_error(ours, stock) < TOLERANCE


def test_guess_mode_is_refused_with_the_reason():
    pipe = controlled("sd15")
    with (
        chats.guidance(pipe, method="cfg"),
        pytest.raises(UserError, match="guess_mode= has no effect"),
    ):
        pipe("ab", image=hint(), guess_mode=True, **CALL)
