"""The desk where trainings are prepared: ids in, places of its own, estimates that can be ended."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from chats.errors import UserError
from tests.job_queue import Cluster
from tests.train_fakes import FakeConsole, FakeDataSet, FakeDataSets, make_desk
from training.config import TrainingConfig
from training.datasets import DatasetStore
from training.desk import TrainingDesk
from training.hardware import HardwareSettings, Place
from training.jobs.commands import parse_job_command
from training.jobs.console import JobConsole, JobSettings
from training.planning.counting import EstimateSupersededError
from training.preferences import read_preferences
from training.recipe import complete
from training.run import RunDirectory
from ui.train.handlers import start_training
from ui.train.preparing import Preparation

ROOT = Path(__file__).parents[1]
HERE = HardwareSettings()
GPUS = {f"cuda:GPU-{k}": "a GPU" for k in range(2)} | {"cpu": "the CPU"}


def place(desk, **hardware) -> Place:
    return desk.find_place(HardwareSettings(**hardware))


def config_of(desk, **changed) -> TrainingConfig:
    config = complete(desk.find_recipe("shapes_demo"))
    optimizer = config.optimizer.model_copy(update=changed)
    return config.model_copy(update={"optimizer": optimizer})


@pytest.mark.parametrize(
    "data_id", ["", None, "../etc", "/etc/passwd", {"a": 1}, "20260101-ffffffff"]
)
def test_data_is_named_by_the_id_of_a_list(data_id):
    with pytest.raises(UserError, match=r"Choose a data set|is gone"):
        make_desk().find_data(data_id)


def test_too_few_pairs_are_told_with_their_number():
    desk = make_desk(data_sets=FakeDataSets([FakeDataSet(num_pairs=1)]))
    with pytest.raises(UserError, match="holds 1 preference pairs; a training needs at least 2"):
        desk.find_data(FakeDataSet().id)


def test_a_data_set_that_is_new_is_found_at_once():
    data_sets = FakeDataSets([])
    desk = make_desk(data_sets=data_sets)
    with pytest.raises(UserError):
        desk.find_data(FakeDataSet().id)
    data_sets.known.append(FakeDataSet())
    assert desk.find_data(FakeDataSet().id).num_pairs == FakeDataSet().num_pairs


def test_bases_are_those_of_the_recipes_and_the_servers_own():
    titles = dict(make_desk().bases)
    assert titles["Shapes"] == "shapes"
    assert "stabilityai/stable-diffusion-xl-base-1.0" in titles.values()
    assert len(set(titles.values())) == len(titles)


def test_the_command_submits_the_same_training():
    desk = make_desk()
    recipe = desk.find_recipe("shapes_demo")
    config = config_of(desk, num_steps=50, betas=(0.8, 0.9))
    hardware = HardwareSettings(engine="ddp", num_processes=2, device="cpu")
    command = desk.command(config, recipe, hardware)
    assert command[:3] == ["python", "-m", "training"]
    submit = parse_job_command(command[3:])
    assert submit.settings.model_dump(include=set(HardwareSettings.model_fields)) == (
        hardware.model_dump()
    )
    assert submit.settings.workspace == Path("workspace")
    given = {"data", "model", "objective", "optimizer", "noise"}
    assert submit.config.model_dump(include=given) == config.model_dump(include=given)


def test_the_real_store_and_queue_take_what_was_prepared(tmp_path):
    store = DatasetStore(tmp_path / "datasets")
    data = store.create(name="Votes", origin="here")
    for k in (1, 2):
        halves = (png((k, 0, 0)), png((0, k, 0)))
        data.append(prompt=f"a star {k}", chosen=halves[0], rejected=halves[1])
    console = JobConsole(JobSettings(workspace=tmp_path), launchers={"here": Cluster()})
    desk = TrainingDesk(data_sets=store, console=console, workspace=tmp_path)
    prepared = Preparation(desk).prepare({"optimizer": {"num_steps": 5}}, data_id=data.id)
    assert prepared.obstacles == ()
    run = start_training(desk, prepared)
    config = console.config(run)
    assert (config.data.path, config.optimizer.num_steps) == (data.folder, 5)
    assert config.run.output == tmp_path / "runs" / run
    assert len(read_preferences(config.data)) == 2
    assert desk.speed(config, place(desk)) is None


def png(color) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


def test_where_trainings_are_not_started_none_is():
    console = FakeConsole()
    desk = make_desk(console=console, refusal="Not here.")
    with pytest.raises(UserError, match="Not here"):
        desk.submit(config_of(desk), HERE)
    assert console.submitted == []


def test_the_speed_is_that_of_a_run_that_did_the_same_work(tmp_path):
    console = FakeConsole(folder=tmp_path)
    desk = make_desk(console=console)
    assert desk.speed(config_of(desk), place(desk)) is None
    first, second = (desk.submit(config_of(desk, batch_size=size), HERE) for size in (32, 4))
    RunDirectory(tmp_path / first).append_metrics({"step": 10, "pairs_per_second": 12.5})
    RunDirectory(tmp_path / second).append_metrics({"step": 10, "pairs_per_second": None})
    desk = make_desk(console=console)
    found = desk.speed(config_of(desk, num_steps=7, learning_rate=1e-3), place(desk))
    assert (found.pairs_per_second, found.run_id) == (12.5, first)
    assert desk.speed(config_of(desk, batch_size=4), place(desk)) is None
    assert desk.speed(config_of(desk, batch_size=5), place(desk)) is None


def test_memory_is_counted_once_for_the_same_settings():
    desk = make_desk()
    found = desk.estimate(config_of(desk), place(desk), threading.Event())
    assert found.total == sum(found.parts.values()) > 0
    assert found.num_trained > 0
    assert desk.estimate(config_of(desk), place(desk), threading.Event()) is found


def test_a_base_that_is_not_there_is_a_clear_message(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    desk = make_desk()
    config = complete(desk.find_recipe("shapes_demo"))
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": "no/one"})})
    with pytest.raises(UserError, match="no/one"):
        desk.estimate(config, place(desk), threading.Event())


def test_newer_input_ends_a_count_that_waits_or_runs():
    desk = make_desk()
    done, cancelled = threading.Event(), threading.Event()
    cancelled.set()
    with pytest.raises(EstimateSupersededError):
        desk.estimate(config_of(desk, batch_size=3), place(desk), cancelled)
    running, outcome = threading.Event(), []

    def count() -> None:
        try:
            outcome.append(desk.estimate(config_of(desk, batch_size=5), place(desk), running))
        except EstimateSupersededError:
            outcome.append("ended")
        done.set()

    with desk._memory._counting:
        threading.Thread(target=count).start()
        time.sleep(0.05)
        running.set()
        assert done.wait(10)
    assert outcome == ["ended"]


def test_a_count_is_ended_between_two_operations():
    import torch

    from training.planning.stopping import StoppedError, stopped_by

    event = threading.Event()
    with torch.device("meta"), stopped_by(event):
        kept = torch.empty(3)
        event.set()
        with pytest.raises(StoppedError):
            kept.exp()


def test_the_desk_opens_without_torch():
    program = "import sys, training.desk; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("asked", "devices", "on_cpu"),
    [
        ({}, ("cuda:GPU-0",), False),
        ({"device": "cpu"}, ("cpu",), True),
        ({"engine": "cpu"}, ("cpu",), True),
        ({"engine": "ddp", "num_processes": 2}, ("cuda:GPU-0", "cuda:GPU-1"), False),
    ],
)
def test_a_training_gets_the_device_that_is_asked_or_the_best(asked, devices, on_cpu):
    found = place(make_desk(devices=GPUS), **asked)
    assert (found.devices, found.engine.on_cpu) == (devices, on_cpu)


def test_what_the_machine_does_not_have_is_refused_before_a_start():
    with pytest.raises(UserError, match="2 processes need a GPU each, and this machine has 0"):
        place(make_desk(), engine="ddp", num_processes=2)
    with pytest.raises(UserError, match="has no device 'mps'"):
        place(make_desk(), device="mps")


def test_a_speed_of_another_device_or_number_of_processes_is_no_guess(tmp_path):
    console = FakeConsole(folder=tmp_path)
    desk = make_desk(console=console)
    run = desk.submit(config_of(desk), HERE)
    RunDirectory(tmp_path / run).append_metrics({"step": 10, "pairs_per_second": 12.5})
    assert desk.speed(config_of(desk), place(desk)).run_id == run
    two = {"engine": "ddp", "num_processes": 2, "device": "cpu"}
    assert desk.speed(config_of(desk), place(desk, **two)) is None
    other = make_desk(console=console, devices=GPUS)
    assert other.speed(config_of(desk), place(other)) is None
    assert other.speed(config_of(desk), place(other, device="cpu")).run_id == run


def test_a_rerun_begins_where_the_run_began():
    console = FakeConsole()
    desk = make_desk(console=console, devices=GPUS)
    config = config_of(desk, num_steps=7)
    data = config.data.model_copy(update={"path": FakeDataSet().folder})
    hardware = HardwareSettings(engine="ddp", num_processes=2, device="cpu")
    run = desk.submit(config.model_copy(update={"data": data}), hardware)
    found = desk.find_rerun(run)
    assert (found.data, found.hardware) == (FakeDataSet().id, hardware)
    assert found.config.optimizer.num_steps == 7
    assert desk.find_rerun(desk.submit(config, HardwareSettings(device="cuda:GPU-0"))).data is None
    with pytest.raises(UserError, match="There is no run"):
        desk.find_rerun("../x")
