"""Trainings as Hugging Face Jobs, against a Hub in memory: see `tests.fake_hub_jobs`."""

import json
import subprocess
import sys

import pytest
from huggingface_hub.errors import HfHubHTTPError

from chats.errors import UserError
from tests.fake_hub_jobs import FakeHubJobs
from tests.job_queue import make_config, wait_for
from tests.test_push import http_error
from training.evaluation_config import EvaluateConfig
from training.jobs import hf_bundle, hf_jobs
from training.jobs.console import JobConsole, JobSettings
from training.jobs.elsewhere import HF_JOBS
from training.jobs.hf_bundle import METRICS_MARK, SCRIPT
from training.jobs.hf_jobs import HfJobs
from training.jobs.hf_price import HfJobSettings

TOKEN = "hf_secret_of_ada"
PACKAGES = hf_bundle._PACKAGES
AGREED = HfJobSettings(flavor="a10g-small", hours=2, max_usd=2.1, repo="ada/pair")


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    """Ask the Hub each time instead of every ten seconds, and send no program along."""
    monkeypatch.setattr(hf_jobs, "_LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(hf_bundle, "_PACKAGES", ())


@pytest.fixture
def hub():
    made = FakeHubJobs()
    yield made
    made.is_closed = True


def open_console(tmp_path, hub, *, settings=AGREED, token=TOKEN) -> JobConsole:
    launcher = HfJobs(settings, api=lambda: hub, token=lambda: token)
    return JobConsole(JobSettings(workspace=tmp_path / "ws"), launchers={HF_JOBS: launcher})


def on_hub(**groups):
    config = make_config().model_dump()
    config["data"]["path"] = "ada/preferences"
    for name, group in groups.items():
        config[name] |= group
    return type(make_config()).model_validate(config)


def submit(console: JobConsole, config=None, **options) -> str:
    return console.submit(config or on_hub(), launcher=HF_JOBS, **options)


def state(console: JobConsole, run_id: str) -> tuple[str, str]:
    summary = console.get(run_id)
    return summary.state, summary.reason


# What is agreed to before anything starts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_usd": 0}, r"\$1\.05 an hour, at most \$2\.10 in 2 hours.*--hf-jobs\.max-usd 2\.10"),
        ({"hours": 2.1}, r"at most \$2\.21 in 2\.1 hours; agreed are \$2\.10"),
        ({"flavor": "h2000"}, r"no hardware 'h2000'.*a10g-small \(\$1\.05/h\)"),
        ({"repo": ""}, "Say where the pair is pushed to"),
        ({"repo": "no name"}, "no name of a repository"),
    ],
)
def test_nothing_starts_before_hardware_price_and_place_are_agreed_to(
    tmp_path, hub, changes, message
):
    console = open_console(tmp_path, hub, settings=AGREED.model_copy(update=changes))
    with pytest.raises(UserError, match=message):
        submit(console)
    assert console.list() == ()
    assert hub.jobs == {}


def test_a_price_by_an_unknown_unit_is_not_guessed(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("tests.fake_hub_jobs.PRICES", {"a10g-small": (1.0, "fortnight")})
    with pytest.raises(UserError, match="by the 'fortnight'"):
        submit(open_console(tmp_path, hub))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"data": {"path": "build/pairs/deep"}}, "Push the data set to the Hub"),
        ({"model": {"base": "models/mine/here"}}, "Give a Hub id as model.base"),
    ],
)
def test_what_lies_on_this_machine_only_is_refused(tmp_path, hub, groups, message):
    console = open_console(tmp_path, hub)
    with pytest.raises(UserError, match=message):
        submit(console, on_hub(**groups))
    assert hub.jobs == {}
    assert console.list()[0].state == "failed"


def test_an_evaluation_is_refused(tmp_path, hub):
    console = open_console(tmp_path, hub)
    with pytest.raises(UserError, match="take trainings"):
        submit(console, EvaluateConfig(output=tmp_path / "unused"))
    assert hub.jobs == {}


def test_a_device_of_this_machine_makes_no_sense(tmp_path, hub):
    with pytest.raises(UserError, match="leave out --device"):
        submit(open_console(tmp_path, hub), device="cpu")


def test_without_a_login_nothing_is_uploaded(tmp_path, hub):
    with pytest.raises(UserError, match="nobody is logged in"):
        submit(open_console(tmp_path, hub, token=None))
    assert hub.bundles == {}


# The life of a job


def test_a_job_gets_program_settings_and_command_and_its_end_is_told(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(hf_bundle, "_PACKAGES", PACKAGES)
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    (job,) = hub.jobs.values()
    names = {name.removeprefix(f"{run_id}/") for name in hub.bundles["ada/chats-jobs"]}
    assert {"requirements.txt", "config.yaml", "training/__main__.py", "chats/__init__.py"} <= names
    assert "training/recipes/shapes_demo.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "ui/"))]
    assert json.loads(hub.config)["run"]["output"] == "run"
    assert job["command"][:3] == ["bash", "-c", SCRIPT]
    assert job["command"][4:] == ["python", "-m", "training", "--config", "config.yaml"]
    assert job["labels"] == {"chats-run": run_id}
    assert job["environment"] == {"CHATS_REPO": "ada/pair", "CHATS_PUSH_FLAGS": "--private"}
    assert (hub.volume.source, hub.volume.path) == ("ada/chats-jobs", run_id)
    assert hub.timeout == 7200
    assert state(console, run_id) == ("queued", "Waits for a machine (a10g-small).")
    hub.becomes("RUNNING")
    assert state(console, run_id) == ("running", "")
    hub.becomes("COMPLETED")
    expected = ("succeeded", "The pair is at https://huggingface.co/ada/pair.")
    assert state(console, run_id) == state(console, run_id) == expected


@pytest.mark.parametrize(
    ("stage", "message", "ends"),
    [
        ("ERROR", "Job timeout", ("failed", "The job failed: Job timeout")),
        ("ERROR", None, ("failed", "The job failed: the end of its log says why.")),
        ("CANCELED", None, ("cancelled", "The job was cancelled; it kept no checkpoint.")),
        (
            "DELETED",
            None,
            ("interrupted", "The job was deleted on the Hub; it kept no checkpoint."),
        ),
    ],
)
@pytest.mark.parametrize("has_run", [True, False])
def test_each_end_that_the_hub_knows_becomes_a_state(tmp_path, hub, stage, message, ends, has_run):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    if has_run:
        hub.becomes("RUNNING")
        console.get(run_id)
    hub.becomes(stage, message=message)
    assert state(console, run_id) == ends


def test_a_job_that_the_hub_knows_no_more_is_interrupted(tmp_path, hub):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    hub.jobs.clear()
    assert state(console, run_id) == ("interrupted", "The Hub knows this job no more.")


@pytest.mark.parametrize(
    "error", [ConnectionError("down"), http_error(503), http_error(401, kind=HfHubHTTPError)]
)
def test_a_hub_that_does_not_answer_changes_nothing(tmp_path, hub, error):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    hub.becomes("RUNNING")
    console.get(run_id)
    hub.error = error
    summary = console.get(run_id)
    assert summary.state == "running"
    assert "The Hub" in summary.reason
    hub.error = None
    assert console.get(run_id).reason == ""


def test_stop_cancels_the_job_once(tmp_path, hub):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    hub.becomes("RUNNING")
    console.get(run_id)
    console.stop(run_id)
    assert state(console, run_id)[0] == "cancelled"
    assert hub.calls.count("cancel_job") == 1


def test_a_job_that_only_waits_for_a_machine_is_cancelled_on_the_hub_too(tmp_path, hub):
    """Else it would begin, and be paid for."""
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    hub.error = ConnectionError("down")
    with pytest.raises(UserError, match="Can't cancel the job"):
        console.stop(run_id)
    hub.error = None
    assert state(console, run_id)[0] == "queued"
    console.stop(run_id)
    assert state(console, run_id)[0] == "cancelled"
    assert [job["status"]["stage"] for job in hub.jobs.values()] == ["CANCELED"]


def test_a_job_is_not_resumed_for_it_would_be_paid_again_from_the_start(tmp_path, hub):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    hub.becomes("ERROR")
    with pytest.raises(UserError, match=r"costs money and keeps no checkpoints"):
        open_console(tmp_path, hub, settings=None).resume(run_id)
    assert len(hub.jobs) == 1


# Its lines


def test_its_lines_and_metrics_come_into_the_run_as_they_are_told(tmp_path, hub):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    lines = hub.logs[next(iter(hub.jobs))]
    hub.becomes("RUNNING")
    console.get(run_id)
    lines += ["Loading the model", METRICS_MARK + '{"step": 1, "loss": 0.69}']
    wait_for(lambda: console.get(run_id).step == 1, what="a step")
    lines += [METRICS_MARK + '{"step": 2, "loss": 0.68}', "Saved"]
    wait_for(lambda: console.log(run_id).text.endswith("Saved\n"), what="the last line")
    assert console.log(run_id, file="output").text == "Loading the model\nSaved\n"
    assert [row["loss"] for row in console.metrics(run_id).rows] == [0.69, 0.68]


def test_after_a_restart_all_lines_are_told_again_and_stand_there_once(tmp_path, hub):
    first = open_console(tmp_path, hub)
    run_id = submit(first)
    hub.logs[next(iter(hub.jobs))] += ["One", METRICS_MARK + '{"step": 1}', "Two"]
    for stage in ("RUNNING", "COMPLETED"):
        hub.becomes(stage)
        console = open_console(tmp_path, hub, settings=None)
        console.get(run_id)
        wait_for(lambda: first.log(run_id).text == "One\nTwo\n", what="the lines")
    wait_for(lambda: len(first.metrics(run_id).rows) == 1, what="the metrics")


def test_the_script_prints_metrics_pushes_the_pair_and_fails_with_the_training(tmp_path):
    """The script itself, with a stand-in for Python and a bundle in this folder."""
    bundle, tools = tmp_path / "bundle", tmp_path / "tools"
    bundle.mkdir()
    tools.mkdir()
    (tools / "python").write_text('#!/bin/sh\necho "python $*"\n')
    (tools / "train").write_text(
        "#!/bin/sh\necho '{\"step\": 1}' >> run/metrics.jsonl\nexit $FAKE_STATUS\n"
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = SCRIPT.replace("/bundle", str(bundle))

    def run(status: int) -> tuple[int, str]:
        folder = tmp_path / f"job-{status}"
        folder.mkdir()
        variables = {
            "PATH": f"{tools}:/usr/bin:/bin",
            "FAKE_STATUS": str(status),
            "CHATS_REPO": "ada/pair",
            "CHATS_PUSH_FLAGS": "--private",
        }
        command = ["bash", "-c", script, "training", "train"]
        with (folder / "said.txt").open("w") as output:  # a pipe would wait for all processes
            done = subprocess.run(command, cwd=folder, env=variables, stdout=output, timeout=30)
        return done.returncode, (folder / "said.txt").read_text()

    code, said = run(0)
    assert METRICS_MARK + '{"step": 1}' in said
    assert "python -m training push run --repo ada/pair --private" in said
    code, said = run(3)
    assert code == 3
    assert "push" not in said


# What survives


def test_a_job_that_nobody_wrote_down_is_found_again_by_its_label(tmp_path, hub):
    """The server is killed between the start of the job and the note of its number."""
    hub.after_submit = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        submit(open_console(tmp_path, hub))
    hub.after_submit = None
    console = open_console(tmp_path, hub, settings=None)
    (run_id,) = console.ids()
    hub.error = ConnectionError("down")
    assert console.reconcile() == ()
    hub.error = None
    assert console.reconcile() == ()
    hub.becomes("RUNNING")
    assert console.get(run_id).state == "running"
    assert len(hub.jobs) == 1


def test_the_token_is_handed_to_the_job_as_a_secret_and_written_nowhere(tmp_path, hub, caplog):
    console = open_console(tmp_path, hub)
    run_id = submit(console)
    hub.becomes("RUNNING")
    console.get(run_id)
    assert hub.secrets == [{"HF_TOKEN": TOKEN}]
    (job,) = hub.jobs.values()
    assert TOKEN not in json.dumps(job)
    written = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in caplog.text + hub.config


def test_the_command_line_tells_the_price_and_starts_nothing(tmp_path, hub, monkeypatch):
    from training.__main__ import main

    monkeypatch.setattr(hf_jobs, "_make_api", lambda: hub)
    monkeypatch.setattr(hf_jobs, "_local_token", lambda: TOKEN)
    said = []
    monkeypatch.setattr(sys, "stderr", type("", (), {"write": lambda _, text: said.append(text)})())
    line = ["training", "submit", "--launcher", "hf-jobs", "--hf-jobs.flavor", "a10g-small"]
    line += ["--hf-jobs.repo", "ada/pair", "--data.path", "ada/preferences"]
    monkeypatch.setattr(sys, "argv", [*line, "--workspace", str(tmp_path / "ws")])
    assert main() == 1
    assert "To agree add --hf-jobs.max-usd 3.15" in "".join(said)
    assert hub.jobs == {}
