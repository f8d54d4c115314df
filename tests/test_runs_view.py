"""What the Runs tab shows, without a browser: curves, list, page, and what is not sent again."""

import os
import re
import shutil
import threading
import time
from dataclasses import replace

import pytest

import app
from chats.config import GenerationConfig, Row
from chats.devices import ON_CPU
from chats.errors import UserError
from chats.generation.studio import Studio
from chats.models.sharing import DeviceShare
from tests.job_queue import make_config, open_console
from tests.page_fakes import MODEL, FakeStudio
from tests.run_gallery import write_curve, write_run, write_samples
from training.config import TrainingConfig
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole
from training.jobs.searching import search_log
from training.progress import Progress
from training.run import RunDirectory
from ui.compare.tab import CompareHandlers
from ui.compare.values import find_model
from ui.plots import ticks
from ui.runs.curves import RunCurve, render_curves, smoothed
from ui.runs.endpoints import RunEndpoints
from ui.runs.handlers import RunsHandlers
from ui.runs.samples import nearest_step
from ui.runs.words import advice, duration
from ui.services import RunServices

BIG_LINES, BIG_ROWS, NUM_RUNS = 500_000, 100_000, 200
EVIL = '<script>alert("x")</script>'


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "ws"


@pytest.fixture
def services(workspace) -> RunServices:
    console = open_console(workspace)
    return RunServices(console=console, catalogue=RunCatalogue(console), push=refuse_push)


@pytest.fixture
def handlers(services) -> RunsHandlers:
    return RunsHandlers(services, is_offered=lambda run: True)


def refuse_push(run: str, repo_id: str, private: bool, on_progress) -> str:
    raise UserError(f"Can't push to {repo_id}: nobody is logged in.")


def rests(run) -> None:
    """Make a run look as if it had not been touched for a while."""
    os.utime(run.path, (time.time() - 60,) * 2)


def test_smoothing_is_an_average_without_bias():
    """With w = 0.5: 1; (0.5·1 + 3)/(1.5) = 7/3; (0.25·1 + 0.5·3 + 5)/1.75 = 27/7."""
    assert smoothed([1.0, 3.0, 5.0], 0.5) == pytest.approx([1, 7 / 3, 27 / 7])
    assert smoothed([1.0, 3.0, 5.0], 0.0) == [1.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 500, [0, 100, 200, 300, 400, 500]),
        (0.42, 0.71, [0.5, 0.6, 0.7]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_wild_value_does_not_flatten_the_curve():
    rows = [{"step": step, "loss": 1e6 if step == 50 else 0.5 + step / 1000} for step in range(100)]
    drawn = render_curves([RunCurve("this run", rows)], smoothing=0.0)
    assert float(re.search(r'data-y1="([^"]+)"', drawn)[1]) >= 1e6  # the smooth line is all there
    drawn = render_curves([RunCurve("this run", rows)], smoothing=0.98)
    assert float(re.search(r'data-y1="([^"]+)"', drawn)[1]) < 1e5


def test_curves_of_one_line_of_none_and_of_nothing_finite():
    assert "first steps" in render_curves([RunCurve("this run", [])], smoothing=0.6)
    one = render_curves([RunCurve("this run", [{"step": 1, "loss": 0.5}])], smoothing=0.6)
    assert "<circle" in one
    assert "nan" not in one
    rows = [{"step": 1, "loss": None}, {"step": 2, "loss": float("nan")}]
    assert "first steps" in render_curves([RunCurve("this run", rows)], smoothing=0.6)


def test_several_runs_are_drawn_over_each_other_with_a_legend():
    runs = [
        RunCurve(name, [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}]) for name in ("a", EVIL)
    ]
    drawn = render_curves(runs, smoothing=0.6)
    assert drawn.count('class="smooth"') == 2
    assert 'data-line="1"' in drawn
    assert "&lt;script&gt;" in drawn
    assert EVIL not in drawn


def test_an_empty_workspace_says_how_to_begin(handlers):
    _, parts, _ = handlers.open("")
    assert "No run yet" in parts["active"]
    assert parts["views"] is False


def test_the_list_shows_state_progress_and_accuracy_and_nothing_unescaped(handlers, workspace):
    config = make_config(num_steps=100).model_dump(mode="json")
    config["data"]["path"] = EVIL
    write_run(workspace, config=TrainingConfig.model_validate(config), state="failed", message=EVIL)
    _, parts, _ = handlers.open("")
    assert 'data-state="failed"' in parts["ended"]
    assert "100 of 100 steps" in parts["ended"]
    assert "% <span>accuracy" in parts["ended"]
    assert "<script" not in parts["ended"]
    assert "&lt;script&gt;" in parts["ended"]


def test_a_failure_shows_its_last_line_and_what_to_do_before_anything_else(handlers, workspace):
    run = write_run(
        workspace, state="failed", step=35, message="Traceback\ntorch: CUDA out of memory"
    )
    _, parts, _ = handlers.open(run.path.name)
    head = parts["head"]
    assert head.index("torch: CUDA out of memory") < head.index("Lower optimizer.batch_size")
    assert head.index("Lower optimizer.batch_size") < head.index('class="run-now"')
    visible = [button.visible for button in parts["buttons"]]
    assert visible == [False, True, False, False, False, True, True, False]  # resume, rerun, delete


@pytest.mark.parametrize("error", ["", "Killed", "Something nobody has seen before"])
def test_a_failure_without_known_cause_points_to_the_log(error):
    assert "The end of the log" in advice(error, "training")


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ("succeeded", ["use", "score", "rerun", "delete", "push"]),
        ("interrupted", ["resume", "rerun", "delete"]),
        ("cancelled", ["resume", "rerun", "delete"]),
    ],
)
def test_buttons_follow_from_the_state_alone(handlers, workspace, state, names):
    run = write_run(workspace, state=state)
    _, parts, _ = handlers.open(run.path.name)
    order = ["use", "resume", "stop", "kill", "score", "rerun", "delete", "push"]
    shown = zip(order, parts["buttons"], strict=True)
    assert [name for name, button in shown if button.visible] == names


def test_only_what_changed_is_sent_again(handlers, workspace):
    run = write_run(workspace, state="interrupted", num_steps=1000, step=100)
    asked, _, seen = handlers.open(run.path.name)
    again, seen = handlers.changes(asked, seen)
    assert again == {}
    write_curve(run, range(105, 110, 5))
    changed, seen = handlers.changes(asked, seen)
    assert set(changed) == {"curves"}
    run.log.write_text("a line\n")
    changed, seen = handlers.changes(asked, seen)
    assert set(changed) == {"log"}
    changed, seen = handlers.changes(replace(asked, smoothing=0.9), seen)
    assert set(changed) == {"curves"}


def test_a_run_that_was_deleted_elsewhere_becomes_the_list_with_one_line(handlers):
    _, parts, _ = handlers.open("20260101-000000-abcdef")
    assert "There is no run &#x27;20260101-000000-abcdef&#x27;." in parts["place"]
    assert 'data-gone="20260101-000000-abcdef"' in parts["place"]
    assert parts["views"] is False


def test_pictures_of_a_step_stand_beside_the_base_models(handlers, workspace):
    run = write_run(workspace)
    write_samples(run, [0, 50, 100])
    asked, parts, seen = handlers.open(run.path.name)
    assert parts["samples"].count("<img") == 4
    assert "step 100" in parts["samples"]
    assert (parts["step"].minimum, parts["step"].maximum, parts["step"].value) == (0, 100, 100)
    changed, _ = handlers.changes(replace(asked, step=70), seen)
    assert set(changed) == {"samples"}
    assert "step 50" in changed["samples"]
    assert changed["samples"].count("base model</span>") == 2


def test_a_picture_that_is_damaged_or_gone_says_so(handlers, workspace):
    run = write_run(workspace)
    write_samples(run, [0])
    (run.samples / "step-000000/00-cfg.png").write_bytes(b"not a picture")
    (run.samples / "step-000000/01-chats.png").unlink()
    _, parts, _ = handlers.open(run.path.name)
    assert parts["samples"].count("can’t be read") == 2
    assert parts["samples"].count("<img") == 2


def test_without_pictures_there_is_no_step():
    assert nearest_step([], 7) == 0


def test_runs_are_compared_by_the_settings_in_which_they_differ(handlers, workspace):
    one = write_run(workspace)
    two = write_run(workspace, config=make_config(num_steps=100, learning_rate=0.25))
    asked, parts, seen = handlers.open(one.path.name)
    assert "optimizer.weight_decay" in parts["settings"]
    changed, _ = handlers.changes(replace(asked, others=(two.path.name, "../../etc")), seen)
    assert set(changed) == {"curves", "settings"}
    assert changed["curves"].count("<li ") == 2
    assert "optimizer.weight_decay" not in changed["settings"]
    assert "<td>0.25</td>" in changed["settings"]


def test_the_log_is_searched_from_its_end(handlers, workspace, tmp_path):
    run = write_run(workspace)
    run.log.write_text("one <b>Error</b>\n" + "nothing\n" * 1000 + "two error ∇\n")
    asked, _, seen = handlers.open(run.path.name)
    changed, _ = handlers.changes(replace(asked, search="ERROR"), seen)
    assert "2 lines with" in changed["log"]
    assert "one &lt;b&gt;<mark>Error</mark>" in changed["log"]
    changed, _ = handlers.changes(replace(asked, search="missing"), seen)
    assert "No line holds" in changed["log"]
    found = search_log(run.log, "nothing", max_lines=10)
    assert found.is_cut
    assert len(found.lines) == 10
    assert search_log(tmp_path / "none", "x").lines == ()
    with pytest.raises(UserError, match="at most 200 letters"):
        search_log(run.log, "x" * 201)


def test_lines_around_the_edges_of_blocks_are_found_once(tmp_path):
    path = tmp_path / "log"
    line = "x" * 999_990 + "needle\n"
    path.write_text(line * 5)
    found = search_log(path, "needle")
    assert (len(found.lines), found.is_cut) == (5, False)


def test_what_rests_is_not_read_again_until_it_changes(services, workspace, monkeypatch):
    run = write_run(workspace, state="interrupted")
    rests(run)
    looked = []
    get = JobConsole.get
    monkeypatch.setattr(JobConsole, "get", lambda self, run: looked.append(run) or get(self, run))
    for _ in range(3):
        (entry,) = services.catalogue.entries()
    assert len(looked) == 1
    run.update_status(state="cancelled", message="Killed as asked.")
    assert services.catalogue.entries()[0].summary.state == "cancelled"
    assert entry.summary.state == "interrupted"


def test_a_damaged_run_can_be_seen_and_deleted(handlers, workspace, services):
    run = write_run(workspace)
    (run.path / "status.json").write_text("{")
    (run.path / "config.yaml").write_text(": :")
    _, parts, _ = handlers.open("")
    assert "is damaged" in parts["ended"]
    _, parts, _ = handlers.open(run.path.name)
    assert "is damaged" in parts["head"]
    assert "can’t be read" in parts["settings"]
    handlers.act("delete", run.path.name)
    assert services.catalogue.entries() == ()


def test_a_push_without_login_says_so_in_the_page(handlers, workspace):
    run = write_run(workspace)
    assert "owner/name" in list(handlers.push(run.path.name, " ", True))[-1]
    said = list(handlers.push(run.path.name, "someone/pair", True))
    assert "someone/pair" in said[0]
    assert "nobody is logged in" in said[-1]


def test_a_push_tells_how_far_it_is_then_where_and_goes_on_when_the_page_is_closed(
    services, workspace
):
    """Against a Hub of our own: each piece is sent when the test lets it."""
    lets, ends = threading.Semaphore(0), threading.Event()

    def push(run: str, repo_id: str, private: bool, on_progress) -> str:
        for done in range(3):
            on_progress(Progress("MB sent", done, 2))
            lets.acquire(timeout=20)
        ends.set()
        return f"The pair is at https://hub/{repo_id}"

    handlers = RunsHandlers(replace(services, push=push), is_offered=lambda run: True)
    run = write_run(workspace).path.name
    stream = handlers.push(run, "someone/pair", True)
    assert "Exporting" in next(stream)
    assert "0 of 2 MB sent" in next(stream)
    lets.release()
    assert "1 of 2 MB sent" in next(stream)
    lets.release(2)
    assert "https://hub/someone/pair" in list(stream)[-1]
    ends.clear()
    stream = handlers.push(run, "someone/pair", True)
    assert [next(stream) for _ in range(2)]
    stream.close()
    lets.release(3)
    assert ends.wait(20)


def test_durations_have_two_units():
    assert [duration(each) for each in (5, 65, 1300, 7400, 200_000)] == [
        "5 s",
        "1 min 05 s",
        "21 min",
        "2 h 03 min",
        "2 d 7 h",
    ]


def test_the_page_stays_quick_with_many_runs_a_long_log_and_long_curves(services, workspace):
    """Wall clock on a machine with other work lies; the time of this process does not."""
    big = write_run(workspace, curve_every=20)
    names = [f"20250101-{number:06}-abcdef" for number in range(NUM_RUNS - 1)]
    runs = [big, *(RunDirectory(big.path.with_name(name)) for name in names)]
    for run in runs[1:]:
        shutil.copytree(big.path, run.path)
    big.log.write_text("2026-11-20T13:50:20Z INFO training: a line of a long log\n" * BIG_LINES)
    write_curve(big, range(101, 101 + BIG_ROWS), seed=1)
    for run in runs:
        rests(run)
    handlers = RunsHandlers(services, is_offered=lambda run: True)
    before = time.process_time()
    asked, _, seen = handlers.open("")
    assert time.process_time() - before <= 2
    before = time.process_time()
    assert handlers.changes(asked, seen)[0] == {}
    assert time.process_time() - before <= 0.1
    before = time.process_time()
    asked, _, seen = handlers.open(big.path.name)
    handlers.choices(big.path.name)
    assert time.process_time() - before <= 2
    write_curve(big, range(200_000, 200_001), seed=2)
    with big.log.open("a") as file:
        file.write("one more\n")
    before = time.process_time()
    changed, _ = handlers.changes(asked, seen)
    assert time.process_time() - before <= 0.1
    assert set(changed) == {"curves", "log"}
    before = time.process_time()
    assert len(services.console.search_log(big.path.name, "one more").lines) == 1
    assert time.process_time() - before <= 1
    answer = RunEndpoints(services).train_metrics(big.path.name, 150_000, 100)
    assert answer["rows"][0]["step"] == 200_000


def test_pairs_of_finished_runs_on_the_same_base_are_offered_by_id(services, workspace):
    settings = app.Settings(workspace=workspace)
    run = write_run(workspace)
    write_run(workspace, state="interrupted")
    write_run(workspace, with_pair=False)
    other = make_config(num_steps=100).model_dump(mode="json")
    other["model"]["base"] = "someone/else"
    elsewhere = write_run(workspace, config=TrainingConfig.model_validate(other))
    own, trained = app.offered_models(settings, services)
    assert (own.id, own.pair) == ("shapes", None)
    assert (trained.id, trained.name, trained.pair) == (run.path.name, "shapes", run.path.name)
    assert "CHATS, LoRA pair on shapes" in trained.pair_title
    assert app.pair_of_run(services, run.path.name) == str(run.pair)
    assert app.pair_of_run(services, "../../etc") is None
    offered = (own, trained)
    assert find_model(run.path.name, offered) is trained
    with pytest.raises(UserError, match=f"^Unknown model '{elsewhere.path.name}'. This server"):
        find_model(elsewhere.path.name, offered)
    with pytest.raises(UserError, match=r"Unknown model .None."):
        find_model(None, offered)


def test_a_pair_that_is_gone_is_chosen_no_more_in_compare():
    trained = replace(MODEL, run="20260101-000000-abcdef", run_title="1 Jan 00:00")
    studio = replace(FakeStudio().services(), models=lambda: (MODEL, trained))
    menu = CompareHandlers(studio).pair_menu(trained.run)
    assert (menu.value, menu.visible) == (trained.run, True)
    alone = CompareHandlers(FakeStudio().services()).pair_menu(trained.run)
    assert (alone.value, alone.visible) == (MODEL.id, False)


def test_pictures_of_a_runs_pair_carry_its_id_and_no_path(monkeypatch):
    asked = []

    def paint(manager, config, *, cancel):
        asked.append(config.pair)
        return FakeStudio().generate(config, cancel)

    monkeypatch.setattr("chats.generation.generate.generate", paint)
    folders = {"20260101-000000-abcdef": "/somewhere/pair"}
    studio = Studio(
        model="shapes",
        pair=None,
        devices=(ON_CPU,),
        share=lambda device: DeviceShare(),
        pair_of_run=folders.get,
    )
    config = GenerationConfig(prompt="x", rows=(Row(),), pair="20260101-000000-abcdef", num_steps=1)
    *_, last = studio.generate(config, threading.Event())
    assert asked == ["/somewhere/pair"]
    assert last.config.pair == "20260101-000000-abcdef"
