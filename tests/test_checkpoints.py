"""Checkpoints and the request to stop: what a kill, a full disk or a damaged file may cost."""

import errno
import itertools
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from chats.errors import UserError
from training.loop.checkpoints import (
    Checkpoint,
    StopRequested,
    newest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from training.run import EXIT_STOPPED, RunDirectory

# Newer Pythons warn of threads in what is copied; the copies here start none and wait for none.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

DISK_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@pytest.fixture
def children():
    """Makes processes that are copies of this one, so that they have nothing to import."""
    return multiprocessing.get_context("fork")


def tensors_at(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"weight": torch.full((40, 50), step / 3), "bias": torch.tensor(step)},
        "optimizer": {"parameter.0.exp_avg": torch.full((7,), step, dtype=torch.bfloat16)},
    }


def save(folder: Path, step: int, *, keep_last=2) -> Path:
    return save_checkpoint(
        folder,
        step=step,
        tensors=tensors_at(step),
        state={"step": step, "lr": step / 7, "groups": [{"name": None}]},
        keep_last=keep_last,
    )


def assert_is_of_step(checkpoint: Checkpoint, step: int) -> None:
    tensors, state = checkpoint.load()
    assert checkpoint.step == step
    assert state == {"step": step, "lr": step / 7, "groups": [{"name": None}]}
    assert_equal(tensors, tensors_at(step))


def assert_equal(found, expected) -> None:
    """Bit for bit, with the types, dtypes, devices and shapes."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.device) == (expected.dtype, expected.device)
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal(found[name], value)
    else:
        assert found == expected


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_for_ever(folder: Path, first: int, saved) -> None:
    for step in itertools.count(first):
        save(folder, step)
        saved.send(step)


def received(connection) -> list[int]:
    found = []
    try:
        while True:
            found.append(connection.recv())
    except EOFError:
        return found


def test_kill_9_at_any_moment_costs_at_most_the_save_that_it_fell_into(children, tmp_path):
    moments = random.Random(0)
    step = 0
    for _ in range(12):
        saved, sender = children.Pipe(duplex=False)
        child = children.Process(target=save_for_ever, args=(tmp_path, step + 1, sender))
        child.start()
        sender.close()
        assert saved.recv() == step + 1
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        last = [step + 1, *received(saved)][-1]
        child.join()
        saved.close()
        newest = newest_checkpoint(tmp_path)
        assert newest.step in (last, last + 1)
        assert_is_of_step(newest, newest.step)
        assert 1 <= len(names(tmp_path)) <= 3
        step = newest.step


def save_and_die(folder: Path, step: int, num_events: int) -> None:
    left = itertools.count(num_events, -1)

    def die(event, arguments):
        if event in DISK_EVENTS and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    save(folder, step)


def test_kill_9_before_each_touch_of_the_disk_leaves_the_old_or_the_new(children, tmp_path, caplog):
    """A process that is killed before its first, second, ... call that changes the disk."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    step, outcomes = 2, []
    for num_events in itertools.count():
        child = children.Process(target=save_and_die, args=(tmp_path, step + 1, num_events))
        child.start()
        child.join()
        newest = newest_checkpoint(tmp_path)
        assert newest.step in (step, step + 1)
        assert_is_of_step(newest, newest.step)
        assert all(name.startswith("step-") for name in names(tmp_path))
        assert all(len(names(path)) == 4 for path in tmp_path.iterdir())
        outcomes.append(newest.step - step)
        step = newest.step
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert not caplog.records
    assert outcomes == sorted(outcomes)
    assert outcomes.count(0) > 8
    assert outcomes.count(1) > 3
    assert names(tmp_path) == [f"step-{step - 1:08d}", f"step-{step:08d}"]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path: Path, length: int | None) -> None:
    path.write_bytes(path.read_bytes()[:length])


def list_outside(folder: Path) -> None:
    """Have the manifest list a whole file of another folder, with its right size and hash."""
    path = folder / "manifest.json"
    (folder.parent / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    path.write_text(path.read_text().replace('"model.', '"../outside.'))


def link_outside(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.rename(folder.parent / "outside.safetensors")
    path.symlink_to(folder.parent / "outside.safetensors")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "a file cut short": (
        lambda folder: cut(folder / "model.safetensors", -1),
        r"model\.safetensors has \d+ bytes of \d+",
    ),
    "an empty file": (lambda folder: cut(folder / "state.json", 0), r"state\.json has 0 bytes"),
    "a flipped bit": (
        lambda folder: flip(folder / "optimizer.safetensors", -1),
        r"optimizer\.safetensors has another sha256",
    ),
    "a missing file": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"model\.safetensors: No such file",
    ),
    "no manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        r"manifest\.json: No such file",
    ),
    "half a manifest": (
        lambda folder: cut(folder / "manifest.json", 99),
        r"manifest\.json: .*Invalid JSON",
    ),
    "an empty folder": (empty, r"manifest\.json: No such file"),
    "the manifest of another step": (
        lambda folder: shutil.copy(folder.parent / "step-00000001" / "manifest.json", folder),
        r"manifest\.json is of step 1",
    ),
    "a manifest without the state": (
        lambda folder: (folder / "manifest.json").write_text('{"step": 2, "files": {}}'),
        r"manifest\.json does not list state\.json",
    ),
    "a manifest that leads outside": (list_outside, r"\.\./outside\.safetensors.*match pattern"),
    "a link that leads outside": (link_outside, r"model\.safetensors is a link"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_and_its_damage_told(tmp_path, caplog, name):
    damage, reason = DAMAGE[name]
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    with caplog.at_level(logging.WARNING):
        assert_is_of_step(newest_checkpoint(tmp_path), 1)
    assert len(caplog.records) == 1
    assert "step-00000002 is damaged and skipped" in caplog.text
    assert re.search(reason, caplog.text)


def test_no_flipped_bit_of_a_manifest_changes_what_is_loaded(tmp_path):
    save(tmp_path, 1)
    manifest = save(tmp_path, 2) / "manifest.json"
    steps = []
    for place in range(0, manifest.stat().st_size, 7):
        flip(manifest, place)
        newest = newest_checkpoint(tmp_path)
        assert_is_of_step(newest, newest.step)
        steps.append(newest.step)
        flip(manifest, place)
    assert steps.count(1) > 0.8 * len(steps)


def test_there_may_be_no_checkpoint(tmp_path, caplog):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000002").write_text("a file")
    (tmp_path / "step-last").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert len(caplog.records) == 1


def test_a_training_that_goes_on_from_before_a_damaged_checkpoint_replaces_it(tmp_path):
    """With keep_last = 1 the damaged one of a later step must not crowd out the new one."""
    for step in (1, 2, 4):
        save(tmp_path, step, keep_last=9)
    flip(tmp_path / "step-00000002" / "state.json", 0)
    flip(tmp_path / "step-00000004" / "state.json", 0)
    save(tmp_path, 2, keep_last=2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert_is_of_step(newest_checkpoint(tmp_path), 2)
    save(tmp_path, 3, keep_last=1)
    assert names(tmp_path) == ["step-00000003"]


def test_the_last_ones_are_kept_and_stale_saves_swept(tmp_path):
    for step in (2, 9, 10, 123456789):
        (tmp_path / ".staged-0123").mkdir()
        save(tmp_path, step, keep_last=3)
    assert names(tmp_path) == ["step-00000009", "step-00000010", "step-123456789"]
    (tmp_path / ".staged-0123").mkdir()
    assert_is_of_step(newest_checkpoint(tmp_path), 123456789)
    assert len(names(tmp_path)) == 3


def save_with_little_space(folder: Path, said) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    try:
        save(folder, 2, keep_last=1)
    except UserError as error:
        said.send(str(error))


def test_no_space_for_the_tensors_says_so_and_leaves_the_old_checkpoint(children, tmp_path):
    """The tensors take 8 kB; the process may write no file of more than 4 kB."""
    save(tmp_path, 1)
    said, sender = children.Pipe(duplex=False)
    child = children.Process(target=save_with_little_space, args=(tmp_path, sender))
    child.start()
    sender.close()
    text = said.recv()
    child.join()
    said.close()
    assert text.startswith(f"Can't write {tmp_path}: ")
    assert "File too large. Free some space on that disk" in text
    assert names(tmp_path) == ["step-00000001"]
    assert_is_of_step(newest_checkpoint(tmp_path), 1)


def test_a_disk_that_is_full_at_any_sync_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """Three files, the manifest and their folder before the renaming; the folder above after it."""
    save(tmp_path, 1)
    sync = os.fsync
    for num_syncs in itertools.count():
        left = itertools.count(num_syncs, -1)

        def refuse(descriptor, left=left):
            if next(left) == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)
        try:
            save(tmp_path, 2, keep_last=1)
            break
        except UserError as error:
            text = str(error)
        assert "No space left on device. Free some space" in text
        assert_is_of_step(newest_checkpoint(tmp_path), 2 if num_syncs == 5 else 1)
        assert "step-00000001" in names(tmp_path)
    assert num_syncs == 6
    assert names(tmp_path) == ["step-00000002"]


def test_a_folder_that_can_not_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Not a directory\. Make that folder"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_nothing_is_touched_when_none_should_be_kept(tmp_path):
    with pytest.raises(ValueError, match="keep_last must be at least 1"):
        save(tmp_path, 1, keep_last=0)
    assert names(tmp_path) == []


def test_tensors_that_are_turned_shared_or_learning_are_saved_like_any_other(tmp_path):
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    model = {
        "turned": weight.T,
        "tied": weight,
        "row": weight[1],
        "wide": weight[:, :1].expand(2, 9),
    }
    save_checkpoint(tmp_path, step=1, tensors={"model": model, "ema": {}}, state={}, keep_last=1)
    found, state = newest_checkpoint(tmp_path).load()
    assert_equal(found, {"model": {name: each.detach() for name, each in model.items()}, "ema": {}})
    assert state == {}


def adamw(parameters, **settings):
    return torch.optim.AdamW(parameters, **{"lr": 1e-2, "betas": (0.8, 0.95)} | settings)


def adafactor(parameters, **settings):
    return Adafactor(parameters, **{"lr": 1e-2, "relative_step": False} | settings)


OPTIMIZERS = {
    "AdamW": (adamw, torch.float32),
    "AdamW with amsgrad": (lambda p, **s: adamw(p, amsgrad=True, **s), torch.float32),
    "AdamW whose rate is a tensor": (
        lambda p, **s: adamw(p, foreach=False, **{"lr": torch.tensor(1e-2)} | s),
        torch.float32,
    ),
    "AdamW in bf16": (adamw, torch.bfloat16),
    "torch's Adafactor": (torch.optim.Adafactor, torch.float32),
    "transformers' Adafactor, with sums in 32 bits": (adafactor, torch.bfloat16),
}


def new_parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    """A matrix, a vector, and one that never gets a gradient; in two groups."""
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape in ((6, 4), (4,), (3,))
    ]


def groups(parameters: list[nn.Parameter]) -> list[dict]:
    return [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}]


def train(parameters: list[nn.Parameter], optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters[:2]:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = noise.to(parameter.dtype)
        optimizer.step()


def state_of(parameters: list[nn.Parameter], optimizer) -> dict:
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    return {
        "weights": dict(enumerate(parameter.detach() for parameter in parameters)),
        "held": {n: dict(optimizer.state.get(p, {})) for n, p in enumerate(parameters)},
        "settings": dict(enumerate(settings)),
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path, name):
    """Three steps, a checkpoint, five more; against five from the checkpoint, started otherwise."""
    make, dtype = OPTIMIZERS[name]
    parameters = new_parameters(dtype)
    optimizer = make(groups(parameters))
    train(parameters, optimizer, range(3))
    tensors, state = optimizer_tensors(optimizer)
    weights = {str(number): parameter for number, parameter in enumerate(parameters)}
    save_checkpoint(
        tmp_path,
        step=3,
        tensors={"model": weights, "optimizer": tensors},
        state={"optimizer": state},
        keep_last=1,
    )
    train(parameters, optimizer, range(3, 8))

    saved, state = newest_checkpoint(tmp_path).load()
    resumed = new_parameters(dtype)
    again = make(groups(resumed))
    train(resumed, again, range(90, 92))
    for group in again.param_groups:
        group["weight_decay"] = 0.5
    with torch.no_grad():
        for number, parameter in enumerate(resumed):
            parameter.copy_(saved["model"][str(number)])
    restore_optimizer(again, saved["optimizer"], state["optimizer"])
    train(resumed, again, range(3, 8))
    assert_equal(state_of(resumed, again), state_of(parameters, optimizer))
    assert_equal(newest_checkpoint(tmp_path).load()[0], saved)


def test_restored_state_goes_to_the_parameters_device_and_counts_where_they_belong():
    """From the CPU to a device that only knows shapes; counts stay unless they are captured."""
    parameters = new_parameters(torch.float32)
    optimizer = adamw(groups(parameters))
    train(parameters, optimizer, range(2))
    tensors, state = optimizer_tensors(optimizer)
    elsewhere = [nn.Parameter(parameter.to("meta")) for parameter in parameters]
    for is_captured, device in ((False, "cpu"), (True, "meta")):
        state["groups"][0]["settings"]["capturable"] = is_captured
        other = adamw(groups(elsewhere))
        restore_optimizer(other, tensors, state)
        held = other.state[elsewhere[0]]
        assert {name: value.device.type for name, value in held.items()} == {
            "step": device,
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
        }


def test_an_optimizer_that_has_not_stepped_is_restored_to_that():
    fresh, used = new_parameters(torch.float32), new_parameters(torch.float32)
    optimizer, other = adamw(groups(fresh)), adamw(groups(used))
    train(used, other, range(2))
    tensors, state = optimizer_tensors(optimizer)
    assert tensors == {}
    restore_optimizer(other, tensors, json.loads(json.dumps(state)))
    assert not other.state


def test_the_state_of_other_parameters_or_another_optimizer_is_refused():
    parameters = new_parameters(torch.float32)
    optimizer = adamw(groups(parameters))
    train(parameters, optimizer, range(2))
    before = state_of(parameters, optimizer)
    fewer = optimizer_tensors(adamw([{"params": parameters[:1]}, {"params": parameters[1:2]}]))
    with pytest.raises(UserError, match="is for 2 parameters of other shapes or groups than the 3"):
        restore_optimizer(optimizer, *fewer)
    other = optimizer_tensors(torch.optim.Adafactor(groups(parameters)))
    with pytest.raises(UserError, match="another kind of optimizer, one with beta2_decay, d"):
        restore_optimizer(optimizer, *other)
    assert_equal(state_of(parameters, optimizer), before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag_and_a_second_one_interrupts(number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with StopRequested() as stop:
        assert not stop.is_set
        signal.raise_signal(number)
        assert stop.is_set
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def train_until_stopped(folder: Path, started) -> None:
    run = RunDirectory(folder)
    with run.hold(), StopRequested() as stop:
        started.send(os.getpid())
        for step in itertools.count(1):
            if stop.is_set:
                save(run.checkpoints, step)
                run.update_status(state="cancelled", step=step, exit_code=EXIT_STOPPED)
                sys.exit(EXIT_STOPPED)
            time.sleep(0.01)


def test_a_training_that_is_told_to_stop_saves_and_says_so(children, tmp_path):
    run = RunDirectory(tmp_path / "run")
    started, sender = children.Pipe(duplex=False)
    child = children.Process(target=train_until_stopped, args=(run.path, sender))
    child.start()
    sender.close()
    assert started.recv() == child.pid
    started.close()
    assert run.state() == "running"
    child.terminate()
    child.join()
    assert child.exitcode == EXIT_STOPPED == 75
    assert run.state() == "cancelled"
    assert_is_of_step(newest_checkpoint(run.checkpoints), run.status().step)
