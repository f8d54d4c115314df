"""The Train tab's handlers and endpoints, without a browser."""

import base64
import json
import re
from pathlib import Path
from typing import get_args

import gradio as gr
import pytest
import yaml

from tests.page_fakes import Visitor
from tests.train_fakes import (
    COURSE,
    NUM_PAIRS,
    NUM_STEPS,
    START,
    FakeConsole,
    FakeDataSet,
    FakeDataSets,
    build_page,
    make_desk,
)
from training.config import ObjectiveName, TrainingConfig
from training.hardware import HardwareSettings, PlacedTraining
from training.launch import list_engines
from training.planning.estimate import MemoryReport
from training.recipe import complete
from ui.forms.fields import all_settings, describe
from ui.train.cards import duration, render_memory, render_started
from ui.train.endpoints import TrainEndpoints
from ui.train.form import BASIC, CHOSEN_BY_RECIPE, OBJECTIVE_TITLES, build_train_form
from ui.train.handlers import TrainHandlers
from ui.train.preparing import ENGINE_TITLES, Preparation
from ui.train.starts import OF_THE_SOURCE, Start

DATA = FakeDataSet().id


class Tab:
    """A tab with its handlers, and the form as a person left it."""

    def __init__(self, **desk):
        self.console = desk.setdefault("console", FakeConsole())
        self.desk = make_desk(**desk)
        preparation = Preparation(self.desk)
        self.form = build_page(lambda: build_train_form(preparation))
        self.handlers = TrainHandlers(preparation, self.form)
        self.start_from = Start(self.desk.find_recipe("shapes_demo"))
        self.values = self.form.settings.show(self.start_from.settings())

    def preview(self, data=DATA, **changed):
        values = {**self.values, **changed}.values()
        told = self.handlers.preview(data, self.start_from, Visitor(), *values)
        notes = dict(zip(self.form.settings.notes, told, strict=False))
        names = ("data_note", "course", "command", "files", "start", "reason", "saved")
        return notes, dict(zip(names, told[-len(names) :], strict=True))

    def start(self, data=DATA, **changed):
        return self.handlers.start(data, *{**self.values, **changed}.values())


@pytest.fixture(scope="module")
def tab():
    return Tab()


def test_every_setting_of_a_training_is_asked_or_has_its_reason_not_to_be(tab):
    known = all_settings(describe(PlacedTraining))
    paths = {name for name, each in known.items() if each.is_path}
    assert set(tab.form.settings.notes) == known.keys() - paths - set(OF_THE_SOURCE)
    assert {*BASIC, *CHOSEN_BY_RECIPE, *OF_THE_SOURCE} <= known.keys()
    assert OBJECTIVE_TITLES.keys() == set(get_args(ObjectiveName))
    assert ENGINE_TITLES.keys() == set(list_engines())


def test_a_whole_form_shows_what_it_comes_to(tab):
    notes, told = tab.preview()
    assert set(notes.values()) == {""}
    assert COURSE in told["course"]
    assert f"20.0 times each of {FakeDataSet().num_pairs} pairs" in told["course"]
    assert "nothing like it has run here yet" in told["course"]
    assert told["command"].startswith("python -m training submit --workspace workspace --config ")
    assert (told["start"].interactive, told["reason"]) == (True, "")
    assert json.loads(json.dumps(told["saved"])) == told["saved"]


def test_what_is_wrong_stands_at_its_setting_and_keeps_start_closed(tab):
    notes, told = tab.preview(**{"model.rank": 5000, "optimizer.num_steps": 10})
    assert "less than or equal to 1024" in notes["model.rank"]
    assert f"warmup_steps {START.warmup_steps} must be less than" in notes["optimizer.warmup_steps"]
    assert f"changed, was {NUM_STEPS}" in notes["optimizer.num_steps"]
    assert told["start"].interactive is False
    assert told["reason"] == "<p>These settings are wrong: Rank, Warmup steps.</p>"
    assert told["command"] == ""
    refused = tab.start(**{"model.rank": 5000})
    assert "wrong: Rank" in refused
    assert tab.console.submitted == []


@pytest.mark.parametrize("sent", ["/etc/passwd", "../x", "owner/other", {"a": 1}, None, "<b>"])
def test_a_base_that_is_not_on_offer_is_refused_and_escaped(tab, sent):
    notes, told = tab.preview(**{"model.base": sent})
    assert 'class="problem"' in notes["model.base"]
    assert "<b>" not in notes["model.base"]
    assert told["start"].interactive is False
    assert "wrong: Base" in tab.start(**{"model.base": sent})


def test_without_data_the_page_says_how_to_get_some():
    empty = Tab(data_sets=FakeDataSets([]))
    _, told = empty.preview(data=None)
    assert "Data tab" in told["data_note"]
    assert told["reason"] == "<p>Choose a data set.</p>"
    assert told["start"].interactive is False
    assert "--data.path the-data-set" in told["command"]
    assert "choose a data set first" in told["course"]


def test_who_may_not_start_sees_why():
    closed = Tab(refusal="Not on <this> demo.")
    _, told = closed.preview()
    assert told["reason"] == "<p>Not on &lt;this&gt; demo.</p>"
    assert "Not on &lt;this&gt; demo." in closed.start()
    assert closed.console.submitted == []


def test_start_hands_in_the_training_with_places_that_the_server_chose():
    tab = Tab()
    told = tab.start(**{"optimizer.num_steps": 50, "data.resolution": "64"})
    assert "Run <code>20260101-000000-abcdef</code> is in the queue" in told
    (config,) = tab.console.submitted
    assert (config.optimizer.num_steps, config.data.resolution) == (50, 64)
    assert (config.data.path, config.model.rank) == (FakeDataSet().folder, 32)
    assert config.run.output == Path("workspace/runs")


def test_what_the_queue_refuses_is_shown():
    assert (
        "The disk is full &amp; done"
        in Tab(console=FakeConsole(error="The disk is full & done")).start()
    )


def test_memory_is_told_when_the_form_rests_and_not_of_a_wrong_one(tab):
    def told(**changed):
        values = {**tab.values, **changed}.values()
        return list(tab.handlers.estimate(DATA, tab.start_from, Visitor(), *values))

    tab.preview()
    first, last = told()
    assert "Counting" in first
    assert "trained parameters" in last
    (only,) = told(**{"model.rank": 5000})
    assert "once the settings are right" in only


def test_a_count_that_newer_input_replaced_ends_without_a_word(tab):
    stream = tab.handlers.estimate(DATA, tab.start_from, Visitor(), *tab.values.values())
    assert "Counting" in next(stream)
    tab.preview(**{"model.rank": 7})
    assert list(stream) == []


def test_memory_that_does_not_fit_says_what_helps():
    report = MemoryReport(
        parts={"weights": 3 * 10**9, "activations": 2 * 10**9},
        device="a <GPU>",
        device_bytes=4 * 10**9,
        encoding_bytes=10**9,
        loading_bytes=0,
        remedies=("a smaller batch",),
        num_trained=5,
        num_frozen=6,
        forwards_per_pair=8,
    )
    drawn = render_memory(report)
    assert 'data-fits="false"' in drawn
    assert "<strong>5.0 GB</strong> of the 4.0 GB of a &lt;GPU&gt;" in drawn
    assert "What helps: a smaller batch." in drawn
    assert "to encode the data" in drawn


def test_a_chosen_recipe_fills_the_form(tab):
    recipe, note, *values = tab.handlers.choose("sdxl_paper")
    shown = dict(zip(tab.form.settings.inputs, values, strict=True))
    assert (shown["model.kind"], shown["optimizer.num_steps"]) == ("full", 6000)
    assert "SDXL" in note
    assert tab.handlers.reset(recipe) == values
    with pytest.raises(gr.Error, match="no recipe"):
        tab.handlers.choose("../../etc/passwd")


def test_one_setting_is_taken_back_and_no_other(tab):
    told = tab.handlers.reset_one("optimizer.betas", tab.start_from)
    changed = {
        name: value
        for name, value in zip(tab.form.settings.inputs, told, strict=True)
        if not isinstance(value, dict)
    }
    assert changed == {"optimizer.betas.0": 0.9, "optimizer.betas.1": 0.999}
    for name in ("data.path", "__class__", None, {"a": 1}):
        assert all(
            isinstance(value, dict) for value in tab.handlers.reset_one(name, tab.start_from)
        )


def test_a_recipe_goes_out_and_comes_in_again(tab, tmp_path):
    _, told = tab.preview(**{"model.rank": 4, "optimizer.betas.0": 0.8, "data.max_pairs": "50"})
    content = base64.b64decode(re.search(r"base64,([^\"]+)", told["files"])[1])
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    start, note, _, *values = tab.handlers.read_yaml(str(path))
    shown = dict(zip(tab.form.settings.inputs, values, strict=True))
    assert (shown["model.rank"], shown["optimizer.betas.0"]) == (4, 0.8)
    assert shown["data.max_pairs"] == "50"
    assert "From recipe.yaml" in note
    assert complete(start.recipe).model.rank == 4
    assert set(yaml.safe_load(content)) == set(TrainingConfig.model_fields)


def test_the_config_of_a_run_is_a_recipe_whose_places_are_told(tab, tmp_path):
    path = tmp_path / "<b>.yaml"
    path.write_text("data: {path: /etc, prompt_column: text}\nrun: {output: /boot}\n")
    recipe, note, _, *values = tab.handlers.read_yaml(str(path))
    assert "<b>" not in note
    assert "data.path, run.output, data.prompt_column" in note
    tab_values = dict(zip(tab.form.settings.inputs, values, strict=True))
    told = tab.handlers.preview(DATA, recipe, Visitor(), *tab_values.values())
    assert not any("/etc" in str(each) or "/boot" in str(each) for each in told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {base: /etc/passwd}", "not on offer here"),
        ("optimizer: {learning_rate: -3}", r"optimizer.learning_rate: .*given: -3"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("- 1", "must map groups"),
        ("[" * 5000, "nested too deeply"),
        ("x" * 200_000, "longer than settings can be"),
    ],
)
def test_a_file_that_is_no_recipe_leaves_the_form_and_says_why(tab, tmp_path, text, message):
    path = tmp_path / "evil.yaml"
    path.write_text(text)
    with pytest.raises(gr.Error, match=message):
        tab.handlers.read_yaml(str(path))


@pytest.mark.parametrize(
    "kept",
    [
        None,
        7,
        {"start": "x", "inputs": []},
        {"start": {"name": "../etc"}},
        {"start": {"name": "x", "settings": {"model": {"rank": -1}}}},
        {"start": {"name": "shapes_demo", "hardware": {"path": "/etc"}}},
        {"data": {"a": 1}, "start": {"name": ["x"], "settings": None}},
    ],
)
def test_what_a_browser_kept_is_not_trusted(tab, kept):
    data, *rest = tab.handlers.restore(kept)
    assert data.value == DATA
    assert len(rest) == 3 + len(tab.form.settings.inputs)


def test_a_reload_brings_the_form_back(tab):
    _, told = tab.preview(**{"model.rank": 5000})
    _, recipe, _, _, *values = tab.handlers.restore(json.loads(json.dumps(told["saved"])))
    assert recipe == tab.start_from
    assert dict(zip(tab.form.settings.inputs, values, strict=True))["model.rank"] == 5000


def test_where_it_runs_is_asked_shown_in_the_command_and_handed_in():
    tab = Tab()
    two = {"hardware.engine": "ddp", "hardware.num_processes": "2", "hardware.device": "cpu"}
    notes, told = tab.preview(**two)
    assert "--engine ddp --num-processes 2 --device cpu" in told["command"]
    assert f"{2 * NUM_PAIRS:,} pairs in {NUM_STEPS} steps" in told["course"]
    assert "changed, was" in notes["hardware.engine"]
    tab.start(**two)
    assert tab.console.hardware == [HardwareSettings(engine="ddp", num_processes=2, device="cpu")]


@pytest.mark.parametrize(
    ("asked", "place", "message"),
    [
        ({"hardware.engine": "ddp"}, "hardware.engine", "how many GPUs"),
        ({"hardware.num_processes": "2"}, "hardware.num_processes", "there is one process"),
        ({"hardware.device": "cuda:GPU-1"}, "hardware.device", "not on offer here"),
        ({"hardware.engine": "../../etc/passwd"}, "hardware.engine", "not on offer here"),
        ({"hardware.engine": "multi_node"}, "hardware.engine", "not on offer here"),
    ],
)
def test_hardware_that_is_not_here_stands_at_its_setting(tab, asked, place, message):
    notes, told = tab.preview(**asked)
    assert message in notes[place]
    assert told["start"].interactive is False


def test_a_rerun_fills_the_form_and_marks_what_differs_from_the_run():
    tab = Tab()
    tab.start(**{"optimizer.num_steps": 50, "hardware.device": "cpu"})
    run = tab.console.list()[0].id
    _, data, start, note, _, *values = tab.handlers.rerun(run)
    assert data.value == DATA
    assert run in note
    shown = dict(zip(tab.form.settings.inputs, values, strict=True))
    assert shown == {**tab.values, "optimizer.num_steps": 50}
    tab.start_from, tab.values = start, shown
    notes, told = tab.preview()
    assert set(notes.values()) == {""}
    assert "--optimizer.num-steps 50" in told["command"]
    notes, told = tab.preview(**{"optimizer.num_steps": 60})
    assert "changed, was 50" in notes["optimizer.num_steps"]
    kept = json.loads(json.dumps(told["saved"]))
    assert tab.handlers.restore(kept)[1] == start
    with pytest.raises(gr.Error, match="There is no run"):
        tab.handlers.rerun("../x")


def test_words():
    assert [duration(s) for s in (3, 600, 7200, 10**6)] == [
        "a minute",
        "10 minutes",
        "2.0 hours",
        "11.6 days",
    ]
    assert "&lt;i&gt;" in render_started("<i>")


@pytest.fixture(scope="module")
def api():
    console = FakeConsole()
    return TrainEndpoints(make_desk(console=console)), console


def test_the_api_previews_and_starts(api):
    endpoints, console = api
    assert {each["name"] for each in endpoints.recipes_list()} >= {"shapes_demo", "sdxl_paper"}
    told = endpoints.train_preview(DATA, "shapes_demo", {"model": {"rank": 4}}, True)
    assert told["can_start"]
    assert told["settings"]["model"]["rank"] == 4
    assert told["course"]["epochs"] == 20
    assert told["memory"]["num_trained"] > 0
    assert json.loads(json.dumps(told)) == told
    run = endpoints.train_start(DATA, "shapes_demo", {"model": {"rank": 4}})["run"]
    assert run == "20260101-000000-abcdef"
    assert console.submitted[-1].model.rank == 4


def test_the_api_tells_all_that_is_wrong(api):
    endpoints, console = api
    num = len(console.submitted)
    wrong = {"model": {"rank": 0, "base": "/etc"}, "optimiser": {"x": 1}}
    told = endpoints.train_preview("nothing", "shapes_demo", wrong, True)
    assert not told["can_start"]
    assert {"model.rank", "model.base"} <= told["problems"].keys()
    assert (told["command"], told["memory"]) == (None, None)
    with pytest.raises(gr.Error, match=r"model\.rank: "):
        endpoints.train_start(DATA, "shapes_demo", wrong)
    with pytest.raises(gr.Error, match="is gone"):
        endpoints.train_start("../etc", "shapes_demo", {})
    assert len(console.submitted) == num


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"path": "/etc"}}, r"data\.path is set by this server"),
        ({"data": {"cache": "/etc"}}, r"data\.cache is set by this server"),
        ({"run": {"output": "/boot"}}, r"run\.output is set by this server"),
        ({"model": 3}, r"settings\.model must map"),
        ([1], "settings must be groups"),
    ],
)
def test_the_api_takes_no_paths(api, settings, message):
    with pytest.raises(gr.Error, match=message):
        api[0].train_start(DATA, "shapes_demo", settings)
