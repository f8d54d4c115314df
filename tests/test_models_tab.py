"""The Models tab and what stands behind it, without a browser and without torch."""

import threading
import time
from dataclasses import replace

import gradio as gr
import pytest

import app
from chats.config import GenerationConfig, Row
from chats.devices import ON_CPU
from chats.errors import DeviceBusyError, UserError
from chats.generation.studio import Studio
from chats.models.reports import DeviceReport, OnDevice, Unloaded
from chats.models.sharing import DeviceShare
from tests.page_fakes import MODEL, FakeStudio
from ui.compare.board import lay_out
from ui.compare.comparing import compare
from ui.compare.form import pair_choices
from ui.compare.tab import CompareHandlers
from ui.models.cards import loaded_names, render_devices
from ui.models.endpoints import ModelEndpoints
from ui.models.tab import NO_NAME, ModelsHandlers
from ui.services import ModelServices

GPU = DeviceReport(
    title="GPU <A>",
    total_gb=40.0,
    used_gb=12.0,
    room_gb=20.5,
    used_by="run 1 (step 2 of 3)",
    loaded=(
        OnDevice(
            name="sdxl",
            kind="model",
            size_gb=7.0,
            in_use=True,
            device_name="A",
            placement="model offload",
        ),
    ),
    unloaded=(Unloaded(name="sd15", kind="model", size_gb=2.0, reason="it made room for 7.00 GB"),),
)


class Shelf:
    """Remembers what it was asked."""

    def __init__(self, error=""):
        self.error, self.asked, self.fetched = error, [], ()

    def services(self, **settings):
        return ModelServices(
            report=lambda: (GPU, DeviceReport(title="B")),
            load=self.load,
            unload=lambda name: f"{name} is unloaded.",
            folders=lambda: ("mine",),
            **settings,
        )

    def load(self, name, pair, on_bytes):
        self.asked.append((name, pair))
        for done in self.fetched:
            on_bytes(done, 2_000_000_000)
            time.sleep(0.4)
        if self.error:
            raise UserError(self.error)
        return f"{name} is loaded."


def test_a_device_shows_its_memory_what_is_loaded_and_why_something_is_not():
    drawn = render_devices([GPU, DeviceReport(title="B")])
    for words in (
        "GPU &lt;A&gt;",
        "7.0 GB in models and pairs, 5.0 GB in all else, of 40.0 GB.",
        "may take 20.5 GB now",
        "It is used by run 1 (step 2 of 3).",
        "<td>sdxl</td><td>model, model offload</td><td>7.0 GB</td><td>in use</td>",
        "sd15 (model, 2.0 GB): it made room for 7.00 GB",
        "Nothing has been loaded on it yet.",
    ):
        assert words in drawn
    assert loaded_names([GPU, GPU]) == ["sdxl"]


def test_loading_is_told_before_and_after():
    shelf = Shelf()
    before, after = ModelsHandlers(shelf.services()).load(" owner/name ", "")
    assert "Loading owner/name…" in before
    assert "owner/name is loaded." in after
    assert shelf.asked == [("owner/name", None)]


def test_what_is_fetched_is_shown_and_who_leaves_ends_it():
    shelf = Shelf()
    shelf.fetched = (500_000_000, 1_500_000_000)
    told = list(ModelsHandlers(shelf.services()).load("a/b", ""))
    assert "Fetching a/b: 500 MB of 2.0 GB" in told[1]
    assert "a/b is loaded." in told[-1]
    shelf.fetched, ended = iter(range(1000)), time.monotonic()
    stream = ModelsHandlers(shelf.services()).load("a/b", "")
    next(stream), next(stream)
    stream.close()
    assert time.monotonic() - ended < 5
    assert next(shelf.fetched) < 20


@pytest.mark.parametrize(
    ("name", "shelf", "settings", "words"),
    [
        ("", Shelf(), {}, NO_NAME),
        (None, Shelf(), {}, NO_NAME),
        ("a/b", Shelf(), {"refusal": "Not here."}, "Not here."),
        ("a/b", Shelf("It is <gated>."), {}, "It is &lt;gated&gt;."),
    ],
)
def test_what_cannot_be_loaded_is_told_in_the_page(name, shelf, settings, words):
    *_, last = ModelsHandlers(shelf.services(**settings)).load(name, "")
    assert words in last
    assert 'data-kind="error"' in last


def test_a_server_that_loads_nothing_says_so_to_programs_too():
    shelf = Shelf()
    with pytest.raises(gr.Error, match="Not here"):
        ModelEndpoints(shelf.services(refusal="Not here.")).model_load("a/b", "")
    assert shelf.asked == []


@pytest.fixture
def studio(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    return Studio(
        model="shapes",
        pair=None,
        devices=(ON_CPU,),
        share=lambda device: DeviceShare(),
        pair_of_run=lambda run: None,
        models_folder=tmp_path / "models",
    )


@pytest.mark.parametrize("name", ["/etc", "../secret", "mine/..", "..", ".", "~", "C:\\x", ""])
def test_no_text_from_a_browser_becomes_a_path(studio, name):
    with pytest.raises(UserError, match=r"neither a Hub id .* nor a folder .*\(there: mine\)"):
        studio.load(name)


def test_a_hub_id_that_is_a_folder_here_is_no_way_in(studio, tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="neither a Hub id"):
        studio.load("owner/name")


def busy(config, ticket):
    raise DeviceBusyError("The GPU is used by run 1. Wait until it has ended, or stop it in Runs.")
    yield


def last_view(services, *, on_cpu):
    config = GenerationConfig(prompt="x", rows=(Row(method="cfg"),), num_steps=1)
    *_, view = compare(
        services,
        config,
        model=MODEL,
        before=lay_out(config, model=MODEL),
        reuse=False,
        ticket=threading.Event(),
        is_current=lambda: True,
        on_cpu=on_cpu,
    )
    return view


def test_a_gpu_in_use_is_told_and_the_cpu_offered_where_it_would_help():
    fake = FakeStudio().services()
    alone = last_view(replace(fake, generate=busy), on_cpu=False)
    assert (alone.status.kind, alone.status.offers_cpu) == ("error", False)
    services = replace(fake, generate=busy, generate_on_cpu=fake.generate)
    beside = last_view(services, on_cpu=False)
    assert beside.status.offers_cpu
    assert beside.status.text.endswith("Wait until it has ended, stop it in Runs, or use the CPU.")
    assert last_view(services, on_cpu=True).board.state == "done"


def test_a_model_loaded_by_hand_and_damaged_since_takes_no_other_off_the_page(tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model_index.json").write_text("{")
    settings = app.Settings(workspace=tmp_path / "ws")
    others = ((str(tmp_path / "damaged"), None),)
    (own,) = app.offered_models(settings, app.open_runs(settings), others=others)
    assert own.name == settings.model


def test_a_model_loaded_by_hand_is_offered_in_compare_with_what_suits_it():
    other = replace(MODEL, name="owner/other", title="other", num_steps=28, width=None, height=None)
    assert pair_choices([MODEL, other])[1] == ("other: Embedded", "owner/other")
    services = replace(FakeStudio().services(), models=lambda: (MODEL, other))
    handlers = CompareHandlers(services)
    assert handlers.suit(other.id, MODEL.name) == ("owner/other", 28, 0, 0, 0.5, 4.0)
    assert handlers.suit(MODEL.id, MODEL.name)[0] == MODEL.name
    assert isinstance(handlers.suit(MODEL.id, MODEL.name)[1], dict)
