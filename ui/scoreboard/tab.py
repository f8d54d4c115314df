"""The Scoreboard tab: what people and scorers prefer, with honest intervals."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.votes.scores import score_matches
from ui.compare.cards import Status, render_status
from ui.html import plain_html
from ui.scoreboard.board import ALL, JUDGES, PEOPLE, find_collections, read_board
from ui.scoreboard.cards import render_board, render_runs
from ui.services import Services
from ui.tickets import QUEUE
from ui.told import told

_LEVELS = (("Methods", "method"), ("Settings", "setting"), ("Runs", "run"))


class ScoreboardHandlers:
    """Answers the tab."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def show(self, level: str, judge: str, collection: str) -> tuple[Any, ...]:
        """Draw the scoreboard, offer its collections, and what is not scored yet."""
        store = self._services.votes
        known = [(each.record().name, each.id) for each in store.collections()]
        collection = collection if collection in [each for _, each in known] else ALL
        with told():
            board = read_board(store, level=level, judge=judge, collection=collection)
        return (
            gr.Dropdown(choices=[("All votes", ALL), *known], value=collection),
            render_board(board),
            render_runs(self._services.models()),
            gr.Button(f"Score {board.num_missing:,} matches", visible=board.num_missing > 0),
        )

    def score(self, judge: str, collection: str) -> Iterator[str]:
        """Have a scorer judge the pictures that people voted on."""
        try:
            if judge == PEOPLE or judge not in JUDGES:
                raise UserError("Choose a scorer first.")
            yield render_status(Status("busy", f"Loading {JUDGES[judge]}…"))
            for each in find_collections(self._services.votes, collection):
                for done, all_of in score_matches(each, judge, self._services.score(judge)):
                    text = f"{done:,} of {all_of:,} matches scored"
                    fraction = done / all_of if all_of else 1.0
                    yield render_status(Status("busy", text, fraction=fraction))
            yield render_status(Status("done", "Scored."))
        except UserError as error:
            yield render_status(Status("error", str(error)))


def build_scoreboard(services: Services, *, tab: gr.Tab) -> None:
    """Lay out the tab and connect its handlers."""
    handlers = ScoreboardHandlers(services)
    judges = list(JUDGES) if services.score else [PEOPLE]
    with gr.Row(elem_classes="board-dials"):
        level = gr.Radio(
            list(_LEVELS), value="method", label="Tell apart", elem_id="board-level", min_width=220
        )
        judge = gr.Dropdown(
            [(JUDGES[name], name) for name in judges],
            value=PEOPLE,
            label="Judged by",
            elem_id="board-judge",
            min_width=160,
        )
        collection = gr.Dropdown(
            [("All votes", ALL)],
            value=ALL,
            label="Votes",
            elem_id="board-collection",
            min_width=160,
        )
    score = gr.Button("Score", visible=False, size="sm", min_width=0, elem_id="board-score")
    status = plain_html("", elem_id="board-status")
    board = plain_html("", elem_id="board")
    runs = plain_html("", elem_id="board-runs")
    asked, shown = [level, judge, collection], [collection, board, runs, score]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    for event in (tab.select, level.input, judge.input, collection.input):
        event(handlers.show, asked, shown, trigger_mode="always_last", **quiet)
    scored = score.click(
        handlers.score,
        [judge, collection],
        status,
        concurrency_id=QUEUE,
        concurrency_limit=services.num_at_once,
        **quiet,
    )
    scored.then(handlers.show, asked, shown, **quiet)
