"""Pictures and trainings on one device: who waits for whom, and what is said meanwhile."""

import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from chats.config import GenerationConfig
from chats.devices import ON_CPU, Device, device_lock, find_devices
from chats.errors import DeviceBusyError, UserError
from chats.generation.studio import Studio
from chats.models.sharing import DeviceShare, DeviceTurns
from tests.job_queue import make_config, open_console, wait_for
from tests.page_fakes import FakeStudio
from training.jobs.catalogue import RunCatalogue
from training.jobs.turn import NotNowError, turn
from training.jobs.workspace import StopRequest, Workspace, new_job

GPU = "cuda:GPU-a"
NOBODY = threading.Event()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ws")


@pytest.fixture
def catalogue(workspace):
    return RunCatalogue(open_console(workspace.path))


def turns_on(workspace, catalogue, device=GPU):
    """What one server has: several are several servers, as far as the locks can tell."""
    return DeviceTurns(
        DeviceShare(
            title="the GPU",
            lock=workspace.device_lock(device),
            used_by=lambda: catalogue.user_of(device),
        )
    )


def new_run(workspace, *, ticket=1, devices=(GPU,)):
    job = new_job(directory=workspace.path, devices=devices, ticket=ticket)
    return workspace.create(make_config(num_steps=10), job)


@contextmanager
def training(folder, *, until):
    """Train in a thread until an event is set; gives the time at which its turn began."""
    began = []

    def train():
        try:
            with turn(folder.run.path):
                began.append(time.monotonic())
                until.wait(30)
                folder.run.update_status(state="succeeded")
        except NotNowError:
            pass

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        yield began
    finally:
        until.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_training_on_the_device_is_named_at_once_and_the_next_request_works(workspace, catalogue):
    turns, folder = turns_on(workspace, catalogue), new_run(workspace)
    with turn(folder.run.path):
        folder.run.update_status(step=4)
        started = time.monotonic()
        with (
            pytest.raises(DeviceBusyError, match=r"^The GPU is used by run .*, step 4 of 10\)\."),
            turns.turn(NOBODY),
        ):
            pass
        assert time.monotonic() - started < 2
    with turns.turn(NOBODY) as is_ours:
        assert is_ours


def test_a_training_waits_for_the_pictures_and_says_so(workspace, catalogue):
    folder, end = new_run(workspace), threading.Event()
    with ExitStack() as request:
        request.enter_context(turns_on(workspace, catalogue).turn(NOBODY))
        request.enter_context(training(folder, until=end))
        message = "Waiting for its device: pictures are being made on it."
        wait_for(lambda: folder.run.stored_status().message == message, what="the reason")
        folder.ask_to_stop(StopRequest(kill_at=new_job(directory=".", ticket=0).submitted))
    assert folder.run.stored_status().state == "cancelled"


def test_pictures_without_end_do_not_keep_a_training_out(workspace, catalogue):
    """Two servers paint all the time, so that the device is never free for long."""
    folder, end, refused = new_run(workspace), threading.Event(), []

    def paint(turns):
        try:
            while True:
                with turns.turn(NOBODY):
                    time.sleep(0.5)
        except DeviceBusyError as error:
            refused.append(str(error))

    servers = [
        threading.Thread(target=paint, args=(turns_on(workspace, catalogue),), daemon=True)
        for _ in range(2)
    ]
    for server in servers:
        server.start()
    with training(folder, until=end) as began:
        wait_for(lambda: len(refused) == 2, what="both servers gave way", seconds=20)
        assert began


def test_of_two_servers_one_waits_until_the_other_has_painted(workspace, catalogue):
    order, is_ours = [], threading.Event()

    def other():
        with turns_on(workspace, catalogue).turn(NOBODY):
            is_ours.set()
            time.sleep(0.3)
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    is_ours.wait(10)
    with turns_on(workspace, catalogue).turn(NOBODY):
        order.append("this")
    thread.join()
    assert order == ["other", "this"]


def test_who_waits_can_be_cancelled(workspace, catalogue):
    cancel = threading.Event()
    with turns_on(workspace, catalogue).turn(NOBODY):
        threading.Timer(0.1, cancel.set).start()
        with turns_on(workspace, catalogue).turn(cancel) as is_ours:
            assert not is_ours


def test_a_training_that_holds_another_device_leaves_the_door_of_this_one_open(
    workspace, catalogue
):
    """One run has GPU a; the next wants a and b, and waits: meanwhile b may be painted on."""
    first, end = new_run(workspace), threading.Event()
    second = new_run(workspace, ticket=2, devices=(GPU, "cuda:GPU-b"))
    with training(first, until=threading.Event()) as began:
        wait_for(lambda: began, what="the first")
        with training(second, until=end):
            wait_for(lambda: first.id in second.run.stored_status().message, what="the second")
            with turns_on(workspace, catalogue, "cuda:GPU-b").turn(NOBODY) as is_ours:
                assert is_ours
            second.ask_to_stop(StopRequest(kill_at=new_job(directory=".", ticket=0).submitted))


def test_a_killed_training_keeps_nobody_out(workspace, catalogue):
    folder = new_run(workspace)
    folder.run.update_status(state="running")
    with turns_on(workspace, catalogue).turn(NOBODY) as is_ours:
        assert is_ours


def test_a_lock_that_cannot_be_taken_is_a_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    turns = DeviceTurns(DeviceShare(title="the GPU", lock=device_lock(tmp_path / "file", GPU)))
    with pytest.raises(UserError, match="lock of the GPU can't be taken"), turns.turn(NOBODY):
        pass
    assert not turns.execution_lock.locked()


@pytest.fixture
def two_gpus(monkeypatch):
    gpus = {"cuda:GPU-a": "A", "cuda:GPU-b": "B", "cpu": "the CPU"}
    monkeypatch.setattr("chats.devices.machine_devices", lambda: gpus)


def test_all_gpus_paint_unless_one_is_named(two_gpus):
    assert [each.torch_name for each in find_devices()] == ["cuda:0", "cuda:1"]
    assert find_devices("cuda:1") == (Device("cuda:GPU-b", "B", "cuda:1"),)
    assert find_devices("cuda") == find_devices("cuda:0")
    assert find_devices("cpu") == (ON_CPU,)
    with pytest.raises(UserError, match=r"no device 'cuda:2' here.*cuda:0, cuda:1, cpu"):
        find_devices("cuda:2")


def test_a_request_goes_to_the_gpu_that_is_free(two_gpus, workspace, monkeypatch):
    asked = []

    def paint(manager, config, *, cancel):
        asked.append(manager)
        return FakeStudio().generate(config, cancel)

    monkeypatch.setattr("chats.generation.generate.generate", paint)
    monkeypatch.setattr(
        "chats.models.manager.ModelManager", lambda *, device, share: (device, share.title)
    )
    studio = Studio(
        model="shapes",
        pair=None,
        devices=find_devices(),
        share=lambda device: DeviceShare(device.title, workspace.device_lock(device.name)),
        pair_of_run=lambda run: None,
    )
    config = GenerationConfig(prompt="x", num_steps=1)
    first, second = (studio.generate(config, NOBODY) for _ in range(2))
    next(first), next(second)
    first.close(), second.close()
    with turn(new_run(workspace).run.path):
        list(studio.generate(config, NOBODY))
    list(studio.generate_on_cpu(config, NOBODY))
    assert [device for device, _ in asked] == ["cuda:0", "cuda:1", "cuda:1", "cpu"]
    assert asked[-1][1] == "the CPU"
