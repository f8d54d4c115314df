"""Sweeps of a real, tiny model: kill -9, memory that runs short, one call for several prompts."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from chats.generation.generate import generate
from chats.models.manager import ModelManager
from chats.pairs.pair import save_pair
from chats.sweeps.folder import SCORES_FILE, SweepFolder
from chats.sweeps.plan import pictures, request
from tests.serving import ROOT
from tests.sweeping import calls_without_times, contents, finish, make, small_sweep
from tests.tiny import tiny_pair, tiny_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model and its pair, on disk."""
    folder = tmp_path_factory.mktemp("saved")
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    pipeline.save_pretrained(folder / "model")
    save_pair(tiny_pair(pipeline, "lora"), folder / "pair")
    return folder


@pytest.fixture(scope="module")
def manager():
    return ModelManager(device="cpu")


@pytest.fixture
def config(saved):
    model, pair = str(saved / "model"), str(saved / "pair")
    return small_sweep(model=model, pair=pair, num_steps=[3])


@pytest.fixture
def paint(manager):
    return lambda config, cancel: generate(manager, config, cancel=cancel)


def test_a_sweep_that_was_killed_goes_on_to_the_same_bytes(tmp_path, config, paint):
    whole = make(tmp_path / "whole", config, paint)
    killed = SweepFolder.create(tmp_path / "sweep", config)
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_sweep", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert killed.num_done() == 4
    assert len(contents(killed)) == 7
    with (killed.path / SCORES_FILE).open("ab") as file:
        file.write(b'{"first": 4, "cou')
    finish(killed, paint)
    assert contents(killed) == contents(whole)
    assert calls_without_times(killed) == calls_without_times(whole)


def test_where_memory_runs_short_calls_are_halved_once_for_the_whole_sweep(
    tmp_path, config, paint, manager
):
    sizes = []

    def refuse_large(_module, args, kwargs):
        num_rows = len((*args, kwargs.get("sample"))[0])
        sizes.append(num_rows)
        if num_rows > 2:
            raise torch.OutOfMemoryError("no room")

    with manager.lease(config.model) as lease:
        hook = lease.pipeline.unet.register_forward_pre_hook(refuse_large, with_kwargs=True)
    try:
        folder = make(tmp_path / "sweep", config, paint)
    finally:
        hook.remove()
    assert [num for num in sizes if num > 2] == [4]
    calls = folder.calls()
    assert [call.count for call in calls] == [4, 2, 2, 2, 2]
    assert [bool(call.notices) for call in calls] == [True, False, False, False, False]
    assert "made 2 at a time" in calls[0].notices[0]


def test_prompts_of_one_call_give_the_pictures_that_they_give_alone(config, paint):
    plan = pictures(config)
    mixed = request(config, (plan[0], plan[6]))
    assert [row.prompt for row in mixed.rows] == list(config.prompts)
    *_, together = paint(mixed, None)
    for index, place in enumerate((0, 6)):
        *_, alone = paint(request(config, (plan[place],)), None)
        difference = _pixels(alone.images[0]) - _pixels(together.images[index])
        assert np.abs(difference).max() <= 1
    assert np.abs(_pixels(together.images[0]) - _pixels(together.images[1])).max() > 1


@pytest.mark.alone
def test_one_sweep_is_faster_than_its_pictures_one_by_one(tmp_path):
    """On Shapes, in one run; the smallest of several times stands for each way."""
    manager = ModelManager(device="cpu")
    config = small_sweep(alphas="-0.5 to 1 by 0.25", scales=[1, 4], rows_per_call=14, num_steps=[4])
    plan = pictures(config)[:14]
    together, alone = [], []
    for _ in range(4):
        together.append(_seconds(manager, [request(config, plan)]))
        alone.append(_seconds(manager, [request(config, (each,)) for each in plan]))
    assert min(alone) / min(together) >= 1.5


def _seconds(manager, requests):
    began = time.perf_counter()
    for each in requests:
        list(generate(manager, each))
    return time.perf_counter() - began


def _pixels(image: Image.Image):
    return np.asarray(image).astype(int)
