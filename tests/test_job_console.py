"""What the console refuses and how it answers, without a process."""

import subprocess
import sys
from pathlib import Path

import pytest

from chats.devices import _visible, machine_devices
from chats.errors import UserError
from tests.job_queue import Cluster, make_config
from training.jobs.console import JobConsole, JobSettings
from training.jobs.devices import choose_devices, device_variables
from training.jobs.here import ThisMachine, child_environment
from training.jobs.states import FINAL
from training.jobs.summary import ACTIONS
from training.jobs.turn import NotNowError, turn
from training.jobs.workspace import RUN_VARIABLE, Workspace, new_job
from training.launch import Engine
from training.run import RunDirectory

ROOT = Path(__file__).parents[1]
GPUS = {"cuda:GPU-a": "A", "cuda:GPU-b": "B", "cuda:GPU-c": "C", "cpu": "the CPU"}


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def console(tmp_path, cluster):
    return JobConsole(JobSettings(workspace=tmp_path / "ws"), launchers={"here": cluster})


BAD_IDS = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "20260101-000000-abcdef",
    "20260101-000000-abcdef\n",
    "20260101-000000-abcdef/..",
    "20260101-000000-ABCDEF",
    "٢٠٢٦٠١٠١-٠٠٠٠٠٠-abcdef",
    "$(reboot)",
    "x" * 10_000,
    None,
    7,
]


@pytest.mark.parametrize("run_id", BAD_IDS, ids=lambda each: repr(each)[:24])
def test_an_id_that_is_none_is_refused_in_one_line_by_all_that_take_one(console, run_id):
    known = console.submit(make_config())
    for ask in (
        console.get,
        console.stop,
        console.kill,
        console.resume,
        console.delete,
        console.rerun,
        console.config,
        console.log,
        console.metrics,
        console.directory,
        lambda each: console.config_diff(known, each),
        lambda each: console.config_diff(each, known),
    ):
        with pytest.raises(UserError, match=r"^There is no run .*\.$") as raised:
            ask(run_id)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 80


def test_a_link_to_a_folder_elsewhere_is_no_run(console, tmp_path):
    run_id = console.submit(make_config())
    link = console.directory(run_id).path.with_name("20260101-000000-abcdef")
    link.symlink_to(console.directory(run_id).path)
    with pytest.raises(UserError, match="There is no run"):
        console.delete(link.name)


def test_what_can_be_done_follows_from_the_state():
    for state, actions in ACTIONS.items():
        assert ("delete" in actions) == (state in FINAL)
        assert ("stop" in actions) == (state in ("queued", "waiting_for_device", "running"))
        assert ("resume" in actions) == (state in FINAL - {"succeeded"})


def test_another_machines_queue_is_a_launcher_like_this_one(console, cluster):
    """Its reason is shown, it is asked to stop and then made to, and nothing of it is lost."""
    run_id = console.submit(make_config())
    assert console.directory(run_id).path.joinpath("job.json").exists()
    summary = console.get(run_id)
    assert (summary.state, summary.reason, summary.devices) == ("queued", "Priority", ())
    assert console.reconcile() == ()
    run = console.directory(run_id)
    run.update_status(state="running", step=2)
    run.update_status(state="running")
    console.stop(run_id)
    assert console.get(run_id).state == "stopping"
    console.kill(run_id)
    assert cluster.calls == [(run_id, False), (run_id, True)]
    assert console.get(run_id).state == "cancelled"
    console.resume(run_id)
    assert console.get(run_id).state == "queued"
    del cluster.jobs[run_id]
    assert console.get(run_id).reason == "Its process has not begun."
    assert console.reconcile() == (run_id,)


def test_a_submit_that_is_killed_anywhere_leaves_a_whole_run_or_none(tmp_path):
    """Kill -9 at file operations all along: the queue works, and starts the run if there is one.

    The last one died with its job accepted: that is found again, not sent twice.
    """
    number = 13
    command = [sys.executable, "-m", "tests.kill_submit", str(tmp_path), str(number)]
    subprocess.run(command, cwd=ROOT, check=True)
    found = []
    for child in range(1, number + 1):
        cluster, path = Cluster(), tmp_path / str(child)
        console = JobConsole(JobSettings(workspace=path), launchers={"here": cluster})
        before = [summary.id for summary in console.list()]
        found.append(len(before))
        if child == number:
            cluster.jobs[before[0]] = "1000"
            assert console.reconcile() == ()
            assert Workspace(path).find(before[0]).job().handle == "1000"
            continue
        assert list(console.reconcile()) == before
        assert list(cluster.jobs) == before
        assert console.submit(make_config()) not in before
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 1)


def test_a_launcher_that_refuses_leaves_a_failed_run(console, cluster, monkeypatch):
    def refuse(folder):
        raise UserError("The cluster is closed.")

    monkeypatch.setattr(cluster, "submit", refuse)
    with pytest.raises(UserError, match="closed"):
        console.submit(make_config())
    (summary,) = console.list()
    assert (summary.state, summary.error) == ("failed", "The cluster is closed.")


def test_a_damaged_run_is_listed_and_can_be_deleted(console):
    first, second = console.submit(make_config()), console.submit(make_config())
    console.directory(first).path.joinpath("status.json").write_text("{")
    console.directory(second).path.joinpath("job.json").write_text("{")
    for summary in console.list():
        assert (summary.state, summary.reason != "") == ("failed", True)
        assert "is damaged" in summary.error
    assert console.reconcile() == ()
    console.submit(make_config())
    console.delete(first)
    console.delete(second)
    assert len(console.list()) == 1


def test_a_rerun_names_what_is_wrong(console):
    run_id = console.submit(make_config())
    with pytest.raises(UserError, match=r"There is no setting 'optimizer\.rate'\."):
        console.rerun(run_id, {"optimizer.rate": 1})
    with pytest.raises(UserError, match=r"optimizer\.num_steps: .* \(given: 0\)"):
        console.rerun(run_id, {"optimizer.num_steps": 0})
    assert console.rerun(run_id, {"optimizer.num_steps": 8}).optimizer.num_steps == 8


def test_what_the_machine_does_not_have_is_refused_before_there_is_a_run(console, tmp_path):
    here = JobConsole(JobSettings(workspace=tmp_path / "ws"), launchers={"here": ThisMachine()})
    for asked, message in (
        ({"engine": "../ddp"}, "There is no engine"),
        ({"device": "cuda:GPU-0"}, "This machine has no device 'cuda:GPU-0'; it has"),
        ({"launcher": "moon"}, "There is no launcher 'moon'; there is here"),
        ({"engine": "ddp", "num_processes": 64}, "need a GPU each, and this machine has"),
        ({"engine": "multi_node", "num_processes": 64}, "on this machine only"),
    ):
        with pytest.raises(UserError, match=message):
            here.submit(make_config(), **asked)
    assert here.list() == ()


@pytest.mark.parametrize(
    ("engine", "wanted", "expected"),
    [
        (Engine(), None, ("cuda:GPU-b",)),
        (Engine(), "cuda:GPU-a", ("cuda:GPU-a",)),
        (Engine(), "cpu", ("cpu",)),
        (Engine(on_cpu=True), None, ("cpu",)),
        (Engine(num_processes=2), None, ("cuda:GPU-b", "cuda:GPU-c")),
    ],
)
def test_a_training_gets_the_shortest_queues(engine, wanted, expected, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    load = {"cuda:GPU-a": 2, "cuda:GPU-c": 1}
    assert choose_devices(engine, wanted=wanted, available=GPUS, load=load) == expected


@pytest.mark.parametrize("wanted", ["cpu", None])
def test_the_cpu_is_not_given_to_more_processes_than_it_has_cores(wanted, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for engine in (Engine(num_processes=5000), Engine(num_processes=5000, shares_out=True)):
        with pytest.raises(UserError, match=r"5000 processes can't share the CPU"):
            choose_devices(engine, wanted=wanted, available={"cpu": "the CPU"}, load={})


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["GPU-aa", "GPU-ab"]),
        ("", []),
        ("1", ["GPU-ab"]),
        ("GPU-ab, 0", ["GPU-ab", "GPU-aa"]),
        ("0,-1,1", ["GPU-aa"]),
        ("MIG-7", ["MIG-7"]),
    ],
)
def test_the_gpus_are_those_that_torch_would_see(variable, expected):
    found = _visible([("GPU-aa", "A"), ("GPU-ab", "A")], variable)
    assert [name for name, _ in found] == [f"cuda:{each}" for each in expected]


def test_a_device_shows_a_training_itself_alone():
    assert device_variables(("cuda:GPU-a", "cuda:GPU-b")) == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert device_variables(("cpu",))["CUDA_VISIBLE_DEVICES"] == ""
    assert "cpu" in machine_devices()


def test_a_training_gets_to_know_no_secret_that_it_has_no_use_for(tmp_path):
    secrets = [
        "CHATS_LOGIN",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "MY_api_key",
        "SSH_AUTH_SOCK",
    ]
    given = dict.fromkeys([*secrets, "HF_TOKEN", "PATH", "HOME"], "x")
    job = new_job(directory=tmp_path, devices=("cpu",), ticket=1)
    found = child_environment(given, run=RunDirectory(tmp_path), job=job)
    assert not set(secrets) & found.keys()
    assert {"HF_TOKEN", "PATH", "HOME"} <= found.keys()
    assert found[RUN_VARIABLE] == str(tmp_path)


def test_a_run_outside_any_queue_has_no_turn_to_wait_for(tmp_path):
    with turn(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_process_that_comes_too_late_does_nothing(console, monkeypatch):
    run = console.directory(console.submit(make_config()))
    run.update_status(state="cancelled")
    monkeypatch.setenv(RUN_VARIABLE, str(run.path))
    with pytest.raises(NotNowError, match="is cancelled, no longer queued"), turn(run.path):
        pytest.fail("it trained")
    assert run.state() == "cancelled"


def test_a_run_that_a_person_starts_by_hand_comes_last(console, tmp_path):
    first, second = (console.directory(console.submit(make_config())) for _ in range(2))
    first.update_status(state="interrupted")
    with turn(first.path):
        assert first.state() == "running"
        workspace = Workspace(tmp_path / "ws")
        tickets = [workspace.find(each.path.name).job().ticket for each in (first, second)]
        assert tickets == [3, 2]
        first.update_status(state="succeeded")
    assert first.state() == "succeeded"


def test_a_finished_run_stays_finished_though_it_is_started_by_hand(console):
    run = console.directory(console.submit(make_config()))
    run.update_status(state="succeeded")
    with pytest.raises(UserError, match="is finished"), turn(run.path):
        pytest.fail("it trained")
    assert run.state() == "succeeded"


def test_what_a_training_was_not_able_to_say_is_said_for_it(console):
    run = console.directory(console.submit(make_config()))
    with pytest.raises(ZeroDivisionError), turn(run.path):
        raise ZeroDivisionError("by zero")
    assert run.status().message == "ZeroDivisionError: by zero"
    assert console.get(run.path.name).error == "ZeroDivisionError: by zero"
    assert run.state() == "failed"


def test_the_other_processes_of_a_training_wait_for_the_first(console, monkeypatch):
    run = console.directory(console.submit(make_config()))
    monkeypatch.setenv("RANK", "1")
    run.update_status(state="running")
    with turn(run.path):
        pass
    run.update_status(state="cancelled")
    with pytest.raises(NotNowError), turn(run.path):
        pytest.fail("it trained")


def test_the_queue_needs_no_torch():
    program = (
        "import sys, training.jobs.console, training.jobs.commands, training.jobs.turn\n"
        "assert not {'torch', 'diffusers', 'accelerate', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
