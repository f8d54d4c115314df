"""What can rot: the README, the settings' explanations, and what no file may say."""

import fnmatch
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import tyro
from pydantic import BaseModel

import app
import benchmarks
import chats
import training
import ui
from chats.__main__ import COMMANDS as CHATS_COMMANDS
from chats.config import MethodName
from chats.shapes.pairs import PairsConfig
from training.commands import parse_arguments
from training.evaluation_config import parse_evaluation

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PACKAGES = (benchmarks, chats, training, ui)
TEXTS = {".css", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ""}
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.<>}])/(?:home|root|tmp|Users|work|workspace)/\w")
COMMANDS = {
    "chats": lambda given: tyro.cli(CHATS_COMMANDS, args=given),
    "chats.shapes.pairs": lambda given: tyro.cli(PairsConfig, args=given),
    "training": parse_arguments,
    "training.evaluate": parse_evaluation,
}


def kept(folder: Path) -> Iterator[Path]:
    """What stands in a folder of the repository, without what git ignores."""
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    ignored = [".git", *(line.strip("/") for line in lines)]
    for path in sorted(folder.iterdir()):
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
            yield path


def files(folder: Path = ROOT) -> Iterator[Path]:
    for path in kept(folder):
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def settings() -> list[type[BaseModel]]:
    """Every pydantic model that is defined here."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    names = {app.__name__, *(package.__name__ for package in PACKAGES)}
    found, todo = [], [BaseModel]
    while todo:
        todo += (derived := todo.pop().__subclasses__())
        found += [model for model in derived if model.__module__.partition(".")[0] in names]
    return sorted(set(found), key=lambda model: (model.__module__, model.__name__))


def test_the_house_in_the_readme_is_the_one_on_disk():
    house = README.partition("## The house")[2]
    listed = re.findall(r"^    (\S+?)/?(?:\s{2,}.*)?$", house, re.MULTILINE)
    folders = {path.name for path in kept(ROOT) if path.is_dir() and path.name[0] != "."}
    assert set(listed) == {"app.py", *folders}
    rooms = re.findall(r"^ {6}(\S+?)/\s", house, re.MULTILINE)
    assert sorted(rooms) == sorted(
        path.parent.name
        for package in ("chats", "training", "ui")
        for path in (ROOT / package).glob("*/__init__.py")
    )


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)#\s]+)\)", README.replace("\n", " "))
    missing = [link for link in links if ":" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_the_readme_tells_every_method():
    assert re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE) == list(get_args(MethodName))


def test_commands_of_the_readme_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = re.findall(r"^    \.venv/bin/python -m (\S+) (.+)$", README, re.MULTILINE)
    assert {module for module, _ in lines} == set(COMMANDS)
    for module, arguments in lines:
        COMMANDS[module](shlex.split(arguments))


def test_targets_that_the_readme_names_are_in_the_makefile():
    named = set(re.findall(r"`make ([\w-]+)`|^    make ([\w-]+)", README, re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {name for pair in named for name in pair if name} <= targets


def test_every_setting_says_what_it_is():
    models = settings()
    assert {"GenerationConfig", "TrainingConfig", "PairMetadata", "Settings"} <= {
        model.__name__ for model in models
    }
    silent = [
        f"{model.__module__}.{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.description and not _explains_itself(field.annotation)
    ]
    assert silent == []


@pytest.mark.parametrize("ending", sorted(TEXTS))
def test_no_text_names_a_path_of_a_machine(ending):
    named = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files()
        if path.suffix == ending and (found := PATH_OF_A_MACHINE.search(path.read_text("utf-8")))
    ]
    assert named == []


def _explains_itself(annotation: object) -> bool:
    """Whether a field is a group of settings, which has a docstring of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
