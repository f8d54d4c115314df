"""Sweeps: what is refused, what a folder survives, what is made in which call. No torch here."""

import json
import threading
import time

import pytest
from PIL import Image

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.png import config_of_row, read_png
from chats.number_lists import read_numbers
from chats.sweeps.config import MAX_CELLS, SweepConfig
from chats.sweeps.folder import SCORES_FILE, SETTINGS_FILE, SweepFolder
from chats.sweeps.plan import cells, cost, next_call, pictures, request
from chats.sweeps.sheet import SWEEP_KEY, contact_sheet
from chats.sweeps.store import SweepStore
from tests.page_fakes import FakeStudio
from tests.sweeping import contents, finish, make, small_sweep


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alphas": []}, "alphas: the list is empty: give at least one value"),
        ({"prompts": []}, "prompts: the list is empty"),
        ({"prompts": ["red star", "  "]}, "prompts: a prompt is empty"),
        ({"prompts": ["red star", "red star "]}, "prompts: 'red star' is given twice"),
        ({"alphas": [0.5, 0.25, 0.5]}, "alphas: 0.5 is given twice"),
        ({"seeds": [1, 1]}, "seeds: 1 is given twice"),
        ({"alphas": [3]}, "alphas.0: Input should be less than or equal to 2"),
        ({"alphas": ["nan"]}, "alphas.0: Input should be a finite number"),
        ({"alphas": "1 to 0 by 0.1"}, "a range goes up: 1 to 0 by 0.1 does not"),
        ({"alphas": "0 to 1 by 0.00001"}, "a range has at most 1000 values, this one has 100,001"),
        ({"alphas": "0 to 1e999 by 1"}, "alphas: .*0 to inf by 1 has no end"),
        ({"alphas": "0 to 5 by 1e-320"}, "alphas: .*has no end"),
        ({"scales": "much"}, "scales.0: Input should be a valid number"),
        ({"intervals": [[0.8, 0.2]]}, "an interval must start before it ends, got 0.8 to 0.2"),
        ({"alphas": "0 to 1 by 0.01", "scales": [1, 2, 3, 4]}, f"make 404 cells.*most {MAX_CELLS}"),
        ({"seeds": "0 to 999", "alphas": "0 to 1 by 0.1"}, "make 22,000 pictures.*most 20,000"),
        ({"method": "cfg"}, "method: Input should be 'chats' or 'chats-exact'"),
        ({"alpha": 1}, "alpha: Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sweep_are_refused_in_one_line(change, words):
    with pytest.raises(UserError, match=words):
        small_sweep(**change)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0, 0.5,1", ["0", "0.5", "1"]),
        ("[−0.5 0.5]", ["-0.5", "0.5"]),
        ("-0.5 to 1 by 0.5", [-0.5, 0.0, 0.5, 1.0]),
        ("0.1 to 0.3 by 0.1", [0.1, 0.2, 0.3]),
        ("0 to 3", [0, 1, 2, 3]),
        (0.5, [0.5]),
        ([1, 2], [1, 2]),
    ],
)
def test_numbers_are_read_as_people_write_them(text, numbers):
    assert read_numbers(text) == numbers


def test_a_long_text_without_a_range_is_read_at_once():
    """In time that grows with its length: a page would stand still for all who use it."""
    text = "1" * 200_000 + "x"
    began = time.process_time()
    assert read_numbers(text) == [text]
    assert time.process_time() - began < 2


def test_every_picture_is_made_once_and_every_cell_has_its_first_before_any_its_second():
    config = small_sweep(scales=[1, 2], num_steps=[5, 9])
    plan, grid = pictures(config), cells(config)
    wanted = {(c, p, s) for c in range(len(grid)) for p in range(2) for s in range(2)}
    assert {(each.cell, each.prompt, each.seed) for each in plan} == wanted
    assert len(plan) == len(wanted) == config.num_pictures == 48
    for panel in (plan[:24], plan[24:]):
        assert len({grid[each.cell] for each in panel[:6]}) == 6
        assert len({grid[each.cell].panel for each in panel}) == 1


def test_a_call_holds_rows_of_several_prompts_and_ends_with_its_panel():
    config = small_sweep(num_steps=[5, 9], rows_per_call=8)
    assert [next_call(config, first, max_rows=8) for first in (0, 8, 12)] == [
        range(8),
        range(8, 12),
        range(12, 20),
    ]
    asked = request(config, pictures(config)[:8])
    assert asked.num_steps == 5
    assert [row.prompt for row in asked.rows] == ["red star"] * 6 + ["blue circle"] * 2
    assert [row.alpha for row in asked.rows[:4]] == [-0.5, 0.0, 0.5, -0.5]


def test_the_cost_counts_calls_and_predictions():
    """4 pictures a cell; at s = 0 one prediction a step, else two while guidance is on.

    9 steps: s = 0: 3 cells·4·9 = 108; s = 2 on half the steps: 3·4·9·1.5 = 162.
    """
    config = small_sweep(scales=[0, 2], intervals=[[0.25, 0.75]])
    found = cost(config, default_num_steps=9)
    assert (found.num_cells, found.num_pictures, found.num_calls) == (6, 24, 6)
    assert found.num_predictions == 108 + 162


def test_a_finished_sweep_has_its_pictures_their_settings_and_makes_nothing_again(tmp_path):
    studio = FakeStudio()
    folder = make(tmp_path / "sweep", small_sweep(), studio.generate)
    assert [len(asked.rows) for asked in studio.asked] == [4, 4, 4]
    assert folder.num_done() == len(contents(folder)) == 12
    last = read_png(folder.picture(11))
    assert last.prompt == "blue circle"
    assert last.rows == (Row(scale=2, alpha=0.5, seed=4),)
    assert finish(folder, studio.generate) == []
    assert len(studio.asked) == 3


def test_the_folder_goes_on_only_with_the_same_settings(tmp_path):
    make(tmp_path / "sweep", small_sweep(), FakeStudio().generate)
    with pytest.raises(UserError, match=r"other settings \(alphas, seeds\)"):
        SweepFolder.create(tmp_path / "sweep", small_sweep(alphas=[0, 1], seeds=[1]))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").touch()
    with pytest.raises(UserError, match="photos is not empty and holds no sweep"):
        SweepFolder.create(tmp_path / "photos", small_sweep())
    with pytest.raises(UserError, match=r"one\.png is a file"):
        SweepFolder.create(tmp_path / "photos" / "one.png", small_sweep())


def test_a_sweep_with_nothing_made_takes_other_settings(tmp_path):
    SweepFolder.create(tmp_path / "sweep", small_sweep())
    changed = SweepFolder.create(tmp_path / "sweep", small_sweep(alphas=[1]))
    assert SweepFolder.open(tmp_path / "sweep").config == changed.config


def test_settings_that_were_changed_by_hand_are_refused(tmp_path):
    folder = make(tmp_path / "sweep", small_sweep(), FakeStudio().generate)
    path = folder.path / SETTINGS_FILE
    document = json.loads(path.read_text())
    document["config"]["alphas"][0] = -0.4
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="was changed after the sweep began"):
        SweepFolder.open(folder.path)
    path.write_text(json.dumps({"version": 2}))
    with pytest.raises(UserError, match="format version 2; this program reads version 1"):
        SweepFolder.open(folder.path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"sweep\.json in sweep cannot be read"):
        SweepFolder.open(folder.path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: folder.picture(5).unlink(),
        lambda folder: _cut(folder.path / SCORES_FILE, 9),
        lambda folder: _cut(folder.path / SCORES_FILE, 1),
        lambda folder: _replace_line(folder.path / SCORES_FILE, 1, b'{"first": 4, "count": 4}'),
    ],
    ids=["a picture is gone", "half a line", "no end of the line", "a damaged line"],
)
def test_what_is_damaged_is_made_again_and_the_rest_is_kept(tmp_path, harm):
    whole = make(tmp_path / "whole", small_sweep(), FakeStudio().generate)
    hurt = make(tmp_path / "hurt", small_sweep(), FakeStudio().generate)
    harm(hurt)
    assert hurt.num_done() in (4, 8)
    studio = FakeStudio()
    num_missing = 3 - hurt.num_done() // 4
    finish(hurt, studio.generate)
    assert len(studio.asked) == num_missing
    assert contents(hurt) == contents(whole)
    assert [call.first for call in hurt.calls()] == [0, 4, 8]


def test_cancel_keeps_what_is_done_and_the_next_start_makes_the_rest(tmp_path):
    folder = SweepFolder.create(tmp_path / "sweep", small_sweep())
    studio, cancel = FakeStudio(), threading.Event()

    def one_call_and_a_step(config, ticket):
        for event in studio.generate(config, ticket):
            if len(studio.asked) == 2:
                cancel.set()
            yield event

    finish(folder, one_call_and_a_step, cancel=cancel)
    assert folder.num_done() == 4
    assert studio.num_closed == 2
    events = finish(folder, FakeStudio().generate)
    assert [event.num_done for event in events if event.call] == [8, 12]
    assert events[-1].fraction == 1
    assert events[-1].eta_seconds == 0


def test_a_sweep_that_another_program_makes_is_left_to_it(tmp_path):
    folder = SweepFolder.create(tmp_path / "sweep", small_sweep())
    with (
        folder.working(),
        pytest.raises(UserError, match="Another program is making the sweep sweep"),
    ):
        finish(SweepFolder.open(folder.path), FakeStudio().generate)
    finish(folder, FakeStudio().generate)


def test_a_scorer_that_does_not_know_the_prompts_is_found_out_before_any_work(tmp_path):
    class Picky:
        def score(self, images, prompts):
            raise UserError(f"{prompts[1]!r} is no caption.")

    folder = SweepFolder.create(tmp_path / "sweep", small_sweep())
    studio = FakeStudio()
    with pytest.raises(UserError, match="'blue circle' is no caption"):
        finish(folder, studio.generate, judge=Picky())
    assert studio.asked == []


def test_a_scorer_that_gives_too_few_numbers_is_refused(tmp_path):
    class Lazy:
        def score(self, images, prompts):
            return [0.0]

    with pytest.raises(UserError, match="must return one number for each picture"):
        finish(SweepFolder.create(tmp_path / "s", small_sweep()), None, judge=Lazy())


def test_without_a_scorer_there_are_pictures_and_no_scores(tmp_path):
    folder = SweepFolder.create(tmp_path / "sweep", small_sweep(scorer="none"))
    finish(folder, FakeStudio().generate, judge=None)
    assert {call.scores for call in folder.calls()} == {None}


def test_the_sheet_says_the_settings_without_paths_and_holds_the_pictures(tmp_path):
    config = small_sweep(model="/somewhere/private/model")
    folder = make(tmp_path / "sweep", config, FakeStudio().generate)
    (tmp_path / "sheet.png").write_bytes(contact_sheet(folder, prompt=1, seed=1))
    with Image.open(tmp_path / "sheet.png") as sheet:
        inside = json.loads(sheet.text[SWEEP_KEY])
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(100_000)}
    assert "private" not in json.dumps(inside)
    assert SweepConfig.model_validate(inside).alphas == config.alphas
    with Image.open(folder.picture(9)) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) in colours


def test_for_the_pace_only_sweeps_of_the_same_model_are_looked_through(tmp_path, monkeypatch):
    """The page asks with every key that is pressed."""
    store, looked = SweepStore(tmp_path), []
    for model in ("shapes", "owner/other"):
        store.create(small_sweep(model=model))
    monkeypatch.setattr(SweepFolder, "calls", lambda self: looked.append(self.config.model) or [])
    assert store.seconds_per_prediction(small_sweep(model="owner/other")) is None
    assert looked == ["owner/other"]


def test_a_row_with_a_prompt_of_its_own_is_a_picture_with_that_prompt():
    config = GenerationConfig(prompt="shared", rows=(Row(), Row(prompt="own")))
    assert [config_of_row(config, k).prompt for k in (0, 1)] == ["shared", "own"]
    assert {config_of_row(config, k).rows[0].prompt for k in (0, 1)} == {None}


def _cut(path, num_bytes):
    path.write_bytes(path.read_bytes()[:-num_bytes])


def _replace_line(path, index, line):
    lines = path.read_bytes().splitlines()
    lines[index] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
