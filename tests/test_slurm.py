"""Trainings as Slurm's batch jobs, against stand-ins for Slurm's programs.

`tests/fake_slurm.py` stands in for sbatch, squeue, sacct and scancel, found on the PATH as the real
ones are; it keeps its jobs in a file and answers in their words. The executor is a stand-in for
submitit's, or, with the package (`make test-extras`), the real one.
"""

import json
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chats.errors import UserError
from tests.job_queue import make_config
from tests.serving import ROOT
from training.jobs import slurm
from training.jobs.console import JobConsole, JobSettings
from training.jobs.elsewhere import SLURM
from training.jobs.slurm import Slurm
from training.jobs.slurm_cluster import SlurmSettings

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "srun")


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    """Ask Slurm each time instead of every ten seconds."""
    monkeypatch.setattr(slurm, "_LOOK_AGAIN_SECONDS", 0.0)


class Cluster:
    """What the stand-ins know, to be looked at and changed."""

    def __init__(self, folder: Path):
        self.file = folder / "cluster.json"
        self.write({"jobs": {}, "calls": [], "error": ""})

    def read(self) -> dict:
        return json.loads(self.file.read_text())

    def write(self, content: dict) -> None:
        self.file.write_text(json.dumps(content))

    def becomes(self, state: str, *, reason: str = "None") -> None:
        content = self.read()
        newest = max(content["jobs"], key=int)
        content["jobs"][newest] |= {"state": state, "reason": reason}
        self.write(content)

    def fails(self, error: str) -> None:
        self.write(self.read() | {"error": error})

    def forgets(self) -> None:
        self.write(self.read() | {"jobs": {}})

    def calls(self, program: str) -> list[list[str]]:
        return [call[1:] for call in self.read()["calls"] if call[0] == program]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in PROGRAMS:
        text = f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        text += "from fake_slurm import main\n"
        text += f"sys.stdout.write(main({name!r}, sys.argv[1:]))\n"
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    made = Cluster(tmp_path)
    monkeypatch.setenv("FAKE_SLURM", str(made.file))
    return made


class FakeExecutor:
    """What submitit documents of its executor: parameters, then jobs with their numbers."""

    def __init__(self, folder: Path, cluster: Cluster):
        self.cluster, self.parameters = cluster, {}

    def update_parameters(self, **parameters):
        self.parameters |= parameters

    def submit(self, function, *arguments, **options):
        content = self.cluster.read()
        if content["error"]:
            raise RuntimeError(content["error"])
        number = str(4000 + len(content["jobs"]))
        job = {"name": self.parameters["job_name"], "state": "PENDING", "reason": "Resources"}
        content["jobs"][number] = job
        self.cluster.write(content)
        self.cluster.asked, self.cluster.call = self.parameters, (function, arguments, options)
        return SimpleNamespace(job_id=number)


def open_console(tmp_path, cluster, *, settings: SlurmSettings | None = None) -> JobConsole:
    launcher = Slurm(settings, executor=lambda folder: FakeExecutor(folder, cluster))
    return JobConsole(JobSettings(workspace=tmp_path / "ws"), launchers={SLURM: launcher})


def submit(console: JobConsole, **options) -> str:
    return console.submit(make_config(), launcher=SLURM, **options)


def state(console: JobConsole, run_id: str) -> tuple[str, str]:
    summary = console.get(run_id)
    return summary.state, summary.reason


def begins(console: JobConsole, run_id: str, *, step: int = 0) -> None:
    """What the trainer on the node writes into the folder that all share."""
    console.directory(run_id).update_status(state="running", step=step)


def test_a_training_asks_for_what_was_set_and_runs_the_trainer_that_runs_everywhere(
    tmp_path, cluster
):
    settings = SlurmSettings(partition="gpu", hours=2, gpus_per_node=2, cpus=16, memory_gb=96)
    console = open_console(tmp_path, cluster, settings=settings)
    run_id = submit(console, engine="ddp", num_processes=2)
    assert cluster.asked == {
        "job_name": f"chats-{run_id}",
        "time": 120,
        "nodes": 1,
        "ntasks_per_node": 1,
        "gpus_per_node": 2,
        "cpus_per_task": 16,
        "mem": "96GB",
        "partition": "gpu",
    }
    _, (command,), options = cluster.call
    assert command[4] == str(console.directory(run_id).output)
    assert "accelerate.commands.launch" in command
    assert command[-2:] == ["--config", str(console.directory(run_id).path / "config.yaml")]
    assert options == {"cwd": str(Path.cwd())}
    assert console.get(run_id).devices == ()


def test_no_secret_of_the_environment_goes_into_the_job(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run_id = submit(open_console(tmp_path, cluster))
    assert "hf_secret" not in repr(cluster.call)
    written = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert run_id
    assert not [path for path in written if b"hf_secret" in path.read_bytes()]


def test_it_waits_runs_and_tells_what_slurm_says(tmp_path, cluster):
    console = open_console(tmp_path, cluster)
    run_id = submit(console)
    assert state(console, run_id) == ("queued", "Slurm: pending (Resources).")
    cluster.becomes("RUNNING")
    begins(console, run_id, step=3)
    assert state(console, run_id)[0] == "running"
    console.directory(run_id).update_status(state="succeeded")
    cluster.forgets()
    assert state(console, run_id)[0] == "succeeded"


@pytest.mark.parametrize(
    ("word", "ends"),
    [
        ("TIMEOUT", ("interrupted", "Slurm ended it: its time was over.")),
        ("OUT_OF_MEMORY", ("failed", "Slurm ended it: it took more main memory than it had asked")),
        ("CANCELLED by 1000", ("interrupted", "It was cancelled in Slurm.")),
        ("NODE_FAIL", ("interrupted", "Its node failed.")),
    ],
)
@pytest.mark.parametrize("has_begun", [True, False])
def test_a_job_that_slurm_ended_says_why(tmp_path, cluster, word, ends, has_begun):
    console = open_console(tmp_path, cluster)
    run_id = submit(console)
    if has_begun:
        begins(console, run_id, step=5)
    cluster.becomes(word)
    found, message = state(console, run_id)
    assert found == ends[0]
    assert message.startswith(ends[1])
    assert "resume" in console.get(run_id).actions


def test_a_job_that_slurm_knows_no_more_is_over(tmp_path, cluster):
    console = open_console(tmp_path, cluster)
    waited, ran = submit(console), submit(console)
    begins(console, ran, step=5)
    cluster.forgets()
    assert state(console, waited) == (
        "failed",
        "Its job is gone and never began (Slurm knows it no more).",
    )
    assert state(console, ran)[0] == "interrupted"


def test_a_slurm_that_does_not_answer_changes_nothing(tmp_path, cluster):
    console = open_console(tmp_path, cluster)
    run_id = submit(console)
    cluster.fails("slurm_load_jobs error: Unable to contact slurm controller")
    found, message = state(console, run_id)
    assert found == "queued"
    assert "Unable to contact slurm controller" in message
    assert console.reconcile() == ()


def test_stop_lets_it_save_and_then_ends_it(tmp_path, cluster):
    console = open_console(tmp_path, cluster)
    run_id = submit(console)
    begins(console, run_id)
    cluster.becomes("RUNNING")
    console.stop(run_id)
    assert cluster.calls("scancel") == [["--signal=TERM", "4000"]]
    console.kill(run_id)
    assert cluster.calls("scancel")[-1] == ["4000"]
    assert state(console, run_id)[0] == "cancelled"


def test_one_that_waits_is_cancelled_at_once(tmp_path, cluster):
    console = open_console(tmp_path, cluster)
    run_id = submit(console)
    console.stop(run_id)
    assert cluster.calls("scancel") == [["4000"]]
    assert state(console, run_id) == ("cancelled", "Cancelled before it began.")


def test_a_run_is_resumed_with_what_it_had_asked_for(tmp_path, cluster):
    run_id = submit(open_console(tmp_path, cluster, settings=SlurmSettings(partition="long")))
    console = open_console(tmp_path, cluster)
    cluster.becomes("TIMEOUT")
    assert state(console, run_id)[0] == "interrupted"
    console.resume(run_id)
    assert cluster.asked["partition"] == "long"
    assert state(console, run_id)[0] == "queued"


def test_a_job_that_nobody_wrote_down_is_found_again_by_its_name(tmp_path, cluster, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(slurm, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            submit(open_console(tmp_path, cluster))
    console = open_console(tmp_path, cluster)
    (run_id,) = console.ids()
    assert console.reconcile() == ()
    assert state(console, run_id) == ("queued", "Slurm: pending (Resources).")
    assert len(cluster.read()["jobs"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "leave out --device"),
        ({"engine": "ddp", "num_processes": 4}, "4 processes need as many GPUs"),
        ({"engine": "multi_node", "num_processes": 4}, "on one node"),
    ],
)
def test_what_makes_no_sense_there_is_refused(tmp_path, cluster, options, message):
    console = open_console(tmp_path, cluster, settings=SlurmSettings())
    with pytest.raises(UserError, match=message):
        submit(console, **options)
    assert console.list() == ()


def test_what_slurm_refuses_is_told(tmp_path, cluster):
    cluster.fails("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(UserError, match=r"did not take .* invalid partition specified"):
        submit(open_console(tmp_path, cluster))


def test_a_machine_without_slurm_or_submitit_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    console = JobConsole(JobSettings(workspace=tmp_path / "ws"), launchers={SLURM: Slurm()})
    with pytest.raises(UserError, match=r"pip install -r requirements-slurm\.txt"):
        submit(console)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue is not on this machine"):
        Slurm().list()


@pytest.mark.extras
def test_the_real_submitit_hands_in_a_batch_job_that_runs_the_trainer(tmp_path, cluster):
    console = JobConsole(JobSettings(workspace=tmp_path / "ws"), launchers={SLURM: Slurm()})
    run_id = submit(console)
    (call,) = cluster.calls("sbatch")
    text = Path(call[0]).read_text()
    assert f"#SBATCH --job-name=chats-{run_id}" in text
    assert "#SBATCH --gpus-per-node=1" in text
    assert "#SBATCH --time=1440" in text
    assert "submitit.core._submit" in text
    assert state(console, run_id) == ("queued", "Slurm: pending (Resources).")
