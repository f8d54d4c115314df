"""The score of a run: a process of its own, told in the run's folder and on its page."""

import shutil
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest

import app
from chats.errors import UserError
from chats.shapes import BASE, PAIR
from chats.shapes.prompts import evaluation_specs
from chats.shapes.sampling import Sampler
from tests.job_queue import make_config, open_console, wait_for
from tests.run_gallery import write_run
from training.jobs.catalogue import RunCatalogue
from training.scoring.record import RunScore, read_score, score_lock, start_score, write_score
from training.scoring.shapes import main
from ui.runs.cards import render_head, render_list
from ui.runs.endpoints import RunEndpoints
from ui.runs.handlers import RunsHandlers
from ui.services import RunServices


@pytest.fixture
def run(tmp_path):
    """A finished run whose pair is the embedded one."""
    written = write_run(tmp_path / "ws")
    shutil.rmtree(written.pair)
    written.pair.symlink_to(PAIR)
    return written


@pytest.fixture
def catalogue(tmp_path):
    return RunCatalogue(open_console(tmp_path / "ws"))


def test_a_pair_is_scored_like_by_hand_and_the_page_shows_it(run, catalogue):
    """Two prompts: CFG keeps what the sampler says for the same prompts, noise and scale."""
    start_score(run, num_prompts=2)
    entry = catalogue.get(run.path.name)
    assert "Its pair is being scored: 0 of 4 pictures." in render_head(entry)
    with pytest.raises(UserError, match=f"run {run.path.name} is being scored already"):
        start_score(run)
    wait_for(lambda: read_score(run).state != "running", what="a score", seconds=120)
    score = read_score(run)
    assert (score.state, score.num_done, score.message) == ("done", 4, "")
    settings = make_config().samples
    kept = Sampler(BASE).promises_kept(
        evaluation_specs()[:2], method="cfg", scale=settings.scale, first_seed=1_000_000
    )
    assert score.cfg.mean == 100 * kept.mean()
    assert score.cfg.error == pytest.approx(100 * kept.astype(float).std(ddof=1) / np.sqrt(2))
    entry = catalogue.get(run.path.name)
    assert f"CHATS {score.chats}%" in render_head(entry)
    assert f"{score.chats}% <span>kept" in render_list([entry], title="Ended")


def test_what_can_not_be_scored_says_why(run, tmp_path):
    other = make_config()
    model = other.model.model_copy(update={"base": "owner/name"})
    foreign = write_run(tmp_path / "ws", config=other.model_copy(update={"model": model}))
    with pytest.raises(UserError, match=r"Only pairs of the Shapes model .* not of owner/name"):
        start_score(foreign)
    with pytest.raises(UserError, match="has no finished pair"):
        start_score(write_run(tmp_path / "ws", state="interrupted"))
    write_score(run, RunScore.model_validate(empty_score()))
    run.pair.unlink()
    assert main(run.path) == 1
    assert read_score(run).state == "failed"
    assert str(run.pair) in read_score(run).message


def test_a_scoring_that_was_killed_is_seen_and_may_begin_again(run, catalogue):
    write_score(run, RunScore.model_validate(empty_score()))
    with score_lock(run):
        assert read_score(run).state == "running"
    assert read_score(run).state == "failed"
    assert "ended without a word" in render_head(catalogue.get(run.path.name))
    (run.path / "score.json").write_text("{")
    assert read_score(run) is None


def test_the_button_is_there_where_a_score_can_be_had(run, catalogue, tmp_path):
    console = open_console(tmp_path / "ws")
    services = RunServices(console=console, catalogue=catalogue, push=lambda *asked: "")
    handlers = RunsHandlers(services, is_offered=lambda run: True)

    def is_offered() -> bool:
        _, parts, _ = handlers.open(run.path.name)
        return parts["buttons"][4].visible

    assert is_offered()
    write_score(run, RunScore.model_validate(empty_score()))
    with score_lock(run):
        assert not is_offered()


def test_a_run_that_is_being_scored_is_not_deleted(run, tmp_path):
    """What scores it would write its record into a folder that is gone, and make it again."""
    console = open_console(tmp_path / "ws")
    write_score(run, RunScore.model_validate(empty_score()))
    with score_lock(run), pytest.raises(UserError, match="is being scored"):
        console.delete(run.path.name)
    console.delete(run.path.name)
    assert console.list() == ()


@pytest.mark.parametrize("name", ["resume", "score"])
def test_a_server_that_starts_no_trainings_resumes_and_scores_none(run, tmp_path, name):
    state = "interrupted" if name == "resume" else "succeeded"
    run_id = write_run(tmp_path / "ws", state=state).path.name
    services = app.open_runs(app.Settings(workspace=tmp_path / "ws", trainings=False))
    handlers = RunsHandlers(services, is_offered=lambda run: True)
    place = {"resume": 1, "score": 4}[name]
    assert not handlers.open(run_id)[1]["buttons"][place].visible
    with pytest.raises(gr.Error, match="starts no trainings"):
        handlers.act(name, run_id)
    with pytest.raises(gr.Error, match="starts no trainings"):
        getattr(RunEndpoints(services), f"train_{name}")(run_id)
    usual = replace(services, refusal="")
    handlers = RunsHandlers(usual, is_offered=lambda run: True)
    assert handlers.open(run_id)[1]["buttons"][place].visible


def empty_score() -> dict:
    """As asked for long ago."""
    return {
        "started": "2026-01-01T00:00:00Z",
        "num_pictures": 4,
        "num_prompts": 2,
        "scale": 5,
        "alpha": 0.5,
    }
