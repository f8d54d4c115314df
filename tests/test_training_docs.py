"""The guide to training: its commands are understood, and it leaves nothing out."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import launch_command_parser

from chats.objective import LossTerms
from training.commands import take_dry_run
from training.config import parse_command_line
from training.jobs.commands import COMMANDS, parse_job_command
from training.jobs.summary import ACTIONS
from training.launch import find_engine
from training.loop.metrics import MetricsWindow
from training.loop.validation import VALIDATION_METRICS

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "training.md"
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
ENGINES = sorted((ROOT / "training" / "engines").glob("*.yaml"))


def commands(path: Path) -> list[list[str]]:
    """What stands indented in a page, or in the comment of a YAML file."""
    text = re.sub(r" \\\n# +", " ", path.read_text("utf-8"))
    found = re.findall(r"^(?:    |#   )((?:python|accelerate) .+)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("path", [GUIDE, *RECIPES, *ENGINES], ids=lambda path: path.name)
def test_commands_are_understood(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    own = tmp_path / "run.yaml"
    own.write_text("data: {path: pairs}\nrun: {output: run}\n", "utf-8")
    found = commands(path)
    assert found
    for program, *arguments in found:
        if program == "accelerate":
            assert arguments.pop(0) == "launch"
            launch = launch_command_parser().parse_args(arguments)
            assert Path(launch.config_file).is_file()
            assert (launch.module, launch.training_script) == (True, "training")
            arguments = launch.training_script_args
        else:
            assert arguments[:2] == ["-m", "training"]
            arguments = arguments[2:]
        if arguments == ["--help"]:
            continue
        if arguments[0] in COMMANDS:
            parse_job_command(arguments)
            continue
        asked, rest = take_dry_run([str(own) if each == "run.yaml" else each for each in arguments])
        parse_command_line(rest)
        if asked is not None:
            find_engine(asked.engine, num_processes=asked.num_processes)


def test_every_recipe_and_engine_is_told():
    rows = re.findall(r"^\| `(\w+)` \|", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert {path.stem for path in (*RECIPES, *ENGINES)} <= set(rows)


def test_every_state_is_told_with_what_can_be_done():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", GUIDE.read_text("utf-8"), re.MULTILINE)
    told = {state: {*actions.split(", "), "rerun"} for state, actions in rows if state in ACTIONS}
    assert told == {state: set(actions) for state, actions in ACTIONS.items()}


def test_every_metric_is_told():
    window = MetricsWindow()
    window.add_forward(LossTerms(*[torch.ones(2)] * 4))
    window.add_step(grad_norm=1.0)
    names = {*window.summary(lr=1.0, device=torch.device("cpu")), *VALIDATION_METRICS.values()}
    table = GUIDE.read_text("utf-8").partition("## What the metrics say")[2]
    assert names == set(re.findall(r"`([a-z_]+(?:/[a-z]+)?)`", table.partition("\n\n`")[0]))
