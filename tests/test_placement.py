"""The ladder from a model that is whole on the device to one that is refused."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.generate import generate
from chats.models.loading import can_be_offloaded
from chats.models.manager import ModelManager
from chats.models.placement import Sizes, choose_placement

GB = 10**9
SIZES = Sizes(resident=10 * GB, model_offload=6 * GB, group_offload=1 * GB)


@pytest.mark.parametrize(
    ("room", "beside", "expected"),
    [
        (None, 99, "resident"),
        (12, 2, "resident"),
        (11, 2, "model offload"),
        (8, 2, "model offload"),
        (7, 2, "group offload"),
        (3, 2, "group offload"),
    ],
)
def test_the_fastest_that_fits_is_chosen(room, beside, expected):
    room_bytes = None if room is None else room * GB
    chosen = choose_placement(
        SIZES, beside_bytes=beside * GB, room_bytes=room_bytes, can_offload=True
    )
    assert chosen == expected


def test_what_fits_in_no_way_is_refused_with_the_numbers_of_each():
    words = (
        r"12\.00 GB as a whole, 8\.00 GB by model offload, 3\.00 GB by group offload; "
        r"2\.00 GB can be had"
    )
    with pytest.raises(UserError, match=words):
        choose_placement(SIZES, beside_bytes=2 * GB, room_bytes=2 * GB, can_offload=True)


def test_what_must_be_there_as_a_whole_is_not_offered_in_parts():
    with pytest.raises(UserError, match=r"takes 10\.00 GB as a whole; 9\.00 GB can be had"):
        choose_placement(SIZES, beside_bytes=0, room_bytes=9 * GB, can_offload=False)


def test_both_halves_of_a_full_pair_must_be_on_the_device(tmp_path):
    for kind in ("full", "lora"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "pair.json").write_text(json.dumps({"kind": kind}))
    assert not can_be_offloaded(tmp_path, tmp_path / "full")
    assert can_be_offloaded(tmp_path, tmp_path / "lora")
    assert can_be_offloaded(tmp_path, None)


def test_weights_that_come_only_meanwhile_do_not_pass_for_the_work():
    """Else the second picture would ask for the room of the weights once more, and be refused."""

    class Offloading(ModelManager):
        @contextmanager
        def lease(self, *args, **kwargs):
            with super().lease(*args, **kwargs) as lease:
                yield replace(lease, placement="model offload")

    manager = Offloading(device="cpu", budget_gb=1)

    @contextmanager
    def measured(family, *, num_pixels, num_rows):
        yield
        manager.working.learn(family, num_pixels=num_pixels, num_rows=num_rows, num_bytes=2 * GB)

    manager.working.measured = measured
    config = GenerationConfig(prompt="a red star", rows=(Row(method="cfg"),), num_steps=1)
    for _ in range(2):
        *_, last = generate(manager, config)
        assert len(last.images) == 1
