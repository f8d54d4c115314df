"""Logs by byte offset and curves thinned out, whatever is in the files."""

import itertools
import json
import os
import random
import shutil
import time

import pytest

from chats.errors import UserError
from tests.job_queue import make_config, open_console
from training.jobs.reading import last_line, last_row, read_curve, read_log
from training.jobs.workspace import Workspace, new_job

BIG_LINES, BIG_ROWS, NUM_RUNS = 500_000, 100_000, 200


def write_rows(path, steps, *, width=0):
    lines = [json.dumps({"step": step, "loss": 1 / step, "pad": "x" * width}) for step in steps]
    path.write_text("".join(f"{line}\n" for line in lines))


def test_no_file_is_an_empty_log_and_an_empty_curve(tmp_path):
    chunk = read_log(tmp_path / "none", offset=None, max_bytes=100)
    assert (chunk.text, chunk.end, chunk.size) == ("", 0, 0)
    assert read_curve(tmp_path / "none", since_step=None, max_points=10).rows == ()
    assert last_row(tmp_path / "none") is None
    assert last_line(tmp_path / "none") == ""


@pytest.mark.parametrize("max_bytes", [4, 5, 7, 64])
def test_pieces_of_a_log_are_the_log_though_letters_are_cut(tmp_path, max_bytes):
    """Letters of one to four bytes; every piece begins where the one before ended."""
    path = tmp_path / "log"
    text = "aé∇𝄞\nwort\r\n" * 5
    path.write_bytes(text.encode())
    found, offset = "", 0
    while (chunk := read_log(path, offset=offset, max_bytes=max_bytes)).text:
        assert chunk.start == offset
        found, offset = found + chunk.text, chunk.end
    assert found == text
    assert offset == chunk.size == len(text.encode())


def test_a_letter_that_is_not_all_written_yet_waits(tmp_path):
    path = tmp_path / "log"
    path.write_bytes("ok ∇".encode()[:-1])
    chunk = read_log(path, offset=0, max_bytes=100)
    assert (chunk.text, chunk.end) == ("ok ", 3)
    path.write_bytes("ok ∇\n".encode())
    assert read_log(path, offset=chunk.end, max_bytes=100).text == "∇\n"


def test_bytes_that_are_no_text_are_replaced(tmp_path):
    (tmp_path / "log").write_bytes(b"a\xff\xfeb\0\n")
    assert read_log(tmp_path / "log", offset=0, max_bytes=100).text == "a\ufffd\ufffdb\0\n"


def test_the_end_of_a_log_begins_with_a_whole_line(tmp_path):
    (tmp_path / "log").write_text("one\ntwo\nthree\n")
    chunk = read_log(tmp_path / "log", offset=None, max_bytes=8)
    assert (chunk.text, chunk.start, chunk.end) == ("three\n", 8, 14)
    assert last_line(tmp_path / "log") == "three"


def test_a_log_that_became_shorter_is_read_anew(tmp_path):
    (tmp_path / "log").write_text("new\n")
    assert read_log(tmp_path / "log", offset=1000, max_bytes=100).text == "new\n"


@pytest.mark.parametrize(("offset", "max_bytes"), [(-1, 10), (2**70, 10), (0, 0), (0, 10**9)])
def test_numbers_out_of_bounds_are_refused(tmp_path, offset, max_bytes):
    with pytest.raises(UserError, match="must be a whole number from"):
        read_log(tmp_path / "log", offset=offset, max_bytes=max_bytes)


def test_the_last_words_are_found_behind_a_progress_bar(tmp_path):
    (tmp_path / "log").write_text("Training:  1%\rTraining: 50%\rKilled\r\n  \n")
    assert last_line(tmp_path / "log") == "Killed"


@pytest.mark.parametrize("width", [0, 300])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 9, 10, 11, 4000])
def test_a_curve_has_its_ends_and_at_most_so_many_points(tmp_path, num_rows, width):
    """With 300 letters a line 4,000 lines are not read whole any more."""
    path = tmp_path / "metrics.jsonl"
    write_rows(path, range(1, num_rows + 1), width=width)
    curve = read_curve(path, since_step=None, max_points=10)
    steps = [row["step"] for row in curve.rows]
    assert len(steps) == min(num_rows, 10)
    assert steps == sorted(set(steps))
    assert curve.is_thinned == (num_rows > 10)
    if num_rows:
        assert (steps[0], steps[-1]) == (1, num_rows)
        gaps = [after - before for before, after in itertools.pairwise(steps)]
        assert not gaps or max(gaps) <= min(gaps) * 1.03 + 1


@pytest.mark.parametrize("width", [0, 300])
def test_what_comes_after_a_step_is_found_among_steps_with_gaps_and_damaged_lines(tmp_path, width):
    """The oracle reads every line."""
    rng = random.Random(0)
    path = tmp_path / "metrics.jsonl"
    steps = sorted(rng.sample(range(1, 100_000), 3000))
    write_rows(path, steps, width=width)
    lines = path.read_text().splitlines(keepends=True)
    for place in rng.sample(range(len(lines)), 300):
        lines[place] = "\0\0{\n" + lines[place]
    path.write_text("".join(lines) + '{"step": 1000000, "lo')
    for since in (0, *rng.sample(steps, 20), *rng.sample(range(100_000), 20), steps[-2]):
        expected = [step for step in steps if step > since]
        curve = read_curve(path, since_step=since, max_points=100)
        found = [row["step"] for row in curve.rows]
        assert (found[:1], found[-1:]) == (expected[:1], expected[-1:])
        if not curve.is_thinned:
            assert found == expected
    assert read_curve(path, since_step=steps[-1], max_points=10).rows == ()


def test_200_runs_a_log_of_500_000_lines_and_100_000_rows_are_quick(tmp_path, monkeypatch):
    """Opening the list of runs within 2 s, a poll within 0.1 s of processor time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only so that they are made quickly
    workspace = Workspace(tmp_path / "ws")
    folder = workspace.create(
        make_config(num_steps=BIG_ROWS), new_job(directory=tmp_path, devices=("cpu",), ticket=1)
    )
    run = folder.run
    run.update_status(state="succeeded", step=7)
    for number in range(NUM_RUNS - 1):
        shutil.copytree(run.path, workspace.runs / f"20250101-000000-{number:06x}")
    line = "2026-01-01T00:00:00Z INFO training: nothing worth a word happened here today\n"
    run.log.write_text(line * BIG_LINES)
    names = ("loss", "rewards/margins", "rewards/accuracies", "grad_norm", "lr", "a", "b", "c")
    row = dict.fromkeys(names, 0.123456789012345) | {"pairs_per_second": 3.25}
    rest = json.dumps(row).removeprefix("{")
    with run.metrics.open("w") as file:
        file.writelines(f'{{"step": {1 + step}, {rest}\n' for step in range(BIG_ROWS))
    console = open_console(workspace.path)
    with run.keep():  # it runs, so that all that can be known of it is read
        run.announce("running")
        before = time.process_time()
        assert len(console.list()) == NUM_RUNS
        opened = time.process_time() - before
        before = time.process_time()
        summary = console.get(folder.id)
        tail = console.log(folder.id)
        curve = console.metrics(folder.id, max_points=1000)
        polled = time.process_time() - before
        before = time.process_time()
        console.get(folder.id)
        piece = console.log(folder.id, offset=tail.end)
        news = console.metrics(folder.id, since_step=BIG_ROWS - 10)
        polled_again = time.process_time() - before
    print(f"list {opened:.3f} s, first poll {polled:.3f} s, next {polled_again:.3f} s")  # noqa: T201
    assert summary.step == BIG_ROWS
    assert len(curve.rows) == 1000
    assert curve.rows[-1]["step"] == BIG_ROWS
    assert tail.end == tail.size == len(line) * BIG_LINES
    assert (piece.text, len(news.rows)) == ("", 10)
    assert opened < 2
    assert max(polled, polled_again) < 0.1
