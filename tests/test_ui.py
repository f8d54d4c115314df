"""The page's handlers, without a browser and without torch."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import get_args

import gradio as gr
import pytest

from chats.config import MethodName, Row, SchedulerName, Shaping
from chats.errors import UserError
from chats.generation.png import read_png
from chats.models.choices import describe_model, describe_shapes
from chats.shapes import SHAPES_NUM_STEPS
from tests.page_fakes import MODEL, FakeStudio, Visitor, color_of, without_pair
from ui.compare.board import lay_out
from ui.compare.cards import Status, render_board, render_status
from ui.compare.comparing import compare
from ui.compare.endpoints import Endpoints
from ui.compare.form import SCHEDULERS
from ui.compare.methods import METHODS
from ui.compare.tab import CompareHandlers, empty_board
from ui.compare.values import build_config, find_model, form_values
from ui.look import launch_options
from ui.pictures import enlarge, open_uri
from ui.server import check_login, prepare_environment
from ui.tickets import Tickets

ROOT = Path(__file__).parent.parent
FORM = {
    "prompt": "three red stars",
    "alpha": 0.5,
    "scale": 4.0,
    "seed": 7,
    "methods": ["standard", "cfg", "chats"],
}
ALL_FORM = {
    **FORM,
    "locked": True,
    "live": True,
    "negative_prompt": "",
    "num_steps": 3,
    "batch": 1,
    "scheduler": "default",
    "width": 0,
    "height": 0,
    "interval_start": 0.0,
    "interval_end": 1.0,
    **Shaping().model_dump(),
    "model": MODEL.id,
}


def config_of(model=MODEL, **changed):
    return build_config(model=model, **{**FORM, **changed})


def views_of(studio, config, *, before=None, reuse=False, ticket=None, is_current=lambda: True):
    return list(
        compare(
            studio.services(),
            config,
            model=studio.model,
            before=before or empty_board(studio.model),
            reuse=reuse,
            ticket=ticket or threading.Event(),
            is_current=is_current,
        )
    )


def run_python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


# What a person may get wrong


@pytest.mark.parametrize("prompt", ["", "   \n", None])
def test_an_empty_prompt_is_answered_with_advice(prompt):
    with pytest.raises(UserError, match="Write what the pictures should show"):
        config_of(prompt=prompt)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 7.0}, r"alpha: .*less than or equal to 2 \(given: 7.0\)"),
        ({"scale": -1.0}, r"scale: .*greater than or equal to 0 \(given: -1.0\)"),
        ({"seed": -1}, r"seed: .*greater than or equal to 0 \(given: -1\)"),
        ({"seed": 1.5}, r"seed must be a whole number \(given: 1.5\)"),
        ({"batch": 9}, r"batch must be 1 to 8 pictures \(given: 9\)"),
        ({"num_steps": 900}, r"num_steps: .*\(given: 900\)"),
        ({"methods": []}, "No method is chosen"),
        ({"methods": ["magic"]}, "Unknown method 'magic'. Known are: standard, cfg"),
        ({"scheduler": "magic"}, "scheduler: .*given: 'magic'"),
        ({"interval_start": 0.8, "interval_end": 0.2}, "must start before it ends"),
        ({"rescale": 2.0}, r"shaping.rescale: .*\(given: 2.0\)"),
        ({"sharpen": 2.0}, r"shaping.sharpen"),
    ],
)
def test_a_wrong_setting_is_named_with_the_value_that_was_given(changed, message):
    with pytest.raises(UserError, match=message):
        config_of(**changed)


def test_a_model_that_is_not_on_offer_is_refused_with_those_that_are():
    with pytest.raises(
        UserError, match=r"Unknown model '/etc/passwd'\. This server offers: shapes"
    ):
        find_model("/etc/passwd", (MODEL,))


def test_a_refused_form_shows_the_reason_and_the_next_run_works():
    handlers = CompareHandlers(FakeStudio().services())
    before = empty_board(MODEL)
    refused = list(handlers.run_all(before, Visitor(), **{**ALL_FORM, "prompt": ""}))
    assert 'role="alert"' in refused[-1][2]
    assert "Write what" in refused[-1][2]
    worked = list(handlers.run_all(before, Visitor(), **ALL_FORM))
    assert worked[-1][0].state == "done"


def test_a_refusal_in_the_middle_of_a_run_leaves_nothing_running():
    handlers = CompareHandlers(FakeStudio().services())
    before = replace(empty_board(MODEL), state="running")
    (refused,) = handlers.run_all(before, Visitor(), **{**ALL_FORM, "prompt": ""})
    assert refused[0].state == "failed"
    assert refused[3].interactive is False


def test_an_error_of_the_models_is_shown_as_it_is_and_the_pictures_stay():
    studio = FakeStudio(error=UserError("Out of memory: lower the size."))
    last = views_of(studio, config_of())[-1]
    assert (last.status.kind, last.status.text) == ("error", "Out of memory: lower the size.")
    assert last.board.state == "failed"


def test_a_bug_is_logged_and_told_plainly(caplog):
    last = views_of(FakeStudio(error=ZeroDivisionError("by zero")), config_of())[-1]
    assert last.status.text == "The pictures could not be made: ZeroDivisionError: by zero"
    assert "A comparison failed" in caplog.text


def test_text_of_a_person_never_becomes_html():
    evil = '<img src=x onerror=alert(1)> "quoted" ${alert(1)}'
    last = views_of(FakeStudio(notices=(evil,)), config_of(prompt=evil))[-1]
    html = render_board(last.board) + render_status(last.status)
    assert "<img src=x" not in html
    assert 'onerror=alert(1)> "' not in html
    assert "&lt;img src=x" in html


# The stream of a comparison


def test_previews_come_in_lockstep_and_the_pictures_at_the_end():
    views = views_of(FakeStudio(), config_of())
    assert [view.status.text for view in views] == [
        "Starting…",
        "Step 1 of 3",
        "Step 2 of 3",
        "Step 3 of 3",
        "Done.",
    ]
    assert [view.board.state for view in views] == ["running"] * 4 + ["done"]
    assert {cell.state for cell in views[2].board.cells} == {"preview"}
    assert views[2].status.detail == "1.0 s so far, about 0.5 s to go"


def test_the_three_columns_share_one_seed():
    studio = FakeStudio()
    views_of(studio, config_of())
    (asked,) = studio.asked
    assert [(row.method, row.seed) for row in asked.rows] == [
        ("standard", 7),
        ("cfg", 7),
        ("chats", 7),
    ]


def test_a_batch_takes_seeds_in_a_row_for_every_method():
    config = config_of(methods=["cfg", "standard"], batch=2)
    assert [(row.method, row.seed) for row in config.rows] == [
        ("standard", 7),
        ("standard", 8),
        ("cfg", 7),
        ("cfg", 8),
    ]


def test_a_moved_alpha_makes_only_the_chats_picture_anew():
    studio = FakeStudio()
    first = views_of(studio, config_of())[-1].board
    last = views_of(studio, config_of(alpha=0.9), before=first, reuse=True)[-1].board
    assert [row.method for row in studio.asked[1].rows] == ["chats"]
    assert last.cells[:2] == first.cells[:2]
    assert last.cells[2].file != first.cells[2].file


def test_a_moved_scale_leaves_only_the_standard_picture():
    studio = FakeStudio()
    first = views_of(studio, config_of())[-1].board
    views_of(studio, config_of(scale=9.0), before=first, reuse=True)
    assert [row.method for row in studio.asked[1].rows] == ["cfg", "chats"]


def test_a_slider_moved_back_has_nothing_to_do():
    studio = FakeStudio()
    first = views_of(studio, config_of())[-1].board
    (view,) = views_of(studio, config_of(), before=first, reuse=True)
    assert (view.status.kind, len(studio.asked)) == ("done", 1)


def test_generate_makes_every_picture_again():
    studio = FakeStudio()
    first = views_of(studio, config_of())[-1].board
    views_of(studio, config_of(), before=first, reuse=False)
    assert len(studio.asked[1].rows) == 3


def test_an_outdated_picture_stays_until_its_first_preview():
    first = views_of(FakeStudio(), config_of())[-1].board
    board = lay_out(config_of(alpha=0.9), model=MODEL, reuse=first)
    assert board.cells[2].state == "waiting"
    assert board.cells[2].shown == first.cells[2].shown


def test_stop_leaves_the_previews_and_says_how_far_they_are():
    last = views_of(FakeStudio(stop_after=2), config_of())[-1]
    assert (last.board.state, last.status.kind) == ("stopped", "stopped")
    assert last.status.detail == "The pictures are as they were after step 2 of 3."
    assert {cell.state for cell in last.board.cells} == {"preview"}


def test_a_run_that_newer_settings_replaced_ends_without_a_word():
    views = views_of(FakeStudio(stop_after=1), config_of(), is_current=lambda: False)
    assert [view.status.text for view in views] == ["Starting…", "Step 1 of 3"]


def test_a_closed_tab_closes_the_generation():
    studio = FakeStudio()
    handlers = CompareHandlers(studio.services())
    stream = handlers.run_all(empty_board(MODEL), Visitor(), **ALL_FORM)
    next(stream)
    next(stream)
    stream.close()
    assert studio.num_closed == 1


# Without a pair


def test_without_a_pair_the_chats_column_says_how_to_get_one_and_the_others_run():
    studio = FakeStudio(model=without_pair())
    last = views_of(studio, config_of(model=studio.model))[-1]
    assert [row.method for row in studio.asked[0].rows] == ["standard", "cfg"]
    assert [cell.state for cell in last.board.cells] == ["final", "final", "missing"]
    assert "CHATS needs a preference pair" in render_board(last.board)


def test_without_a_pair_nothing_is_asked_for_chats_alone():
    studio = FakeStudio(model=without_pair())
    (view,) = views_of(studio, config_of(model=studio.model, methods=["chats"]))
    assert "no preference pair" in view.status.text
    assert studio.asked == []


def test_a_page_just_opened_shows_the_columns_and_the_formulas():
    html = render_board(empty_board(MODEL))
    assert html.count("<article") == 3
    assert "5·preferred(prompt) − 4·dispreferred(proxy)" in html
    assert "--ratio:24/16" in html


# Pictures


def test_a_downloaded_picture_carries_the_settings_that_make_it(tmp_path):
    board = views_of(FakeStudio(), config_of(alpha=0.9))[-1].board
    path = tmp_path / "picture.png"
    path.write_bytes(base64.b64decode(board.cells[2].file.partition(",")[2]))
    settings = read_png(path)
    assert settings.rows == (Row(method="chats", scale=4.0, alpha=0.9, seed=7),)
    assert (settings.prompt, settings.num_steps, settings.width) == ("three red stars", 3, 24)


def test_the_download_is_native_and_the_display_enlarged():
    cell = views_of(FakeStudio(), config_of())[-1].board.cells[1]
    assert open_uri(cell.file).size == (24, 16)
    assert open_uri(cell.file).getpixel((0, 0)) == color_of(cell.config.rows[0])
    assert open_uri(cell.shown).size == (24 * 22, 16 * 22)


def test_large_pictures_are_shown_as_they_are():
    image = open_uri(views_of(FakeStudio(), config_of())[-1].board.cells[0].file).resize((600, 400))
    assert enlarge(image) is image


def test_settings_of_a_png_fill_the_form(tmp_path):
    config = config_of(batch=3, negative_prompt="blue", interval_start=0.25)
    values = form_values(config)
    assert values["batch"] == 3
    assert build_config(model=MODEL, methods=FORM["methods"], **values) == config


def test_a_picture_without_guidance_leaves_the_sliders_alone():
    values = form_values(config_of(methods=["standard"]))
    assert "scale" not in values
    assert "alpha" not in values


def test_a_png_without_settings_is_a_clear_message(tmp_path):
    open_uri(views_of(FakeStudio(), config_of())[-1].board.cells[0].shown).save(tmp_path / "a.png")
    handlers = CompareHandlers(FakeStudio().services())
    with pytest.raises(gr.Error, match="holds no settings"):
        handlers.read_settings(str(tmp_path / "a.png"))


# Tickets


def test_a_newer_run_ends_the_one_before_it_in_the_same_tab_only():
    runs = Tickets()
    first, other = runs.begin("a"), runs.begin("b")
    second = runs.begin("a")
    assert (first.is_set(), second.is_set(), other.is_set()) == (True, False, False)


def test_stop_reaches_a_run_that_still_waits_in_the_queue():
    studio = FakeStudio()
    handlers = CompareHandlers(studio.services())
    handlers.begin(Visitor())
    handlers.halt(Visitor())
    last = list(handlers.run_all(empty_board(MODEL), Visitor(), **ALL_FORM))[-1]
    assert last[0].state == "stopped"


def test_stop_leaves_the_last_word_to_a_run_that_runs():
    """Its answer may come after the run's own end, and must not cover it."""
    handlers = CompareHandlers(FakeStudio().services())
    handlers.begin(Visitor())
    running = handlers.run_all(empty_board(MODEL), Visitor(), **ALL_FORM)
    next(running)
    status, _ = handlers.halt(Visitor())
    assert status == gr.skip()
    assert list(running)[-1][0].state == "stopped"


def test_after_a_stop_the_next_run_goes_through():
    handlers = CompareHandlers(FakeStudio().services())
    for _ in range(2):
        handlers.begin(Visitor())
        handlers.halt(Visitor())
        list(handlers.run_all(empty_board(MODEL), Visitor(), **ALL_FORM))
    handlers.begin(Visitor())
    last = list(handlers.run_all(empty_board(MODEL), Visitor(), **ALL_FORM))[-1]
    assert last[0].state == "done"


def test_tickets_are_forgotten_when_runs_end():
    runs = Tickets()
    runs.finish("a", runs.begin("a"))
    assert runs.num_others("b") == 0
    assert not runs.stop("a")


def test_a_waiting_run_is_stopped_at_once_and_a_running_one_says_that_it_ends():
    runs = Tickets()
    ticket = runs.begin("a")
    assert not runs.stop("a")
    assert ticket.is_set()
    runs.begin("a")
    runs.start("a")
    assert runs.stop("a")


def test_who_waits_is_told_how_many_are_before():
    handlers = CompareHandlers(FakeStudio().services())
    assert "before yours" not in handlers.begin(Visitor("first"))[0]
    assert "Requests before yours: 1." in handlers.begin(Visitor("second"))[0]
    assert "Requests before yours: 1." in handlers.begin(Visitor("second"))[0]


def test_a_tab_that_was_refused_or_closed_is_not_counted():
    handlers = CompareHandlers(FakeStudio().services())
    handlers.begin(Visitor("refused"))
    assert "queue is full" in handlers.refuse(Visitor("refused"))[0]
    handlers.begin(Visitor("closed"))
    handlers.leave(Visitor("closed"))
    assert "before yours" not in handlers.begin(Visitor("third"))[0]


def test_an_unlocked_seed_is_drawn_anew_and_shown():
    handlers = CompareHandlers((studio := FakeStudio()).services())
    form = {**ALL_FORM, "locked": False}
    first, *later = handlers.run_all(empty_board(MODEL), Visitor(), **form)
    assert first[4] == studio.asked[0].rows[0].seed
    assert {str(update[4]) for update in later} == {str(gr.skip())}


def test_a_kept_seed_is_never_written_over_what_a_person_types_meanwhile():
    handlers = CompareHandlers(FakeStudio().services())
    for update in handlers.run_all(empty_board(MODEL), Visitor(), **ALL_FORM):
        assert str(update[4]) == str(gr.skip())


# The API's functions


def test_the_api_gives_files_with_settings_and_removes_them_afterwards():
    stream = Endpoints(FakeStudio().services()).compare(**FORM, model="shapes")
    *steps, (files, details) = [next(stream) for _ in range(4)]
    assert [step[1]["step"] for step in steps] == [1, 2, 3]
    assert [read_png(path).rows[0].method for path, _ in files] == ["standard", "cfg", "chats"]
    assert details["combined"][1] == "5·reference(prompt) − 4·reference(null)"
    assert list(stream) == []
    assert not Path(files[0][0]).exists()


def test_the_api_tells_mistakes_as_gradio_errors():
    with pytest.raises(gr.Error, match="Unknown model 'x/y'"):
        next(Endpoints(FakeStudio().services()).compare(**FORM, model="x/y"))


def test_the_api_refuses_chats_without_a_pair_rather_than_leaving_it_out():
    studio = FakeStudio(model=without_pair())
    next(Endpoints(studio.services()).compare(**FORM, model="shapes"))
    assert studio.asked[0].missing_pair == "refuse"


# The page as a whole


def test_every_action_is_named_and_helpers_are_not_offered():
    code = (
        "from tests.page_fakes import FakeStudio\n"
        "from ui.blocks import build_ui\n"
        "page = build_ui(FakeStudio().services())\n"
        "fns = page.fns.values()\n"
        "print(*sorted(fn.api_name for fn in fns if fn.api_visibility == 'public'))"
    )
    done = run_python(code, GRADIO_ANALYTICS_ENABLED="False")
    assert done.stdout.split() == [
        "compare",
        "dataset_delete",
        "dataset_edit",
        "dataset_export",
        "dataset_import",
        "dataset_import_hub",
        "dataset_preview_hub",
        "dataset_push",
        "dataset_rows",
        "dataset_validate",
        "datasets_list",
        "generate",
        "models_list",
        "png_info",
    ], done.stderr


def test_every_method_has_its_column():
    assert set(METHODS) == set(get_args(MethodName))


def test_every_scheduler_can_be_chosen():
    assert {name for _, name in SCHEDULERS} == set(get_args(SchedulerName))


def test_the_look_asks_nothing_of_the_network():
    options = launch_options()
    text = options["theme"]._get_theme_css() + options["css"] + options["head"]
    assert re.findall(r"(?:url\(|src=|href=|@import)\s*['\"]?(?:https?:)?//", text) == []
    assert all("http" not in str(sheet) for sheet in options["theme"]._stylesheets)


def test_importing_the_page_pulls_no_torch():
    code = (
        "import sys, app, ui.blocks\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'accelerate', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = run_python(code, GRADIO_ANALYTICS_ENABLED="False")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_page_builds_on_a_space_with_and_without_the_package_of_its_name(
    tmp_path, is_installed
):
    """Our folder `spaces` comes first on the path; without an `__init__.py` it must not win."""
    if is_installed:
        (tmp_path / "spaces").mkdir()
        (tmp_path / "spaces" / "__init__.py").write_text("gradio_auto_wrap = lambda fn: fn\n")
    code = (
        "from tests.page_fakes import FakeStudio\n"
        "from ui.blocks import build_ui\n"
        "print(type(build_ui(FakeStudio().services())).__name__)"
    )
    space = {"SYSTEM": "spaces", "SPACE_ID": "x/y", "PYTHONPATH": str(tmp_path)}
    done = run_python(code, **space, GRADIO_ANALYTICS_ENABLED="False")
    assert done.stdout.strip() == "Blocks", done.stderr


def test_the_spaces_folder_is_no_package_that_would_hide_the_real_one():
    assert not (ROOT / "spaces" / "__init__.py").exists()


# Starting the server


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_a_host_that_others_can_reach_needs_a_login(host):
    with pytest.raises(UserError, match=r"no login is set\. Set CHATS_LOGIN=name:password"):
        check_login(host, "")
    assert check_login(host, "ada:secret:1") == ("ada", "secret:1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_login(host):
    assert check_login(host, "") is None


def test_a_login_without_a_password_is_refused_and_never_repeated():
    with pytest.raises(UserError, match=r"^CHATS_LOGIN must be name:password\.$"):
        check_login("127.0.0.1", "only-a-name")


def test_a_port_in_use_is_one_clear_line_and_exit_code_1():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "app.py", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"127.0.0.1:{port} cannot be used: Address already in use. Choose another with --port."
    )


def test_a_workspace_that_cannot_be_written_is_a_clear_message(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written to"):
        prepare_environment(tmp_path / "file")


def test_the_embedded_model_is_described_from_its_files(tmp_path):
    base, pair = tmp_path / "base", tmp_path / "pair"
    for part, text in (
        ("unet", '{"sample_size": 12}'),
        ("vae", '{"block_out_channels": [1, 2, 3, 4]}'),
    ):
        (base / part).mkdir(parents=True)
        (base / part / "config.json").write_text(text)
    alone = describe_shapes(base=base, pair=None, embedded=pair)
    assert (alone.width, alone.height, alone.has_pair, alone.scale) == (96, 96, False, 5.0)
    pair.mkdir()
    (pair / "pair.json").write_text('{"recommended": {"scale": 2.0, "alpha": 0.25}}')
    paired = describe_shapes(base=base, pair=None, embedded=pair)
    assert (paired.has_pair, paired.scale, paired.alpha) == (True, 2.0, 0.25)
    given = describe_shapes(base=base, pair="someone/pair", embedded=pair)
    assert (given.has_pair, given.scale, given.pair) == (True, 5.0, "someone/pair")


def test_the_page_shows_the_steps_that_the_model_takes_by_itself():
    assert describe_model("shapes", None).num_steps == SHAPES_NUM_STEPS


def test_a_status_of_several_lines_keeps_its_lines():
    assert "one<br>two" in render_status(Status("error", "one\ntwo"))


@pytest.mark.parametrize(
    ("pipeline", "num_steps"), [("FluxPipeline", 28), ("PixArtSigmaPipeline", 20), ("Other", 50)]
)
def test_the_page_starts_with_the_steps_that_suit_its_model(tmp_path, pipeline, num_steps):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    assert describe_model(str(tmp_path), None).num_steps == num_steps
