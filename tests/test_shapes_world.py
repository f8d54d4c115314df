"""The Shapes world: what is promised is painted, and captions say it."""

import random

import numpy as np
import pytest

from chats.shapes.prompts import evaluation_specs, pair_specs, tuning_specs
from chats.shapes.world import (
    CATEGORIES,
    IMAGE_SIZE_PX,
    Scene,
    SceneObject,
    Spec,
    SpecObject,
    caption,
    place,
    relation_between,
    render,
    sample_spec,
    violate,
)

STARS_ON_BLACK = Spec("counting", (SpecObject("star", "red"),) * 3, background="black")


def test_caption_of_a_counted_scene_is_plain_english():
    assert caption(STARS_ON_BLACK) == "a photo of three red stars on a black background"


def test_caption_of_a_relation_uses_the_right_article():
    spec = Spec("position", (SpecObject("star"), SpecObject("cross", "orange")), "left")
    assert caption(spec) == "a photo of a star to the left of an orange cross"


def test_same_seed_gives_the_same_scene_and_another_seed_another():
    first, same, other = (place(STARS_ON_BLACK, random.Random(seed)) for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_placed_scene_keeps_its_relation():
    rng = random.Random(0)
    for _ in range(20):
        spec = sample_spec(rng, "position")
        first, second = place(spec, rng).objects
        centers = (first.center_x, first.center_y), (second.center_x, second.center_y)
        assert relation_between(*centers) == spec.relation


def test_diagonal_neighbours_have_no_relation():
    assert relation_between((0, 0), (10, 10)) is None


def test_render_paints_object_over_background():
    scene = Scene("white", (SceneObject("square", "blue", 48, 48, 20),))
    picture = render(scene)
    assert picture.shape == (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
    assert picture.dtype == np.uint8
    assert picture[32, 32, 2] > picture[32, 32, 0] + 100
    assert picture[2, 2].min() > 220


@pytest.mark.parametrize("category", CATEGORIES)
def test_violation_differs_from_the_promise_in_its_form_kept(category):
    rng = random.Random(3)
    for _ in range(30):
        spec = sample_spec(rng, category)
        broken = violate(spec, rng)
        assert broken != spec
        assert broken.category == spec.category


def test_prompt_sets_are_fixed_balanced_and_apart():
    test, tuning = evaluation_specs(), tuning_specs()
    assert test == evaluation_specs()
    assert len(test) == 600
    assert len(tuning) == 240
    for specs in (test, tuning):
        counts = [sum(spec.category == category for spec in specs) for category in CATEGORIES]
        assert len(set(counts)) == 1
    held_out = {caption(spec) for spec in test}
    shared = {caption(spec) for spec in tuning if spec.category != "single_object"} & held_out
    assert not shared
    stream = pair_specs()
    pairs = {caption(next(stream)) for _ in range(500)}
    assert not pairs & (held_out | {caption(spec) for spec in tuning})
