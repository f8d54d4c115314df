"""log.txt: what is said anywhere in a training is in it, and the terminal shows what it did."""

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from chats.errors import UserError
from training.loop.log import log_file

ROOT = Path(__file__).parents[1]

PROGRAM = """
import logging, pathlib, sys, warnings
from training.loop.log import log_file
quiet = logging.getLogger("some_library")
quiet.propagate = False
with log_file(pathlib.Path(sys.argv[1]), mistakes=()):
    logging.getLogger("training.loop").info("ordinary news")
    logging.getLogger("another_library").info("news of others")
    logging.getLogger("another_library").warning("mind the gap")
    quiet.warning("said to itself")
    warnings.warn("old and slow", DeprecationWarning, stacklevel=1)
    raise ZeroDivisionError("by nothing")
"""


def test_the_log_has_news_warnings_and_the_end(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("an earlier start\n")
    command = [sys.executable, "-W", "default", "-c", PROGRAM, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "an earlier start"
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [A-Z]+ ", line) for line in lines[1:6])
    said = [line.split(" ", 1)[1] for line in lines[1:6]]
    assert said == [
        "INFO training.loop: ordinary news",
        "WARNING another_library: mind the gap",
        "WARNING some_library: said to itself",
        "WARNING training.loop.log: DeprecationWarning: old and slow (<string>)",
        "ERROR training.loop.log: Ended by ZeroDivisionError.",
    ]
    assert lines[-1] == "ZeroDivisionError: by nothing"
    assert done.stderr.count("mind the gap") == done.stderr.count("old and slow") == 1
    assert done.stderr.count("Traceback") == 1
    assert "news" not in done.stderr


def test_a_mistake_is_told_without_a_traceback_and_all_is_put_back(tmp_path):
    root, ours = logging.getLogger(), logging.getLogger("training")
    before = [*root.handlers], ours.level, warnings.showwarning
    path = tmp_path / "log.txt"
    with pytest.raises(UserError), log_file(path, mistakes=(UserError,)):
        raise UserError("data.path: no such folder")
    assert ([*root.handlers], ours.level, warnings.showwarning) == before
    (line,) = path.read_text("utf-8").splitlines()
    assert line.endswith("ERROR training.loop.log: data.path: no such folder")


def test_a_log_that_can_not_be_written_says_what_to_do(tmp_path):
    (tmp_path / "log.txt").mkdir()
    with (
        pytest.raises(UserError, match=r"Can't write .*log\.txt: Is a directory"),
        log_file(tmp_path / "log.txt", mistakes=()),
    ):
        pass
