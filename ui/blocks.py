"""The page as a whole: header, tabs, and the named endpoints."""

import time
from collections.abc import Iterator
from html import escape

import gradio as gr

from ui.compare.cards import render_model_status
from ui.compare.endpoints import add_endpoints
from ui.compare.tab import build_compare
from ui.data.tab import build_data
from ui.evaluate.endpoints import add_evaluate_endpoints
from ui.evaluate.tab import build_evaluate
from ui.html import plain_html
from ui.lab.endpoints import add_lab_endpoints
from ui.lab.tab import build_lab, kept_sweep
from ui.models.endpoints import add_model_endpoints
from ui.models.tab import build_models
from ui.runs.endpoints import add_run_endpoints
from ui.runs.tab import build_runs
from ui.scoreboard.tab import build_scoreboard
from ui.services import Services
from ui.train.endpoints import add_train_endpoints
from ui.train.tab import build_train, kept_form
from ui.vote.desk import VoteDesk
from ui.vote.endpoints import add_vote_endpoints
from ui.vote.tab import build_vote, kept_votes, train_on_votes

TITLE = "CHATS"
SENTENCE = "One prompt, one seed, sampled with and without human preferences, side by side."
KEEP_FILES_SECONDS = 24 * 3600
POLL_SECONDS = 0.5

FOOTER = '<p class="colophon"><a href="?view=api">Use this page from a program</a></p>'
HEADER = f'<div class="masthead"><h1>{TITLE}</h1><p>{SENTENCE}</p></div>'


def build_ui(services: Services) -> gr.Blocks:
    """Build the page around what the rest of the program offers.

    Theme, style and script belong to `launch`: see `ui.look.launch_options`.
    """
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, KEEP_FILES_SECONDS))
    with page:
        with gr.Row(elem_classes="top"):
            plain_html(HEADER, elem_classes="masthead-box")
            pill = plain_html(render_model_status(services.status()), elem_id="chats-model")
        for notice in services.notices:
            plain_html(f'<p class="server-notice" role="note">{escape(notice)}</p>')
        saved, swept, voted = kept_form(), kept_sweep(), kept_votes()
        desk = VoteDesk(services)
        refill, vote = None, None
        with gr.Tabs(elem_id="chats-tabs"):
            with gr.Tab("Compare", id="compare"):
                compare = build_compare(services, page=page)
            if services.lab:
                with gr.Tab("Alpha lab", id="lab") as lab:
                    build_lab(services, page=page, tab=lab, saved=swept, compare=compare)
            if services.votes:
                with gr.Tab("Vote", id="vote") as voting:
                    vote = build_vote(services, desk, page=page, tab=voting, kept=voted)
                with gr.Tab("Scoreboard", id="scoreboard") as board:
                    build_scoreboard(services, tab=board)
            if services.datasets:
                with gr.Tab("Data", id="data") as tab:
                    build_data(services, tab=tab)
            take_up = None
            if services.desk:
                with gr.Tab("Train", id="train") as train:
                    take_up, refill = build_train(services.desk, page=page, tab=train, saved=saved)
            if services.runs:
                with gr.Tab("Runs", id="runs") as runs:
                    build_runs(
                        services,
                        page=page,
                        tab=runs,
                        pair=compare.fields["model"],
                        take_up=take_up,
                    )
            if services.evaluations:
                with gr.Tab("Evaluate", id="evaluate") as evaluate:
                    build_evaluate(services.evaluations, services.runs, tab=evaluate)
            if services.shelf:
                with gr.Tab("Models", id="models") as models:
                    build_models(services.shelf, tab=models)
        if vote and refill:
            train_on_votes(vote, saved=saved, refill=refill)
        plain_html(FOOTER)
        add_endpoints(services)
        if services.lab:
            add_lab_endpoints(services)
        if services.shelf:
            add_model_endpoints(services.shelf)
        if services.desk:
            add_train_endpoints(services.desk)
        if services.runs:
            add_run_endpoints(services.runs)
        if services.votes:
            add_vote_endpoints(services, desk)
        if services.evaluations:
            add_evaluate_endpoints(services.evaluations, services.runs)
        _follow_model(services, page=page, pill=pill)
    return page.queue(max_size=32)


def _follow_model(services: Services, *, page: gr.Blocks, pill: gr.HTML) -> None:
    """Show how far loading is until it is done; then nothing asks any more."""

    def follow() -> Iterator[str]:
        while (status := services.status()).state == "loading":
            yield render_model_status(status)
            time.sleep(POLL_SECONDS)
        yield render_model_status(status)

    page.load(
        follow,
        None,
        pill,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
