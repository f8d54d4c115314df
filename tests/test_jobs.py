"""The queue of trainings as a person meets it, with processes that are killed in every way."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chats.errors import UserError
from tests.job_queue import (
    SLOW_STEPS,
    begun,
    living,
    make_config,
    nothing_left,
    open_console,
    wait_for,
    wait_until,
)
from training.jobs.console import JobConsole

ROOT = Path(__file__).parents[1]
SERVER = """
import pathlib, sys, time
from tests.job_queue import make_config, open_console
console = open_console(pathlib.Path(sys.argv[1]))
print(console.submit(make_config(num_steps=int(sys.argv[2]))), flush=True)
print(console.submit(make_config(num_steps=2)), flush=True)
time.sleep(600)
"""


@pytest.fixture
def workspace(tmp_path):
    with nothing_left(tmp_path / "ws"):
        yield tmp_path / "ws"


@pytest.fixture
def console(workspace) -> JobConsole:
    return open_console(workspace)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", "slow")


def test_two_runs_started_at_once_the_second_waits_with_its_reason(console, slow):
    first = console.submit(make_config(num_steps=SLOW_STEPS))
    second = console.submit(make_config(num_steps=1))
    wait_until(console, first, "running")
    reason = f"Waiting for the CPU: {first} trains on it."
    wait_for(lambda: console.get(second).reason == reason, what="the reason")
    waits = console.get(second)
    assert waits.state == "waiting_for_device"
    assert waits.actions == {"stop", "rerun"}
    assert waits.started is None
    console.kill(first)
    summary = wait_until(console, second, "succeeded")
    assert (summary.step, summary.num_steps, summary.progress) == (1, 1, 1.0)
    assert summary.started <= summary.ended
    assert console.get(first).state == "cancelled"
    assert [each.id for each in console.list()] == [second, first]


def test_a_server_that_is_killed_takes_neither_run_nor_queue_with_it(workspace, slow):
    command = [sys.executable, "-c", SERVER, str(workspace), str(SLOW_STEPS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        first, second = (server.stdout.readline().strip() for _ in range(2))
        other = open_console(workspace)
        wait_until(other, first, "running")
        server.kill()
    console = open_console(workspace)
    assert console.reconcile() == ()
    before = console.get(first)
    assert before.state == "running"
    wait_for(lambda: console.get(first).step > before.step, what="another step")
    wait_until(console, second, "waiting_for_device")
    os.kill(console.directory(first).status().pid, signal.SIGTERM)
    wait_until(console, second, "succeeded")  # nobody started it now
    assert console.get(first).state == "interrupted"
    assert [len(begun(console, each)) for each in (first, second)] == [1, 1]


def test_a_killed_trainer_is_interrupted_at_once_and_resumes(console, slow):
    run_id = console.submit(make_config(num_steps=SLOW_STEPS))
    wait_for(lambda: console.get(run_id).step > 2, what="three steps")
    os.kill(console.directory(run_id).status().pid, signal.SIGKILL)
    summary = wait_until(console, run_id, "interrupted", seconds=10)
    assert summary.reason == (
        "Its process was killed, or the machine went down. It can go on from its last checkpoint."
    )
    assert summary.actions == {"resume", "rerun", "delete"}
    assert summary.ended is not None
    console.resume(run_id)
    wait_for(lambda: console.get(run_id).step > summary.step, what="another step")
    with pytest.raises(UserError, match=rf"^The run {run_id} is running: it can't be resumed\.$"):
        console.resume(run_id)
    with pytest.raises(UserError, match=rf"^The run {run_id} is running: it can't be deleted"):
        console.delete(run_id)
    console.kill(run_id)
    assert wait_until(console, run_id, "cancelled").reason.startswith("Killed as asked.")
    console.delete(run_id)
    assert console.list() == ()
    assert list((console._workspace.runs).iterdir()) == []


def test_a_stopped_run_says_so_and_one_that_waits_leaves_the_queue(console, slow):
    first = console.submit(make_config(num_steps=SLOW_STEPS))
    second, third = (console.submit(make_config(num_steps=1)) for _ in range(2))
    wait_for(lambda: console.get(first).step > 0, what="a step")
    wait_until(console, second, "waiting_for_device")
    console.stop(second)
    assert wait_until(console, second, "cancelled").reason == "Cancelled before its first step."
    console.stop(first)
    assert wait_until(console, first, "interrupted").reason.startswith("Stopped as asked;")
    wait_until(console, third, "succeeded")
    assert begun(console, second) == []
    with pytest.raises(UserError, match=rf"^The run {first} is interrupted: it can't be stopped"):
        console.stop(first)


@pytest.mark.alone
def test_who_does_not_stop_is_killed_with_all_its_processes_after_the_grace(workspace, monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", "stubborn")
    console = open_console(workspace, grace_seconds=1.0)
    run_id = console.submit(make_config(num_steps=SLOW_STEPS))
    wait_for(lambda: len(living(console, run_id)) == 2, what="the trainer's own child")
    wait_for(lambda: console.get(run_id).step > 0, what="a step")
    before = time.monotonic()
    console.stop(run_id)
    stopping = console.get(run_id)
    assert time.monotonic() - before < 0.9
    assert (stopping.state, stopping.actions) == ("stopping", {"kill", "rerun"})
    assert stopping.reason.startswith("Saves, then ends; it is killed at ")
    wait_for(lambda: not living(console, run_id), what="the end of all processes")  # nobody asks
    summary = console.get(run_id)
    assert summary.state == "interrupted"
    assert summary.reason.startswith("It did not stop in time, so it was killed.")


def test_a_stop_whose_server_was_killed_is_carried_out_by_the_next_one(workspace, monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", "stubborn")
    console = open_console(workspace, grace_seconds=0.5)
    monkeypatch.setattr(JobConsole, "_kill_when_late", lambda *_: None)
    run_id = console.submit(make_config(num_steps=SLOW_STEPS))
    wait_for(lambda: console.get(run_id).step > 0, what="a step")
    console.stop(run_id)
    time.sleep(0.6)
    assert len(living(console, run_id)) == 2
    open_console(workspace).reconcile()
    wait_for(lambda: not living(console, run_id), what="the end of all processes")


def test_after_a_power_cut_the_queue_is_started_once_in_its_old_order(workspace, slow):
    """Two servers start at the same moment, both with a queue in which nothing lives."""
    console = open_console(workspace)
    first = console.submit(make_config(num_steps=SLOW_STEPS))
    waiting = [console.submit(make_config(num_steps=1)) for _ in range(3)]
    wait_for(lambda: console.get(first).step > 0, what="a step")
    for run_id in (*reversed(waiting), first):
        wait_until(console, run_id, "waiting_for_device", "running")
        console._queue.launcher_of(console._workspace.find(run_id)).cancel(
            console._workspace.find(run_id), force=True
        )
    assert console.get(waiting[0]).state == "interrupted"
    servers = [open_console(workspace) for _ in range(2)]
    threads = [threading.Thread(target=each.reconcile) for each in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert console.get(first).state == "interrupted"
    for run_id in waiting:
        wait_until(console, run_id, "succeeded")
    times = [begun(console, each) for each in waiting]
    assert [len(each) for each in times] == [1, 1, 1]
    assert times == sorted(times)
    assert console.reconcile() == ()


def test_a_process_that_can_not_begin_is_a_failure_with_its_last_words(console, monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", "broken")
    run_id = console.submit(make_config())
    summary = wait_until(console, run_id, "failed")
    assert summary.error == "It could not begin (exit status 1): No module named 'torch'"
    assert "resume" in summary.actions
    assert "tests.fake_trainer" in console.log(run_id, file="output").text


def test_a_run_gets_its_own_folder_and_its_settings_stay(console):
    config = make_config(num_steps=2, learning_rate=0.25)
    run_id = console.submit(config)
    wait_until(console, run_id, "succeeded")
    found = console.config(run_id)
    assert found.run.output == console.directory(run_id).path
    assert found.model_copy(update={"run": config.run}) == config
    assert [row["step"] for row in console.metrics(run_id).rows] == [1, 2]
    rerun = console.rerun(run_id, {"optimizer.learning_rate": 0.5})
    again = console.submit(rerun)
    wait_until(console, again, "succeeded")
    assert console.config_diff(run_id, again) == {"optimizer.learning_rate": (0.25, 0.5)}
