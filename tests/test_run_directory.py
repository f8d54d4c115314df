"""The directory of a run: what it survives, what it refuses, and what it says of its trainer."""

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from chats.errors import UserError
from training.config import TrainingConfig
from training.run import RunDirectory, Sample

TRAINER = """
import pathlib, sys
from training.run import RunDirectory
with RunDirectory(pathlib.Path(sys.argv[1])).hold():
    print("torch" in sys.modules, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def config_of(run: RunDirectory, *, learning_rate=3e-9) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "data": {"path": "pairs"},
            "run": {"output": run.path},
            "model": {"base": "1e5", "targets": ["to_q", "ж"]},
            "optimizer": {"learning_rate": learning_rate},
        }
    )


def full_disk(monkeypatch) -> None:
    """Let the disk be full when it is asked whether it has what was written."""

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


def names(run: RunDirectory) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def test_a_run_is_held_once_and_a_killed_trainer_is_interrupted(run):
    """A trainer in another process, which does not need torch for it, and then kill -9."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, run.path],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout.readline() == "False\n"
        status = run.status()
        assert status.state == "running"
        assert status.pid == trainer.pid
        assert status.process_created == psutil.Process(trainer.pid).create_time()
        with pytest.raises(UserError, match=rf"in this folder already \(pid {trainer.pid}\)"):
            run.hold().__enter__()
        assert run.status() == status
        trainer.kill()
    assert run.state() == "interrupted"
    with run.hold():
        assert run.state() == "running"
        assert run.status().pid == os.getpid()


def test_a_dead_pid_in_the_status_is_interrupted_whatever_the_pid_is_now(run):
    for state in ("running", "stopping"):
        for pid in (2**22 + 1, os.getpid()):
            run.update_status(state=state, pid=pid, step=7)
            assert run.state() == "interrupted"
            assert run.status().step == 7


def test_a_trainer_that_leaves_without_a_word_is_interrupted(run):
    with pytest.raises(RuntimeError), run.hold():
        raise RuntimeError
    assert run.state() == "interrupted"


@pytest.mark.parametrize("state", ["queued", "waiting_for_device", "succeeded", "failed"])
def test_other_states_do_not_need_a_living_trainer(run, state):
    run.update_status(state=state)
    assert run.state() == state
    with run.hold():
        run.update_status(state=state)
        assert run.state() == state


def test_a_status_that_can_not_be_read_says_so(run):
    (run.path / "status.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"Can't read .*status\.json: Is a directory"):
        run.state()


def test_who_holds_a_run_again_keeps_its_step_and_forgets_its_failure(run):
    run.update_status(state="failed", step=7, num_steps=9, message="NaN", exit_code=1)
    with run.hold():
        status = run.status()
    assert (status.step, status.num_steps) == (7, 9)
    assert (status.message, status.exit_code) == ("", None)


def test_a_folder_without_a_run_is_named(run):
    with pytest.raises(UserError, match=r"run holds no run: it has no status\.json"):
        run.state()
    assert not run.path.exists()


@pytest.mark.parametrize("content", [b"", b'{"state": "run', b"[]", b'{"state": "done"}', b"\xff"])
def test_a_damaged_status_says_what_to_do(run, content):
    run.update_status(state="queued")
    (run.path / "status.json").write_bytes(content)
    with pytest.raises(UserError, match=r"status\.json is damaged; delete it"):
        run.state()


def test_a_wrong_status_is_refused_and_the_old_one_stays(run):
    with pytest.raises(UserError, match="state: Field required"):
        run.update_status(step=1)
    run.update_status(state="queued")
    for wrong in ({"state": "done"}, {"step": -1}, {"steps": 1}, {"started": datetime(2025, 1, 1)}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            run.update_status(**wrong)
    assert run.state() == "queued"


def test_times_are_written_in_utc(run):
    with run.hold():
        pass
    written = json.loads((run.path / "status.json").read_text())
    for name in ("started", "updated"):
        time = datetime.fromisoformat(written[name])
        assert time.utcoffset().total_seconds() == 0
        assert 0 <= (datetime.now(UTC) - time).total_seconds() < 60


def test_a_full_disk_leaves_the_old_files_and_says_what_to_do(run, monkeypatch):
    run.update_status(state="queued")
    run.write_config(config_of(run))
    run.append_metrics({"step": 1, "loss": 0.5})
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    full_disk(monkeypatch)
    message = rf"Can't write {run.path}.*: No space left on device. Free some space"
    with pytest.raises(UserError, match=message):
        run.update_status(state="failed")
    with pytest.raises(UserError, match=message):
        run.write_config(config_of(run, learning_rate=1.0))
    with pytest.raises(UserError, match=message):
        run.cut_metrics(after_step=0)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_run_that_can_not_be_announced_is_not_held(run, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(UserError, match="No space left"):
            run.hold().__enter__()
    with run.hold():
        assert run.state() == "running"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_metrics_on_a_full_disk_say_what_to_do(run):
    run.path.mkdir()
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left on device\. Free some space"):
        run.append_metrics({"step": 1})


def test_a_folder_that_can_not_be_written_to_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = RunDirectory(tmp_path / "file" / "run")
    message = rf"Can't write {run.path}.*: Not a directory. Make that folder"
    with pytest.raises(UserError, match=message):
        run.hold().__enter__()
    with pytest.raises(UserError, match=message):
        run.update_status(state="queued")
    with pytest.raises(UserError, match=message):
        run.append_metrics({"step": 1})


def test_a_read_only_folder_says_what_to_do(run, monkeypatch):
    """The refusal is made up, because root may write everywhere."""

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"Permission denied\. Make that folder"):
        run.hold().__enter__()


def test_what_a_kill_left_half_written_is_swept(run):
    run.path.mkdir()
    (run.path / ".status.json-0123abcd.partial").write_text('{"state": "runn')
    with run.hold():
        assert names(run) == {"alive.lock", "status.json"}


def test_metrics_that_were_torn_at_any_byte_are_dropped(run):
    for step in (1, 2):
        run.append_metrics({"step": step, "loss": 0.5, "rewards/margins": None})
    path = run.path / "metrics.jsonl"
    content = path.read_bytes()
    first = [{"step": 1, "loss": 0.5, "rewards/margins": None}]
    for length in range(content.index(b"\n") + 1, len(content)):
        path.write_bytes(content[:length])
        assert run.read_metrics() == first
    run.cut_metrics(after_step=2)
    run.append_metrics({"step": 2, "loss": 0.25})
    assert run.read_metrics() == [*first, {"step": 2, "loss": 0.25}]


def test_a_resumed_training_shows_no_step_twice(run):
    for step in (10, 20, 30, 40):
        run.append_metrics({"step": step, "loss": 1 / step})
    run.cut_metrics(after_step=25)
    run.append_metrics({"step": 30, "loss": 0.0})
    assert [line["step"] for line in run.read_metrics()] == [10, 20, 30]
    assert run.read_metrics()[0]["loss"] == 1 / 10
    run.cut_metrics(after_step=0)
    assert run.read_metrics() == []


def test_metrics_that_are_no_numbers_are_refused_before_they_are_written(run):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_metrics({"step": 1, "loss": float("nan")})
    assert run.read_metrics() == []


def test_lines_that_are_no_metrics_are_left_out(run):
    run.append_metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'\0\0\0\n\xff\n[]\n{}\n{"step": "2"}\n')
    run.append_metrics({"step": 3})
    assert [line["step"] for line in run.read_metrics()] == [1, 3]


def test_the_config_comes_back_as_it_was(run):
    config = config_of(run)
    run.write_config(config)
    assert run.read_config() == config
    assert names(run) == {"config.yaml"}
    assert "ж" in (run.path / "config.yaml").read_text("utf-8")


def sample(step: int, name: str) -> Sample:
    file = f"step-{step:06}/{name}.png"
    return Sample(step=step, prompt="a", method="cfg", scale=5, alpha=None, seed=0, file=file)


def test_pictures_of_a_course_that_was_left_are_dropped(run):
    early, late = sample(2, "00-cfg"), sample(4, "00-cfg")
    for each in (early, late):
        path = run.samples / each.file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a picture")
    run.add_samples([early])
    run.add_samples([late])
    assert run.read_samples() == [early, late]
    run.cut_samples(after_step=4)
    assert run.read_samples() == [early, late]
    run.cut_samples(after_step=3)
    assert run.read_samples() == [early]
    assert {path.name for path in run.samples.iterdir()} == {"index.jsonl", "step-000002"}


@pytest.mark.parametrize("file", ["../x.png", "/etc/x.png", "step-1/../../x.png", "step-1/x.exe"])
def test_an_index_names_no_file_outside_of_its_folder(run, file):
    run.samples.mkdir(parents=True)
    line = sample(1, "x").model_dump() | {"file": file}
    (run.samples / "index.jsonl").write_text(json.dumps(line) + "\n{torn")
    assert run.read_samples() == []


def test_progress_is_told_without_waiting_for_the_disk(run, monkeypatch):
    run.update_status(state="running")
    full_disk(monkeypatch)
    run.update_status(step=3, seconds_left=1.5, is_durable=False)
    assert (run.status().step, run.status().seconds_left) == (3, 1.5)


def test_a_trainer_mends_a_status_that_a_power_cut_left_empty(run):
    run.path.mkdir()
    (run.path / "status.json").write_bytes(b"")
    with run.hold():
        assert run.state() == "running"
