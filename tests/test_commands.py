"""`python -m training export | push` as a person types it."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from chats.pairs.pair import load_pair, save_pair
from tests.test_push import FakeApi
from tests.tiny import tiny_pair, tiny_pipeline
from training.__main__ import main
from training.commands import parse_arguments
from training.config import TrainingConfig
from training.run import RunDirectory
from training.scoring.record import Percent, RunScore, write_score


@pytest.fixture
def call(monkeypatch):
    def run(*arguments) -> int:
        monkeypatch.setattr("sys.argv", ["training", *map(str, arguments)])
        return main()

    return run


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A finished run of two lines of metrics."""
    run = RunDirectory(tmp_path / "first")
    save_pair(tiny_pair(tiny_pipeline("sd15", dtype=torch.float32), "lora"), run.pair)
    run.update_status(state="succeeded", step=20, num_steps=20)
    for step, loss in ((10, 0.6875), (20, 0.5)):
        run.append_metrics({"step": step, "loss": loss})
    return run


def test_a_run_without_a_finished_pair_says_how_far_it_is(call, tmp_path, capsys):
    unfinished = RunDirectory(tmp_path / "first")
    unfinished.update_status(state="failed", step=7, num_steps=20, message="out of memory")
    assert call("export", unfinished.path, "--output", tmp_path / "out") == 1
    assert "first has no finished pair: it is failed, at step 7 of 20." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_neither_a_run_nor_a_pair_is_one_message(call, tmp_path, capsys):
    assert call("export", tmp_path, "--output", tmp_path / "out") == 1
    assert "is not a pair" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "runs/first"],
        ["export", "runs/first", "--output", "x", "--layout", "zip"],
        ["export", "runs/first", "--output", "x", "--license", "my licence"],
        ["push", "runs/first"],
    ],
)
def test_a_command_line_that_is_wrong_ends_with_code_2(call, capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        call(*arguments)
    assert raised.value.code == 2
    assert "--" in capsys.readouterr().err


def test_a_run_is_exported_with_its_card_scores_and_curve(call, run, tmp_path, capsys):
    out = tmp_path / "out"
    sure = {"started": datetime.now(UTC), "num_pictures": 240, "num_prompts": 120}
    found = {"cfg": Percent(mean=80, error=1.25), "chats": Percent(mean=83, error=1.5)}
    score = RunScore(**sure, **found, difference=Percent(mean=3, error=1), scale=2, alpha=0)
    write_score(run, score.model_copy(update={"state": "done"}))
    assert call("export", run.path, "--output", out, "--license", "apache-2.0") == 0
    assert capsys.readouterr().out == f"The pair is in {out}\n"
    assert load_pair(out).metadata == load_pair(run.pair).metadata
    card = (out / "README.md").read_text()
    assert "license: apache-2.0\n" in card
    assert "| 10 | 0.6875 |" in card
    assert "α = 0: promises kept, 120 held-out prompts | 83.0 ± 1.5 % |" in card
    assert "| difference, paired | 3.0 ± 1.0 points |" in card
    assert 'chats.load_pair("out")' in card
    assert call("export", run.path, "--output", out) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_pair_alone_is_exported_without_a_curve(call, run, tmp_path):
    assert call("export", run.pair, "--output", tmp_path / "out", "--layout", "lora") == 0
    assert "Training curve" not in (tmp_path / "out" / "README.md").read_text()


def test_a_run_is_pushed(call, run, monkeypatch, capsys):
    api = FakeApi()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert call("push", run.path, "--repo", "owner/name", "--private") == 0
    assert capsys.readouterr().out == "The pair is at https://huggingface.co/owner/name\n"
    assert {"pair.json", "README.md"} <= api.files["owner/name"]
    assert api.private["owner/name"]


def test_training_is_still_what_happens_without_a_command():
    arguments = ["--data.path", "export", "--run.output", "push"]
    assert isinstance(parse_arguments(arguments), TrainingConfig)


def test_reading_the_command_line_loads_no_torch():
    code = (
        "import sys, training.__main__\n"
        "training.__main__.parse_arguments(['push', 'a', '--repo', 'b/c'])\n"
        "assert not {'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
