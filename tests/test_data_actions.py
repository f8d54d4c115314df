"""The Data tab's handlers without a browser: what ends an import, and what a mistake shows."""

import shutil
import threading
import time

import gradio as gr
import pytest

from chats.errors import UserError
from tests.job_queue import Cluster, make_config
from tests.test_archive import contents, zipped
from tests.tiny_preferences import read_metadata, write_metadata, write_preferences
from training.datasets import DatasetStore
from training.jobs.console import JobConsole, JobSettings
from training.progress import Progress
from ui.data.actions import COLUMN_NAMES, DataActions
from ui.data.cards import render_pairs
from ui.data.handlers import DataHandlers
from ui.working import followed

NO_COLUMNS = ("",) * len(COLUMN_NAMES)


@pytest.fixture
def handlers(tmp_path):
    return DataHandlers(DataActions(DatasetStore(tmp_path / "datasets")))


@pytest.fixture
def upload(tmp_path):
    """A zip as gradio keeps it: alone in a folder of its own."""
    folder = write_preferences(tmp_path / "pairs")
    (tmp_path / "cache" / "abc").mkdir(parents=True)
    return zipped(tmp_path / "cache" / "abc" / "pairs.zip", contents(folder))


def is_clean(tmp_path) -> bool:
    left = {path.name for path in (tmp_path / "datasets").iterdir()}
    return left <= {".lock"} and not (tmp_path / "cache" / "abc").exists()


def endless(on_progress) -> None:
    for done in range(10**9):
        on_progress(Progress("rows", done))
        time.sleep(0.01)


def test_a_stream_that_nobody_follows_any_more_ends_its_work():
    stream = followed(endless)
    next(stream)
    stream.close()
    assert not any(thread.name == "data" for thread in threading.enumerate())


def test_what_the_work_raises_reaches_who_follows():
    def fail(on_progress) -> None:
        raise UserError("This is wrong.")

    with pytest.raises(UserError, match=r"This is wrong\."):
        list(followed(fail))


def test_a_stopped_import_leaves_nothing(tmp_path, handlers, upload, monkeypatch):
    monkeypatch.setattr(
        "ui.data.actions.import_file",
        lambda store, settings, *, name, on_progress: endless(on_progress),
    )
    stream = handlers.import_upload(str(upload), "", *NO_COLUMNS)
    next(stream)
    next(stream)
    stream.close()
    (tmp_path / "datasets").mkdir(exist_ok=True)
    assert is_clean(tmp_path)
    assert not any(thread.name == "data" for thread in threading.enumerate())


def test_an_import_tells_what_became_of_the_rows_and_removes_the_upload(tmp_path, handlers, upload):
    *_, last = handlers.import_upload(str(upload), "Mine", *NO_COLUMNS)
    assert "4 of 4 rows kept." in last[0]
    assert not upload.parent.exists()
    assert last[3].choices[0][0].startswith("Mine\n4 pairs")


def test_an_upload_that_is_gone_or_missing_is_one_message(tmp_path, handlers, upload):
    shutil.rmtree(upload.parent)
    upload.parent.mkdir()
    *_, last = handlers.import_upload(str(upload), "", *NO_COLUMNS)
    assert "There is no &#x27;pairs.zip&#x27; any more" in last[0]
    *_, last = handlers.import_upload(None, "", *NO_COLUMNS)
    assert "No file is chosen" in last[0]


def test_columns_that_are_not_known_are_offered_and_the_upload_is_kept(tmp_path, handlers):
    folder = write_preferences(tmp_path / "pairs")
    rows = [
        {"text": row["prompt"], "a": row["chosen_file_name"], "b": row["rejected_file_name"]}
        for row in read_metadata(folder)
    ]
    write_metadata(folder, rows)
    path = zipped(tmp_path / "pairs.zip", contents(folder))
    *_, last = handlers.import_upload(str(path), "", *NO_COLUMNS)
    assert "Name them under Columns" in last[0]
    assert [value for _, value in last[5].choices] == ["a", "b", "text"]
    *_, last = handlers.import_upload(str(path), "", "text", "a", "b", "", "")
    assert "4 of 4 rows kept." in last[0]


def test_a_bug_is_logged_and_told_plainly(handlers, upload, monkeypatch, caplog):
    monkeypatch.setattr("ui.data.actions.import_file", lambda *_, **__: 1 / 0)
    *_, last = handlers.import_upload(str(upload), "", *NO_COLUMNS)
    assert "The import failed: ZeroDivisionError" in last[0]
    assert "An import failed" in caplog.text


def test_mistakes_in_a_dataset_are_errors_of_the_page(handlers):
    for act in (handlers.undo, handlers.show, handlers.drop_shown):
        with pytest.raises(gr.Error, match="There is no data set 'x'"):
            act("x", "repeats", 0)


def test_text_of_a_person_never_becomes_html(handlers, upload):
    evil = '<img src=x onerror=alert(1)> "quoted"'
    *_, last = handlers.import_upload(str(upload), evil, *NO_COLUMNS)
    dataset_id = last[3].value
    dataset = handlers._actions.store.open(dataset_id)
    dataset.edit("prompt", rows=[1], prompt=evil)
    html = "".join(str(part) for part in handlers.show(dataset_id, "all", 0))
    html += render_pairs(dataset, dataset.rows())
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html


def test_a_data_set_that_a_run_needs_is_neither_changed_nor_deleted(tmp_path):
    cluster = Cluster()
    console = JobConsole(JobSettings(workspace=tmp_path), launchers={"here": cluster})
    store = DatasetStore(tmp_path / "datasets")
    needed, other = (store.create(name=name, origin="") for name in ("needed", "other"))
    actions = DataActions(store, console=console)
    config = make_config()
    data = config.data.model_copy(update={"path": needed.folder})
    run = console.submit(config.model_copy(update={"data": data}))
    refusal = rf"^The data set {needed.id} can't be changed .*the run {run} waits.*Stop that run"
    for change in (
        lambda: actions.delete(needed.id, confirm=True),
        lambda: actions.edit(needed.id, action="undo"),
    ):
        with pytest.raises(UserError, match=refusal) as refused:
            change()
        assert "\n" not in str(refused.value)
    actions.delete(other.id, confirm=True)
    console.directory(run).update_status(state="cancelled")
    actions.delete(needed.id, confirm=True)
    assert store.summaries() == []
