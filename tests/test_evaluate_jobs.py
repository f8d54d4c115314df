"""Evaluations as runs of the queue: they wait, stop, resume and fail as trainings do."""

import os
import signal

import pytest

from chats.errors import UserError
from tests.job_queue import (
    SLOW_STEPS,
    living,
    make_config,
    nothing_left,
    open_console,
    wait_for,
    wait_until,
)
from tests.test_evaluate import contents
from training.__main__ import main
from training.evaluate.loop import evaluate
from training.evaluate.wins import wins_of
from training.evaluation_config import EvaluateConfig
from training.run import RunDirectory

SCORER = "tests.slow_scorer:SlowBrightness"
QUICK = {
    "methods": ("cfg,s=2", "chats,s=2,alpha=0.5,name=ours"),
    "max_prompts": 6,
    "batch_size": 1,
    "num_steps": 1,
    "scorers": (SCORER,),
}
NUM_PICTURES = 12


@pytest.fixture
def workspace(tmp_path):
    with nothing_left(tmp_path / "ws"):
        yield tmp_path / "ws"


@pytest.fixture
def console(workspace):
    return open_console(workspace)


def made(console, run_id: str) -> dict[str, bytes]:
    """What an evaluation made, without what the queue keeps beside it."""
    of_queue = ("config.yaml", "job.json", "output.txt", "stop.json")
    found = contents(console.directory(run_id).path)
    return {name: content for name, content in found.items() if name not in of_queue}


def test_an_evaluation_waits_stops_dies_and_resumes_to_the_same_files(
    console, tmp_path, monkeypatch
):
    """Stopped it saves, killed by force it is interrupted; the end is that of one never touched."""
    monkeypatch.setenv("FAKE_TRAINER", "slow")
    training = console.submit(make_config(num_steps=SLOW_STEPS))
    wait_until(console, training, "running")
    run = console.submit(EvaluateConfig(output=tmp_path, **QUICK))
    reason = f"Waiting for the CPU: {training} trains on it."
    wait_for(lambda: console.get(run).reason == reason, what="the evaluation's reason")
    console.kill(training)

    wait_for(lambda: console.get(run).step > 0, what="a picture")
    after = console.submit(make_config(num_steps=1))
    reason = f"Waiting for the CPU: {run} evaluates on it."
    wait_for(lambda: console.get(after).reason == reason, what="the training's reason")
    assert (console.get(run).kind, console.get(run).num_steps) == ("evaluation", NUM_PICTURES)
    assert console.get(run).eta_seconds is not None
    console.stop(run)
    stopped = wait_until(console, run, "interrupted")
    assert stopped.reason.startswith("Stopped as asked, with ")
    assert 0 < stopped.step < NUM_PICTURES
    wait_until(console, after, "succeeded")

    console.resume(run)
    wait_for(lambda: console.get(run).step > stopped.step, what="another picture")
    for pid in living(console, run):
        os.kill(pid, signal.SIGKILL)
    killed = wait_until(console, run, "interrupted")
    assert killed.reason.endswith("It can go on with the pictures that are missing.")

    console.resume(run)
    assert wait_until(console, run, "succeeded").step == NUM_PICTURES
    whole = EvaluateConfig(output=tmp_path / "whole", **QUICK)
    evaluate(whole, device="cpu")
    assert made(console, run) == contents(whole.output)
    assert console.directory(run).stored_status().exit_code == 0
    assert "part 1 of 12" in console.directory(run).log.read_text()


def test_a_scorer_that_the_hub_would_have_to_give_fails_in_one_line(console, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    run = console.submit(EvaluateConfig(output=tmp_path, **{**QUICK, "scorers": ("pickscore",)}))
    failed = wait_until(console, run, "failed")
    assert "yuvalkirstain/PickScore_v1" in failed.reason
    assert "Traceback" not in console.log(run, file="output").text
    console.delete(run)
    assert console.ids() == ()


def test_it_says_in_its_folder_why_it_failed(tmp_path):
    config = EvaluateConfig(output=tmp_path, **{**QUICK, "scorers": ("tests.slow_scorer:Gone",)})
    with pytest.raises(UserError, match="has no Gone"):
        evaluate(config, device="cpu")
    status = RunDirectory(tmp_path).status()
    assert (status.state, status.message) == ("failed", "The module tests.slow_scorer has no Gone.")


def test_the_command_puts_one_into_the_queue(workspace, monkeypatch, capsys):
    """Nothing starts: its device is not here."""
    line = ["training", "submit", "--evaluate", "--workspace", str(workspace)]
    monkeypatch.setattr("sys.argv", [*line, "--device", "cuda:GPU-0", "--seeds", "1", "2"])
    assert main() == 1
    assert "no device 'cuda:GPU-0'" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*line, "--scorers", "picscore"])
    with pytest.raises(SystemExit):
        main()
    assert "no scorer 'picscore'" in " ".join(capsys.readouterr().err.split())


def test_settings_of_one_kind_are_none_of_the_other(console, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", "broken")
    training = console.submit(make_config())
    run = console.submit(EvaluateConfig(output=tmp_path, **QUICK))
    console.stop(run)
    wait_until(console, run, "cancelled")
    assert console.evaluation(run).output == console.directory(run).path
    with pytest.raises(UserError, match=f"run {run} is of another kind: evaluation"):
        console.config(run)
    with pytest.raises(UserError, match=f"run {training} is of another kind: training"):
        console.evaluation(training)
    assert console.rerun(run, {"seeds": [3]}).seeds == (3,)
    wait_until(console, training, "failed")


def test_wins_of_a_scorer_are_votes_between_contestants(tmp_path):
    """Two prompts, one seed: ours wins at the first and ties at the second; the third is alone."""
    line = '{{"method": "{}", "seed": 0, "number": {}, "prompt": "A  {}", "scores": {{"hps": {}}}}}'
    rows = [
        ("cfg", 0, "cat", 1),
        ("ours", 0, "cat", 2),
        ("cfg", 1, "dog", 3),
        ("ours", 1, "dog", 3),
    ]
    text = "\n".join(line.format(*row) for row in [*rows, ("ours", 2, "cow", 9)])
    (tmp_path / "scores.jsonl").write_text(text)
    found = wins_of([tmp_path, tmp_path / "unfinished"], "hps")
    assert [(v.first, v.second, v.outcome, v.cluster) for v in found] == [
        ("cfg", "ours", 0, "a cat"),
        ("cfg", "ours", 0.5, "a dog"),
    ]
    assert wins_of([tmp_path], "clip") == []
    (tmp_path / "scores.jsonl").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        wins_of([tmp_path], "hps")
