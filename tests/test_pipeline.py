"""`chats.guidance` on stock pipelines: what it refuses, what it leaves behind, image inputs."""

import threading

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import (
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    T2IAdapter,
)
from PIL import Image

import chats
from chats.denoising.adapter_rows import add_pair_adapters
from chats.denoising.families import denoiser_of
from chats.errors import UserError
from tests.tiny import (
    FAMILIES,
    SIZE_PX,
    left_half,
    picture,
    tiny_call,
    tiny_pair,
    tiny_pipeline,
)

CALL = tiny_call("sd15")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def state_of(pipe) -> dict:
    """Everything that guidance could leave changed: weights, modules, flags, hooks, attributes."""
    denoiser = denoiser_of(pipe)
    return {
        "class": type(pipe),
        "attributes": {name: id(value) for name, value in vars(pipe).items() if name[0] != "_"},
        "config": dict(pipe.config),
        "modules": [(name, id(module)) for name, module in denoiser.named_modules()],
        "training": [module.training for module in denoiser.modules()],
        "hooks": [
            (len(module._forward_pre_hooks), len(module._forward_hooks))
            for module in denoiser.modules()
        ],
        "requires_grad": [weight.requires_grad for weight in denoiser.parameters()],
        "weights": {name: weight.tolist() for name, weight in denoiser.state_dict().items()},
        "denoiser": sorted(vars(denoiser)),
    }


@pytest.mark.parametrize("kind", ["lora", "full", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_is_as_it_was_after_exit(family, kind):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, kind) if kind else None
    call = {"generator": None, **tiny_call(family)}
    picture_before = pipe("ab", **{**call, "generator": seeded()}).images
    before = state_of(pipe)
    with chats.guidance(pipe, pair, method="chats" if pair else "cfg"):
        pipe("ab", **call)
    assert state_of(pipe) == before
    assert torch.equal(pipe("ab", **{**call, "generator": seeded()}).images, picture_before)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_pipeline_is_as_it_was_after_an_error_in_the_middle(kind):
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, kind)
    before = state_of(pipe)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), chats.guidance(pipe, pair):
        pipe("ab", callback_on_step_end=stop, **CALL)
    assert state_of(pipe) == before


def test_a_call_that_failed_does_not_spoil_the_next_one_in_the_same_context():
    pipe = tiny_pipeline("sd15")
    with chats.guidance(pipe, tiny_pair(pipe, "lora")):
        expected = pipe("ab", generator=seeded(), **CALL).images
        with pytest.raises(ValueError, match="divisible by 8"):
            pipe("ab", height=13, width=16, **CALL)
        assert torch.equal(pipe("ab", generator=seeded(), **CALL).images, expected)


def test_an_unknown_pipeline_is_refused_with_those_that_are_known():
    pipe = tiny_pipeline("sd15")
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    adapter = T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    other = StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)
    with (
        pytest.raises(UserError, match="AdapterPipeline is not a pipeline that guidance knows"),
        chats.guidance(other, method="cfg"),
    ):
        pass


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("guidance_scale", 7.5, r"Pass scale= to chats.guidance"),
        ("guidance_scale", 1.0, r"diffusers' guidance_scale is 1 \+ scale"),
        ("negative_prompt", "blur", r"Pass negative_prompt= to chats.guidance"),
        ("negative_prompt_embeds", torch.zeros(1, 12, 32), r"Pass negative_prompt= to"),
        ("guidance_rescale", 0.7, r"Pass shaping=chats.Shaping\(rescale"),
        ("ip_adapter_image", Image.new("RGB", (8, 8)), r"Image prompts have no null condition"),
        ("cross_attention_kwargs", {"scale": 0.5}, r"no effect on the adapters of a pair"),
    ],
)
def test_arguments_of_the_pipelines_own_guidance_are_refused(argument, value, message):
    pipe = tiny_pipeline("sd15")
    with (
        chats.guidance(pipe, tiny_pair(pipe, "lora")),
        pytest.raises(UserError, match=message),
    ):
        pipe("ab", **{argument: value}, **CALL)


def test_arguments_that_only_repeat_a_default_are_accepted():
    pipe = tiny_pipeline("sd15")
    with chats.guidance(pipe, method="cfg"):
        pipe("ab", negative_prompt=None, guidance_rescale=0.0, **CALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "There is no method 'best'; the methods are standard, cfg, chats"),
        ({"scale": -1.0}, "scale must be 0 or more, got -1.0"),
        ({"scale": float("nan")}, "scale must be 0 or more, got nan"),
        ({"alpha": float("inf")}, "alpha must be a finite number, got inf"),
        ({"interval": (0.7, 0.3)}, "interval must be two fractions"),
        ({"interval": (0.0, 1.5)}, "interval must be two fractions"),
        ({"interval": (0.5,)}, "interval must be two fractions"),
        ({"interval": [(0.0, 1.0), (0.5, 0.4)]}, "interval must be two fractions"),
        ({"scale": [1.0, 2.0], "alpha": [0.5]}, "differ in length: {'scale': 2, 'alpha': 1}"),
        ({"scale": []}, "scale is an empty list"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_touched(settings, message):
    pipe = tiny_pipeline("sd15")
    before = state_of(pipe)
    with (
        pytest.raises(UserError, match=message),
        chats.guidance(pipe, **{"method": "cfg", **settings}),
    ):
        pass
    assert state_of(pipe) == before


def test_a_list_that_does_not_fit_the_number_of_pictures_is_refused():
    pipe = tiny_pipeline("sd15")
    with (
        chats.guidance(pipe, method="cfg", scale=[1.0, 2.0]),
        pytest.raises(UserError, match="scale has 2 entries, but this call makes 3 pictures"),
    ):
        pipe(["ab"] * 3, **CALL)


@pytest.mark.parametrize("method", ["chats", "chats-exact", "preferred-cfg", "npo"])
def test_a_method_that_needs_a_pair_is_refused_without_one(method):
    pipe = tiny_pipeline("sd15")
    with (
        pytest.raises(UserError, match=r"but there is no pair. Pass pair=chats.load_pair"),
        chats.guidance(pipe, method=method),
    ):
        pass


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_missing_half_is_refused_only_where_it_is_needed(kind):
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, kind, halves=("preferred",))
    with chats.guidance(pipe, pair, method="preferred-cfg"):
        pipe("ab", **CALL)
    before = state_of(pipe)
    with (
        pytest.raises(UserError, match="The pair has no dispreferred half"),
        chats.guidance(pipe, pair, method="chats"),
    ):
        pass
    assert state_of(pipe) == before


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_pair_of_another_family_is_refused(kind):
    pair = tiny_pair(tiny_pipeline("sdxl"), kind)
    pipe = tiny_pipeline("sd15")
    before = state_of(pipe)
    with (
        pytest.raises(UserError, match=r"The pair is for the family 'sdxl' .* this pipeline is"),
        chats.guidance(pipe, pair),
    ):
        pass
    assert state_of(pipe) == before


def test_guidance_within_guidance_is_refused_also_through_a_shared_denoiser():
    pipe = tiny_pipeline("sd15")
    sibling = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    with chats.guidance(pipe, method="cfg"):
        for other in (pipe, sibling):
            with (
                pytest.raises(UserError, match=r"is already under chats.guidance"),
                chats.guidance(other, method="cfg"),
            ):
                pass
        pipe("ab", **CALL)
    with chats.guidance(sibling, method="cfg"):
        pass


def test_one_full_pair_on_two_pipelines_at_once_is_refused():
    first, second = tiny_pipeline("sd15"), tiny_pipeline("sd15")
    pair = tiny_pair(first, "full")
    with (
        chats.guidance(first, pair),
        pytest.raises(UserError, match=r"UNet2DConditionModel is already under chats\.guidance"),
        chats.guidance(second, pair),
    ):
        pass


# torch.compile imports parts of torch that warn of torch's own deprecations.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("in_place", [True, False])
def test_a_denoiser_compiled_as_a_whole_is_refused(in_place):
    pipe = tiny_pipeline("sd15")
    if in_place:
        pipe.unet.compile()
    else:
        pipe.unet = torch.compile(pipe.unet)
    with (
        pytest.raises(UserError, match=r"Compile its repeated blocks instead"),
        chats.guidance(pipe, method="cfg"),
    ):
        pass


def test_offloading_hooks_of_the_denoiser_do_not_get_in_the_way():
    """Accelerate's hooks replace the instance's forward by a wrapper of it."""
    pipe = tiny_pipeline("sd15")
    pair, full = tiny_pair(pipe, "lora"), tiny_pair(pipe, "full")
    with chats.guidance(pipe, pair):
        expected = pipe("ab", generator=seeded(), **CALL).images
    add_hook_to_module(pipe.unet, AlignDevicesHook(execution_device="cpu"))
    with chats.guidance(pipe, pair):
        offloaded = pipe("ab", generator=seeded(), **CALL).images
    assert torch.equal(offloaded, expected)
    with (
        pytest.raises(UserError, match="full pair cannot run on a pipeline with CPU offload"),
        chats.guidance(pipe, full),
    ):
        pass


def test_two_threads_in_one_context_are_refused():
    pipe = tiny_pipeline("sd15")
    refused = []

    def call_from_another_thread(*_):
        def call():
            try:
                pipe("cd", **CALL)
            except UserError as error:
                refused.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return {}

    with chats.guidance(pipe, method="cfg"):
        pipe("ab", callback_on_step_end=call_from_another_thread, **CALL)
    assert len(refused) == CALL["num_inference_steps"]
    assert "already making pictures in another thread" in refused[0]


def test_embeddings_of_another_length_than_the_null_prompts_are_refused():
    pipe = tiny_pipeline("sd15")
    embeddings = torch.randn(1, 24, 32, dtype=torch.float64)
    with (
        chats.guidance(pipe, method="cfg"),
        pytest.raises(UserError, match=r"has shape \(1, 24, 32\), the null prompt's \(1, 12, 32\)"),
    ):
        pipe(prompt_embeds=embeddings, **CALL)


def test_prompt_embeddings_give_the_picture_that_the_text_gives():
    pipe = tiny_pipeline("sdxl")
    pair = tiny_pair(pipe, "lora")
    call = {**tiny_call("sdxl")}
    with chats.guidance(pipe, pair):
        embeds, _, pooled, _ = pipe.encode_prompt("ab cd", do_classifier_free_guidance=False)
        text = pipe("ab cd", generator=seeded(), **call).images
        given = pipe(
            prompt_embeds=embeds, pooled_prompt_embeds=pooled, generator=seeded(), **call
        ).images
    assert torch.equal(text, given)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_pictures_per_prompt_are_rows_like_any_other(family):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, "lora")
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    with chats.guidance(pipe, pair, alpha=[0.2, 0.8], negative_prompt=["blur", "no"]):
        both = pipe("ab", num_images_per_prompt=2, generator=generators, **tiny_call(family)).images
    with chats.guidance(pipe, pair, alpha=0.8, negative_prompt="no"):
        second = pipe("ab", generator=torch.Generator().manual_seed(1), **tiny_call(family)).images
    assert torch.allclose(both[1:], second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("sd15", StableDiffusionImg2ImgPipeline),
        ("sd15", StableDiffusionInpaintPipeline),
        ("sdxl", StableDiffusionXLImg2ImgPipeline),
        ("sdxl", StableDiffusionXLInpaintPipeline),
        ("sd3", StableDiffusion3Img2ImgPipeline),
        ("sd3", StableDiffusion3InpaintPipeline),
    ],
)
def test_pipelines_that_start_from_a_picture_agree_with_their_own_cfg(family, kind):
    which = "sd3-16" if kind is StableDiffusion3InpaintPipeline else family
    pipe = kind.from_pipe(tiny_pipeline(which), dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    call = {**tiny_call(family), "image": picture(), "strength": 0.8, "num_inference_steps": 5}
    if "Inpaint" in kind.__name__:
        call |= {"mask_image": left_half(), "height": SIZE_PX, "width": SIZE_PX}
    stock = pipe("ab cd", guidance_scale=5.0, negative_prompt="", generator=seeded(), **call).images
    with chats.guidance(pipe, method="cfg", scale=4.0):
        ours = pipe("ab cd", generator=seeded(), **call).images
    assert torch.allclose(ours, stock, rtol=1e-9, atol=1e-9 * stock.abs().max().item())
    with chats.guidance(pipe, tiny_pair(pipe, "lora")) as cost:
        chosen = pipe("ab cd", generator=seeded(), **call).images
    assert not torch.allclose(chosen, stock, rtol=1e-2)
    assert cost.num_forwards == 4


def test_a_refiner_is_refused():
    pipe = StableDiffusionXLImg2ImgPipeline.from_pipe(
        tiny_pipeline("sdxl"), requires_aesthetics_score=True
    )
    with pytest.raises(UserError, match="is a refiner"), chats.guidance(pipe, method="cfg"):
        pass


def test_the_denoiser_can_be_sampled_while_its_adapters_are_being_trained():
    """Adapters that were just added have B = 0: CHATS with α = 0 is the base's CFG."""
    pipe = tiny_pipeline("sd15")
    with chats.guidance(pipe, method="cfg"):
        cfg = pipe("ab", generator=seeded(), **CALL).images
    add_pair_adapters(pipe.unet, rank=2, alpha=2, targets=("to_q", "to_v"))
    before = state_of(pipe)
    with chats.guidance(pipe, method="chats", alpha=0.0) as cost:
        ours = pipe("ab", generator=seeded(), **CALL).images
    assert torch.allclose(ours, cfg, rtol=1e-10, atol=1e-10 * cfg.abs().max().item())
    assert cost.num_forwards == 4
    assert state_of(pipe) == before


def test_a_denoiser_that_is_one_half_of_the_pair_has_no_reference():
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "full")
    pipe.unet = pair.preferred
    with (
        pytest.raises(UserError, match="there is no reference model for this method"),
        chats.guidance(pipe, pair, method="cfg"),
    ):
        pass
    with chats.guidance(pipe, pair, method="chats") as cost:
        pipe("ab", **CALL)
    assert cost.num_forwards == 8


def test_callbacks_see_the_stock_pipeline_and_can_stop_it():
    pipe = tiny_pipeline("sd15")
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((pipeline is pipe, tensors["latents"].shape[0]))
        pipeline._interrupt = step == 1
        return tensors

    with chats.guidance(pipe, tiny_pair(pipe, "lora")) as cost:
        assert type(pipe).__name__ == "StableDiffusionPipeline"
        pipe(["ab", "cd"], callback_on_step_end=watch, **CALL)
    assert seen == [(True, 2)] * 2
    assert cost.num_forwards == 2


def test_a_callback_that_turns_the_pipelines_own_guidance_on_is_stopped():
    pipe = tiny_pipeline("sd15")

    def meddle(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 5.0
        return tensors

    with (
        chats.guidance(pipe, method="cfg"),
        pytest.raises(RuntimeError, match="called its denoiser with 2 rows for 1 encoded prompts"),
    ):
        pipe("ab", callback_on_step_end=meddle, **CALL)


def test_a_pipeline_with_its_decoder_makes_pictures():
    pipe = tiny_pipeline("sd15", dtype=torch.float32)
    with chats.guidance(pipe, tiny_pair(pipe, "lora")):
        made = pipe("ab", num_inference_steps=2).images[0]
    assert made.size == (SIZE_PX, SIZE_PX)
