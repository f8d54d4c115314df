"""A generation from request to pictures: what stops it, what it survives, what it gives."""

import threading
import time

import numpy as np
import pytest
import torch

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.generation.generate import generate
from chats.models.manager import ModelManager
from chats.pairs.pair import save_pair
from tests.tiny import FAMILIES, tiny_pair, tiny_pipeline

# diffusers reads numpy views of its tensors the way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

METHODS = ("standard", "cfg", "chats")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model and its pair, on disk."""
    folder = tmp_path_factory.mktemp("saved")
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    pipeline.save_pretrained(folder / "model")
    save_pair(tiny_pair(pipeline, "lora"), folder / "pair")
    save_pair(tiny_pair(pipeline, "lora", halves=("preferred",)), folder / "half-pair")
    return folder


@pytest.fixture(scope="module")
def manager():
    return ModelManager(device="cpu")


@pytest.fixture
def config(saved):
    return GenerationConfig(
        prompt="red star",
        rows=tuple(Row(method=method, scale=2, seed=3) for method in METHODS),
        num_steps=4,
        model=str(saved / "model"),
        pair=str(saved / "pair"),
    )


def change(config, **settings):
    return GenerationConfig.model_validate({**config.model_dump(), **settings})


def make(manager, config):
    *steps, made = generate(manager, config)
    assert all(isinstance(step, StepEvent) for step in steps)
    assert isinstance(made, ImagesEvent)
    return made


def arrays(made):
    return [np.asarray(image).astype(int) for image in made.images]


def is_idle(manager):
    running = [thread for thread in threading.enumerate() if thread.name == "generate"]
    leased = [on_device for on_device in manager.describe() if on_device.in_use]
    return not running and not leased and not manager.turns.execution_lock.locked()


def refused(manager, config, words):
    with pytest.raises(UserError, match=words):
        list(generate(manager, config))
    assert is_idle(manager)


class hooked:
    """Call `action(num_rows)` before every forward of the loaded model's denoiser."""

    def __init__(self, manager, config, action):
        with manager.lease(config.model) as lease:
            self.handle = lease.pipeline.unet.register_forward_pre_hook(
                lambda _module, args, kwargs: action(len((*args, kwargs.get("sample"))[0])),
                with_kwargs=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def test_a_size_that_does_not_divide_names_the_factor_and_the_nearest_ones(manager, config):
    refused(manager, change(config, width=20), "width must be divisible by 8, got 20. Try 16 or 24")
    make(manager, config)


def test_a_size_far_beyond_the_models_own_is_refused(manager, config):
    refused(
        manager, change(config, height=1024), "height may be at most 64 .* own size is 16; got 1024"
    )


def test_a_row_without_the_pair_that_it_needs_says_how_to_get_one(manager, config):
    refused(manager, change(config, pair=None), "CHATS: .* needs a preference pair.*fine-tuning")


def test_rows_without_a_pair_are_left_out_with_a_notice_where_that_was_asked(manager, config):
    made = make(manager, change(config, pair=None, missing_pair="skip"))
    assert [row.method for row in made.config.rows] == ["standard", "cfg"]
    assert len(made.images) == len(made.combined) == 2
    assert "Left out CHATS" in made.notices[0]


def test_with_nothing_left_to_make_it_is_refused(manager, config):
    only = change(config, pair=None, missing_pair="skip", rows=(Row(),))
    refused(manager, only, "needs a preference pair")


def test_a_pair_without_the_half_that_is_needed_is_refused_and_the_next_request_works(
    manager, config, saved
):
    refused(manager, change(config, pair=str(saved / "half-pair")), "no dispreferred half")
    make(manager, config)


def test_an_unknown_model_is_refused_and_the_next_request_works(manager, config):
    refused(manager, change(config, model="unheard of"), "Unknown model 'unheard of'")
    make(manager, config)


def test_an_error_in_the_middle_reaches_the_caller_and_the_next_request_works(manager, config):
    calls = []

    def fail(_num_rows):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the cable was pulled")

    with hooked(manager, config, fail):
        stream = generate(manager, config)
        with pytest.raises(RuntimeError, match="the cable was pulled"):
            list(stream)
    assert is_idle(manager)
    make(manager, config)


def test_numbers_that_overflow_are_told_with_the_step(manager, config):
    with manager.lease(config.model) as lease:
        bias = lease.pipeline.unet.conv_out.bias
        saved_bias = bias.detach().clone()
        bias.data.fill_(3e38)
    try:
        refused(manager, change(config, rows=(Row(method="cfg"),)), "overflowed at step 1")
    finally:
        bias.data.copy_(saved_bias)
    make(manager, config)


def test_short_memory_makes_fewer_pictures_at_a_time_and_the_same_pictures(manager, config):
    config = change(config, rows=tuple(Row(method="cfg", seed=seed) for seed in range(4)))
    whole = make(manager, config)

    def short(num_rows):
        if num_rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with hooked(manager, config, short):
        parts = make(manager, config)
    assert parts.notices == ("Memory ran short: the pictures were made 2 at a time.",)
    assert np.abs(np.array(arrays(whole)) - arrays(parts)).max() <= 1


def test_one_picture_that_does_not_fit_says_what_to_lower_and_the_next_request_works(
    manager, config
):
    def short(_num_rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with hooked(manager, config, short):
        refused(manager, config, "One picture of 16×16 does not fit.*Lower the size")
    make(manager, config)


def test_cancel_before_the_start_makes_nothing(manager, config):
    cancel = threading.Event()
    cancel.set()
    assert list(generate(manager, config, cancel=cancel)) == []
    assert is_idle(manager)


def test_cancel_stops_within_one_step(manager, config):
    cancel, forwards = threading.Event(), []

    def count(_num_rows):
        forwards.append(1)
        if len(forwards) == 3:
            cancel.set()

    with hooked(manager, config, count):
        events = list(generate(manager, change(config, num_steps=50), cancel=cancel))
    assert len(forwards) == 3
    assert not any(isinstance(event, ImagesEvent) for event in events)
    assert is_idle(manager)
    make(manager, config)


@pytest.mark.alone
def test_closing_the_stream_stops_the_work_and_frees_the_model(manager, config):
    stream = generate(manager, change(config, num_steps=200))
    next(stream)
    started = time.perf_counter()
    stream.close()
    assert time.perf_counter() - started < 5
    assert is_idle(manager)
    make(manager, config)


def test_a_stream_that_is_never_read_holds_nothing(manager, config):
    generate(manager, config)
    assert is_idle(manager)


@pytest.mark.alone
def test_cancel_while_another_request_has_the_device_answers_at_once(manager, config):
    cancel = threading.Event()
    with manager.turns.execution_lock:
        threading.Timer(0.2, cancel.set).start()
        started = time.perf_counter()
        assert list(generate(manager, config, cancel=cancel)) == []
        assert time.perf_counter() - started < 3
    assert is_idle(manager)


def test_a_reader_who_falls_behind_does_not_hold_the_device(manager, config):
    stream = generate(manager, change(config, num_steps=30))
    next(stream)
    deadline = time.perf_counter() + 60
    while manager.turns.execution_lock.locked() and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not manager.turns.execution_lock.locked()
    assert isinstance(list(stream)[-1], ImagesEvent)


def test_two_requests_at_once_both_get_their_own_pictures(manager, config):
    configs = [config, change(config, scheduler="euler", num_steps=3)]
    alone = [arrays(make(manager, one)) for one in configs]
    together = [None, None]

    def ask(index):
        together[index] = arrays(make(manager, configs[index]))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert is_idle(manager)


def test_every_step_is_told_with_a_preview_of_each_row(manager, config):
    *steps, made = generate(manager, config)
    assert [event.step for event in steps] == [1, 2, 3, 4]
    assert {event.num_steps for event in steps} == {4}
    assert [len(event.previews) for event in steps] == [3, 3, 3, 0]
    assert steps[0].previews[0].size == made.images[0].size == (16, 16)
    assert steps[-1].eta_seconds == 0
    assert 0 < steps[0].elapsed_seconds <= steps[-1].elapsed_seconds <= made.seconds


@pytest.mark.parametrize(("every", "shown"), [(0, [0, 0, 0, 0]), (2, [0, 3, 0, 0])])
def test_previews_come_as_often_as_asked(manager, config, every, shown):
    *steps, _ = generate(manager, change(config, preview_every=every))
    assert [len(event.previews) for event in steps] == shown


def test_rows_beyond_what_the_device_takes_come_after_the_first_ones(config):
    small = ModelManager(device="cpu", max_rows=2)
    *steps, made = generate(small, config)
    assert [event.step for event in steps] == list(range(1, 9))
    assert {event.num_steps for event in steps} == {8}
    assert [len(event.previews) for event in steps] == [2, 2, 2, 2, 3, 3, 3, 0]
    assert len(made.images) == 3


@pytest.mark.parametrize("scheduler", ["default", "euler-ancestral", "dpm++"])
def test_a_seed_gives_the_same_picture_alone_in_company_and_in_parts(manager, config, scheduler):
    config = change(config, scheduler=scheduler)
    together = arrays(make(manager, config))
    parts = arrays(make(ModelManager(device="cpu", max_rows=2), config))
    for index, row in enumerate(config.rows):
        (alone,) = arrays(make(manager, change(config, rows=(row,))))
        assert np.abs(alone - together[index]).max() <= 1
        assert np.abs(alone - parts[index]).max() <= 1
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together[1], together[2])


@pytest.mark.parametrize(("method", "stock_scale"), [("standard", 1.0), ("cfg", 3.0)])
def test_it_agrees_with_the_stock_pipeline(manager, config, method, stock_scale):
    """Diffusers' guidance_scale is 1 + s; its noise comes from the same CPU generator."""
    made = make(manager, change(config, rows=(Row(method=method, scale=2, seed=3),)))
    stock = tiny_pipeline("sd15", dtype=torch.float32)(
        config.prompt,
        negative_prompt="",
        num_inference_steps=4,
        guidance_scale=stock_scale,
        generator=torch.Generator("cpu").manual_seed(3),
    )
    assert np.abs(arrays(made)[0] - np.asarray(stock.images[0]).astype(int)).max() <= 1


def test_guidance_costs_only_inside_its_interval(manager, config):
    """4 steps; CFG makes two predictions in the first two of them and one in the others."""
    config = change(config, rows=(Row(method="cfg"),), interval=(0.0, 0.5))
    assert make(manager, config).num_predictions == 2 * 2 + 2
    assert make(manager, change(config, interval=(0.0, 1.0))).num_predictions == 8


def test_what_was_made_is_told_in_full(manager, config):
    made = make(manager, change(config, num_steps=None, prompt=" red\x00 star "))
    assert (made.config.width, made.config.height, made.config.num_steps) == (16, 16, 50)
    assert made.config.prompt == "red star"
    assert made.notices == ("Prompt: 1 control characters were removed.",)
    assert made.combined[1] == "3·reference(prompt) − 2·reference(null)"


def test_an_empty_prompt_is_allowed_and_told(manager, config):
    made = make(manager, change(config, prompt="  "))
    assert made.notices == ("The prompt is empty: this is the null prompt.",)
    standard, cfg, _ = arrays(made)
    assert np.abs(standard - cfg).max() <= 1


def test_ten_thousand_tokens_are_cut_with_a_notice(manager, config):
    started = time.perf_counter()
    made = make(manager, change(config, prompt="red star " * 5_000, negative_prompt="b " * 5_000))
    assert time.perf_counter() - started < 10
    assert made.config.prompt.startswith("red star")
    assert [notice.split(":")[0] for notice in made.notices] == ["Prompt", "Negative prompt"]


def test_the_negative_prompt_moves_the_guided_rows_only(manager, config):
    without, with_one = (
        arrays(make(manager, change(config, negative_prompt=text))) for text in ("", "blue")
    )
    assert np.array_equal(without[0], with_one[0])
    assert not np.array_equal(without[1], with_one[1])


def test_the_size_asked_for_is_the_size_made(manager, config):
    assert make(manager, change(config, width=24, height=32)).images[0].size == (24, 32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_family_and_kind_of_pair_goes_the_whole_way(tmp_path, config, family, kind):
    pipeline = tiny_pipeline(family, dtype=torch.float32)
    pipeline.save_pretrained(tmp_path / "model")
    save_pair(tiny_pair(pipeline, kind), tmp_path / "pair")
    request = change(config, model=str(tmp_path / "model"), pair=str(tmp_path / "pair"))
    *steps, made = generate(ModelManager(device="cpu"), request)
    assert [len(event.previews) for event in steps] == [3, 3, 3, 0]
    pictures = arrays(made)
    assert pictures[0].shape == (16, 16, 3)
    assert not np.array_equal(pictures[1], pictures[2])


def test_the_embedded_model_makes_different_pictures_for_different_prompts(manager):
    config = GenerationConfig(
        prompt="a red circle", rows=(Row(method="cfg", scale=1),), num_steps=4
    )
    with manager.lease("shapes") as lease:
        size = lease.default_size_px
    red, blue = make(manager, config), make(manager, change(config, prompt="a blue circle"))
    assert red.images[0].size == (size, size)
    assert not np.array_equal(arrays(red)[0], arrays(blue)[0])
