"""The offline scorers: the checker reads prompts as promises, the embedded CLIP knows its world."""

import random

import numpy as np
import pytest
from PIL import Image

from chats.errors import UserError
from chats.scoring import score_pictures, scorer
from chats.shapes.grammar import parse_caption
from chats.shapes.prompts import evaluation_specs, tuning_specs
from chats.shapes.world import caption, place, render, sample_spec, violate


def test_every_caption_is_read_back_as_it_was_meant():
    rng = random.Random(5)
    for spec in [*evaluation_specs(), *tuning_specs(), *(sample_spec(rng) for _ in range(400))]:
        assert parse_caption(caption(spec)) == spec
        assert parse_caption(caption(spec, rng)) == spec


@pytest.mark.parametrize(
    "text", ["", "a cat", "a red", "five stars", "a star and a", "a red star on a pink background"]
)
def test_what_is_no_caption_is_refused(text):
    with pytest.raises(UserError, match=r"no caption of the Shapes world.*red circle"):
        parse_caption(text)


def test_capitals_and_a_full_stop_do_not_matter():
    assert parse_caption("A photo of  two red stars.") == parse_caption("two red stars")


@pytest.fixture(scope="module")
def scenes():
    """Pictures of 40 promises, and of the same with one thing wrong."""
    rng = random.Random(9)
    specs = [sample_spec(rng) for _ in range(40)]
    right = [Image.fromarray(render(place(spec, rng))) for spec in specs]
    wrong = [Image.fromarray(render(place(violate(spec, rng), rng))) for spec in specs]
    return [caption(spec) for spec in specs], right, wrong


def test_the_checker_gives_one_for_a_kept_promise_and_zero_for_a_broken_one(scenes):
    prompts, right, wrong = scenes
    judge = scorer("shapes")
    assert score_pictures(judge, right, prompts).tolist() == [1.0] * 40
    assert score_pictures(judge, wrong, prompts).tolist() == [0.0] * 40


def test_the_embedded_clip_prefers_what_was_promised(scenes):
    prompts, right, wrong = scenes
    judge = scorer("shapes-clip", device="cpu")
    good, bad = (score_pictures(judge, each, prompts) for each in (right, wrong))
    assert np.abs(good).max() <= 100
    assert (good > bad).mean() >= 0.75
