"""`python -m training submit | list | logs | stop | resume` as a person types it."""

import pytest
import torch

from tests.job_queue import make_config, nothing_left, open_console, wait_for, wait_until
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.__main__ import main
from training.config import TrainingConfig
from training.jobs import elsewhere
from training.jobs.console import JobConsole, JobSettings
from training.jobs.here import ThisMachine
from training.loop.metrics import MEASURED
from training.loop.trainer import train
from training.run import RunDirectory

STEPS = 25


@pytest.fixture
def workspace(tmp_path):
    with nothing_left(tmp_path / "ws"):
        yield tmp_path / "ws"


@pytest.fixture
def call(monkeypatch, workspace, capsys):
    """Returns the exit status and what was said, with quick trainers."""
    monkeypatch.setattr(
        elsewhere,
        "ThisMachine",
        lambda: ThisMachine(modules={"training": "tests.fake_trainer"}),
    )

    def run(command, *arguments) -> tuple[int, str]:
        line = ["training", command, *map(str, arguments), "--workspace", str(workspace)]
        monkeypatch.setattr("sys.argv", line)
        status = main()
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_a_queue_is_led_from_the_command_line(call, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", "slow")
    path = tmp_path / "run.yaml"
    path.write_text(make_config(num_steps=5).model_dump_json())
    assert call("list") == (0, f"There is no run in {workspace} yet.\n")
    status, said = call("submit", "--config", path, "--optimizer.num-steps", "10000")
    assert status == 0
    run_id, state, *_ = said.split()
    assert state in ("running", "waiting_for_device")
    wait_for(lambda: open_console(workspace).get(run_id).step > 0, what="a step")
    status, said = call("list")
    assert f"{run_id}  running" in said
    assert "/10000  cpu   " in said
    assert " left" in said
    assert "fake_trainer" in call("logs", run_id, "--output")[1]
    assert call("logs", run_id)[1] == "\n"
    status, said = call("resume", run_id)
    assert (status, said) == (1, f"The run {run_id} is running: it can't be resumed.\n")
    assert call("stop", run_id)[1].startswith(f"{run_id}  interrupted")
    assert call("resume", run_id)[1].split()[1] in ("running", "waiting_for_device")
    wait_until(open_console(workspace), run_id, "running")
    assert call("stop", run_id, "--now")[1].startswith(f"{run_id}  cancelled")
    assert call("resume")[1] == "Nothing was left waiting.\n"
    assert "cancelled" in call("logs", run_id, "--output", "--follow")[1].splitlines()[-1]


@pytest.mark.parametrize("command", ["logs", "stop", "resume"])
def test_an_unknown_run_is_one_line(call, command):
    assert call(command, "../x") == (1, "There is no run '../x'.\n")


def test_a_wrong_setting_is_refused_before_there_is_a_run(call, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {path: pairs}\nmodel: {rank: 0}\n")
    status, said = call("submit", "--config", path)
    assert status == 1
    assert "model.rank" in said
    assert call("list")[1].startswith("There is no run")


@pytest.fixture
def _one_thread(monkeypatch):
    """Sums over several threads differ in the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_a_training_that_is_stopped_and_resumed_has_the_losses_of_an_uninterrupted_one(
    workspace, tmp_path
):
    """The same settings through the queue, by the real trainer, and without it."""
    config = TrainingConfig.model_validate(
        {
            "data": {"path": write_preferences(tmp_path / "pairs")},
            "model": {"base": str(tmp_path / "base"), "rank": 2, "lora_alpha": 4},
            "objective": {"temperature": 100.0},
            "optimizer": {"num_steps": STEPS, "batch_size": 1, "learning_rate": 1e-3},
            "run": {"output": tmp_path / "whole", "log_every": 1, "save_every": 1000},
        }
    )
    tiny_pipeline("sd15", dtype=torch.float32).save_pretrained(tmp_path / "base")
    console = JobConsole(JobSettings(workspace=workspace))
    run_id = console.submit(config)
    wait_for(lambda: console.metrics(run_id).rows != (), what="a first step", seconds=400)
    console.stop(run_id)
    stopped = wait_until(console, run_id, "interrupted", seconds=400)
    assert stopped.reason.startswith("Stopped as asked, after step")
    assert 0 < stopped.step < STEPS
    console.resume(run_id)
    train(config)
    wait_until(console, run_id, "succeeded", seconds=400)
    assert losses(console.directory(run_id)) == losses(RunDirectory(config.run.output))
    assert "'-m', 'training'" in console.log(run_id, file="output").text


def losses(run: RunDirectory) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in MEASURED}
        for row in run.read_metrics()
    ]
