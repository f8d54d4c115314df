"""The Alpha lab without a browser: what it shows, refuses, keeps and hands to Compare."""

import functools
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from chats.config import GenerationConfig
from chats.errors import UserError
from chats.generation.png import read_png
from chats.pairs.recommended import changeable_pair, keep_recommended, recommended_setting
from chats.shapes import PAIR
from chats.sweeps.results import results
from chats.sweeps.store import SweepStore
from tests.page_fakes import MODEL, FakeStudio, Visitor, without_pair
from tests.sweeping import Brightness, make, small_sweep
from tests.train_fakes import build_page
from ui.lab.downloads import DOWNLOADS
from ui.lab.form import build_lab_form
from ui.lab.handlers import LabHandlers
from ui.lab.plot import render_scores
from ui.lab.shown import look_at
from ui.services import LabServices

VISITOR = Visitor()


@functools.cache
def form_for(model):
    return build_page(lambda: build_lab_form([model]))


class Lab:
    """The handlers on a fake studio, with a form like the page's."""

    def __init__(self, folder: Path, model=MODEL, **studio):
        self.studio = FakeStudio(model=model, **studio)
        self.store = SweepStore(folder / "sweeps")
        self.pair = folder / "pair"
        self.judge = Brightness()
        lab = LabServices(
            store=self.store, judge=lambda name: self.judge, pair_folder=lambda pair: self.pair
        )
        self.services = replace(self.studio.services(), lab=lab)
        self.form = form_for(model)
        self.handlers = LabHandlers(self.services, self.form)

    def inputs(self, **changes):
        config = small_sweep(model="shapes")
        shown = self.form.settings.show(config) | changes
        return [shown[name] for name in self.form.settings.inputs]

    def run(self, **changes):
        return list(self.handlers.run(VISITOR, 0, 0, "shapes", *self.inputs(**changes)))

    def last_status(self, **changes):
        return self.run(**changes)[-1][1]


@pytest.fixture
def lab(tmp_path):
    found = Lab(tmp_path)
    found.pair.mkdir()
    document = {"kind": "lora", "recommended": {"scale": 5.0, "alpha": 0.5}, "base": "shapes"}
    (found.pair / "pair.json").write_text(json.dumps(document))
    return found


def test_a_sweep_fills_the_grid_call_by_call_and_ends_with_a_verdict(lab):
    views = lab.run()
    grids = [view[9] for view in views if isinstance(view[9], str)]
    assert [grid.count("<img") for grid in grids] == [0, 3, 3, 3, 3]
    assert "4 of 12 pictures" in "".join(view[1] for view in views)
    assert 'data-kind="done"' in views[-1][1]
    assert "12 pictures in 3 calls" in views[-1][1]
    assert views[-1][5].startswith('<p class="verdict">Best: α&nbsp;=&nbsp;')
    assert grids[-1].count('data-mark="best"') == 2  # the cell and the key
    assert lab.handlers.look(views[-1][0], 1, 1, 2)[7].count("<figure>") == 4


def test_the_form_says_what_is_wrong_where_it_is_wrong_and_nothing_starts(lab):
    answer = lab.handlers.preview("shapes", *lab.inputs(alphas="0.5, 0.5", prompts="red star"))
    notes = dict(zip(lab.form.settings.notes, answer, strict=False))
    assert "0.5 is given twice: give each value once" in notes["alphas"]
    assert notes["scales"] == ""
    assert "see the marks" in answer[-1]
    status = lab.last_status(alphas="", seeds="0 to 99999")
    assert "alphas: the list is empty" in status
    assert "seeds: a range has at most 1000 values" in status
    assert lab.studio.asked == []


def test_more_cells_than_a_sweep_may_have_are_told_before_the_start(lab):
    answer = lab.handlers.preview("shapes", *lab.inputs(alphas="0 to 1 by 0.01", scales="0 to 9"))
    assert any("make 1,010 cells; a sweep has at most 400" in str(each) for each in answer)


def test_the_cost_is_told_before_the_start_and_the_time_once_it_is_known(lab):
    cost = lab.handlers.preview("shapes", *lab.inputs())[-1]
    assert "<strong>12 pictures</strong>: 3 α × 1 s × 2 prompts × 2 seeds, in 3 calls" in cost
    assert "The time is told after the first call" in cost
    lab.run()
    assert "All of them are there already" in lab.handlers.preview("shapes", *lab.inputs())[-1]
    other = lab.handlers.preview("shapes", *lab.inputs(seeds="7"))[-1]
    assert "judged by the last sweep of this model" in other


def test_without_a_pair_the_lab_says_how_to_get_one(tmp_path):
    lab = Lab(tmp_path, model=without_pair())
    assert (
        "this model has none. Train one in Train"
        in lab.handlers.preview("shapes", *lab.inputs())[-1]
    )
    assert "this model has none" in lab.last_status()
    assert lab.studio.asked == []


def test_memory_that_is_too_small_is_told_and_what_is_made_is_kept(tmp_path):
    lab = Lab(tmp_path, error=UserError("One picture does not fit. Lower the size."))
    status = lab.last_status()
    assert 'data-kind="error"' in status
    assert "Lower the size" in status
    assert "Your settings are kept" in status


def test_stop_keeps_what_is_made_and_start_goes_on(lab):
    views = lab.handlers.run(VISITOR, 0, 0, "shapes", *lab.inputs())
    for view in views:
        if "4 of 12" in view[1]:
            lab.handlers.halt(VISITOR)
            break
    rest = list(views)
    assert 'data-kind="stopped"' in rest[-1][1]
    assert "Start goes on from there" in rest[-1][1]
    assert lab.store.num_done(lab.store.open(rest[-1][0]).config) in (4, 8)
    assert 'data-kind="done"' in lab.last_status()
    rows = sum(len(asked.rows) for asked in lab.studio.asked)
    assert rows <= 12 + 4


def test_a_sweep_that_waits_is_ended_by_stop_at_once_and_a_full_queue_is_told(lab):
    assert "Starting" in lab.handlers.begin(VISITOR)[0]
    assert "Sweeps before yours: 1" in lab.handlers.begin(Visitor("other"))[0]
    assert "Stopped" in lab.handlers.halt(VISITOR)[0]
    status, stop = lab.handlers.refuse(VISITOR)
    assert "its queue is full" in status
    assert not stop.interactive


def test_an_error_in_the_program_is_told_and_logged(lab, caplog):
    lab.judge = None
    lab.studio.error = RuntimeError("bug")
    assert "The sweep could not be made: RuntimeError: bug" in lab.last_status(scorer="none")
    assert "A sweep failed" in caplog.text


def test_an_earlier_sweep_is_opened_from_the_menu(lab):
    lab.run(alphas="0, 1")
    (title, name), *rest = lab.handlers.entries()
    assert title == "red star and 1 more: α 0 to 1, s 2 to 2"
    assert rest == []
    opened = lab.handlers.open(name)
    filled = dict(zip(lab.form.settings.inputs, opened[2:], strict=False))
    assert filled["alphas"] == "0, 1"
    assert opened[1] == "shapes"
    for hostile in ("", "..", "../pair", "no-such-sweep", "a/b", None):
        with pytest.raises(gr.Error, match="There is no sweep"):
            lab.handlers.open(hostile)


def test_use_sets_compare_to_the_chosen_cell(lab):
    name = lab.run()[-1][0]
    found = lab.handlers.use(name, 1, 1, 0)
    assert (found["alpha"], found["scale"], found["prompt"]) == (-0.5, 2, "blue circle")
    assert (found["seed"], found["model"], found["locked"]) == (4, "shapes", True)
    best = lab.store.open(name)
    chosen = lab.handlers.use(name, 0, 0, -1)["alpha"]
    assert chosen == best.config.alphas[results(best.config, best.calls()).best]


def test_use_refuses_what_compare_has_no_slider_for_and_an_empty_page(lab):
    name = lab.run(alphas="1.5", scales="2")[-1][0]
    with pytest.raises(gr.Error, match=r"slider for α goes from -0\.5 to 1; this cell has 1\.5"):
        lab.handlers.use(name, 0, 0, 0)
    with pytest.raises(gr.Error, match="Choose a cell first"):
        lab.handlers.use("", 0, 0, 0)


def test_sweep_from_here_takes_over_what_compare_shows(lab):
    compare = {
        "prompt": "four circles ",
        "alpha": 0.35,
        "scale": 3.0,
        "seed": 7,
        "num_steps": 9,
        "scheduler": "euler",
        "interval_start": 0.1,
        "interval_end": 0.9,
        "width": 0,
        "negative_prompt": "blur",
    }
    model, *values = lab.handlers.from_compare("shapes", compare)
    filled = dict(zip(lab.form.settings.inputs, values, strict=True))
    assert (model, filled["prompts"], filled["seeds"]) == ("shapes", "four circles", "7, 8")
    assert "0.35" in filled["alphas"]
    assert "3" in filled["scales"].split(", ")
    prepared = lab.handlers.prepare("shapes", values)
    assert prepared.all_problems == ""
    assert prepared.config.num_steps == (9,)
    assert prepared.config.intervals == ((0.1, 0.9),)


def test_keeping_is_asked_twice_and_changes_the_recommended_setting_alone(lab):
    name = lab.run()[-1][0]
    before = json.loads((lab.pair / "pair.json").read_text())
    question = lab.handlers.ask_to_keep(name, 0, 0, 0)
    assert "Keep α = -0.5, s = 2 as what the pair pair recommends?" in question
    assert "It recommends α = 0.5, s = 5 now" in question
    assert json.loads((lab.pair / "pair.json").read_text()) == before
    assert "from now on" in lab.handlers.keep(name, 0, 0, 0)
    after = json.loads((lab.pair / "pair.json").read_text())
    assert after == before | {"recommended": {"scale": 2.0, "alpha": -0.5}}
    assert recommended_setting(lab.pair) == {"scale": 2.0, "alpha": -0.5}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "The embedded pair is part of this program"),
        (str(PAIR), "The embedded pair is part of this program"),
        ("owner/name", "owner/name is a pair of the Hub"),
        ("nowhere at all", "nowhere at all is no folder with a pair.json"),
    ],
)
def test_pairs_that_are_not_ones_own_are_not_changed(name, words):
    with pytest.raises(UserError, match=words):
        changeable_pair(name)


def test_a_disk_that_refuses_leaves_the_pair_as_it_was(lab, monkeypatch):
    before = (lab.pair / "pair.json").read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("chats.disk.os.fsync", refuse)
    with pytest.raises(UserError, match="Free some space"):
        keep_recommended(lab.pair, scale=1, alpha=0)
    assert [path.name for path in lab.pair.iterdir()] == ["pair.json"]
    assert (lab.pair / "pair.json").read_bytes() == before


def test_the_downloads_are_the_table_the_sheet_and_every_picture(tmp_path):
    folder = make(tmp_path / "sweep", small_sweep(), FakeStudio().generate)
    shown = look_at(folder, prompt=1, seed=1)
    files = {name: save(shown, tmp_path) for name, (_, save) in DOWNLOADS.items()}
    assert files["table"].read_text().count("\n") == 4
    assert files["sheet"].name == "sweep-sweep-prompt2-seed4.png"
    with zipfile.ZipFile(files["pictures"]) as archive:
        assert len(archive.namelist()) == 12
        archive.extract(archive.namelist()[0], tmp_path)
        config = read_png(tmp_path / archive.namelist()[0])
    assert isinstance(config, GenerationConfig)
    assert config.prompt == "red star"


def test_places_that_a_browser_makes_up_are_the_first_ones(tmp_path):
    folder = make(tmp_path / "sweep", small_sweep(), FakeStudio().generate)
    for odd in (-5, 99, "1", None, True, float("nan"), float("inf")):
        shown = look_at(folder, prompt=odd, seed=odd, cell=odd)
        assert (shown.prompt, shown.seed, shown.cell) == (0, 0, shown.results.best)


def test_the_plot_has_a_line_for_each_s_and_a_bar_for_each_error(tmp_path):
    config = small_sweep(scales=[1, 2], num_steps=[2, 3])
    folder = make(tmp_path / "sweep", config, FakeStudio().generate)
    drawn = render_scores(config, results(config, folder.calls()))
    assert drawn.count("<figure") == 2
    assert drawn.count("<polyline") == 4
    assert drawn.count("<circle") == 12
    assert "Score against α, 2 steps" in drawn
    assert "s = 1: " in drawn
    assert render_scores(config, results(config, [])) == ""


def test_what_people_write_is_escaped(tmp_path):
    hostile = "<script>alert(1)</script>"
    config = small_sweep(prompts=[hostile])
    lab = Lab(tmp_path)
    make(lab.store.folder / "x", config, lab.studio.generate)
    shown = lab.handlers.look("x", 0, 0, 0)
    assert all("<script" not in part for part in shown if isinstance(part, str))
