"""Votes for programs: every action as a named endpoint with named parameters."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.votes import Collection, Match
from training.votes.store import DEFAULT_NAME
from ui.scoreboard.board import LEVELS, PEOPLE, plain, read_board
from ui.services import Services
from ui.tickets import QUEUE
from ui.told import told
from ui.vote.cards import MIN_WINNERS, shown_pixels
from ui.vote.desk import VoteDesk
from ui.vote.handlers import CHOICES, NO_ANSWER
from ui.vote.values import Asked, read_asked


class VoteEndpoints:
    """The functions behind the API; errors that a person can mend come as `gr.Error`."""

    def __init__(self, services: Services, desk: VoteDesk) -> None:
        self._services = services
        self._desk = desk

    def vote_next(
        self, contestants: Any, prompts: str, collection: str, voter: str, request: gr.Request
    ) -> Iterator[tuple[str | None, str | None, dict[str, Any]]]:
        """Give the next match, blind: two pictures, left and right, and its id to vote on."""
        session, ticket = request.session_hash or "", threading.Event()
        with told():
            try:
                asked, home = self._open(contestants, prompts, collection, voter)
                match = self._desk.take(home, asked.ballot, session=session)
                if match is None:
                    for event in self._desk.make(home, asked.ballot, ticket):
                        yield None, None, {"step": event.step, "num_steps": event.num_steps}
                    match = self._desk.take(home, asked.ballot, session=session)
                if match is None:
                    raise UserError("The match was not made. Try again.")
                with tempfile.TemporaryDirectory() as folder:
                    yield _given(match, home, Path(folder))
            finally:
                ticket.set()

    def vote(self, match: str, choice: str, voter: str) -> dict[str, Any]:
        """Answer a match: left, right, tie or skip. The first answer to a match counts."""
        with told():
            if choice not in CHOICES:
                raise UserError(f"{NO_ANSWER} (given: {choice!r:.40}).")
            home = self._services.votes.find(match)
            cast = home.vote(match, choice, voter=str(voter or "")[:80])
            return {
                "match": match,
                "counted": cast.is_new,
                "choice": cast.vote.choice,
                "left": cast.match.left.model_dump(mode="json"),
                "right": cast.match.right.model_dump(mode="json"),
                "repeats": cast.match.repeats,
                **_counts(home),
            }

    def vote_undo(self, match: str) -> dict[str, Any]:
        """Take an answer back; its match is open again."""
        with told():
            home = self._services.votes.find(match)
            cast = home.undo(match)
            return {"match": match, "taken_back": cast.vote.choice, **_counts(home)}

    def votes_list(self) -> list[dict[str, Any]]:
        """List the collections of votes, the newest first."""
        with told():
            return [
                {"id": each.id, "name": each.record().name, **_counts(each)}
                for each in self._services.votes.collections()
            ]

    def leaderboard(self, level: str, judge: str, collection: str) -> dict[str, Any]:
        """Rate methods, settings or runs, with intervals, by people or by a scorer."""
        with told():
            store = self._services.votes
            return plain(read_board(store, level=level, judge=judge, collection=collection))

    def _open(
        self, contestants: Any, prompts: str, collection: str, voter: str
    ) -> tuple[Asked, Collection]:
        kept = {
            "contestants": contestants,
            "source": "own" if prompts else None,
            "prompts": prompts,
            "collection": collection,
            "voter": voter,
        }
        asked = read_asked(kept, self._services.models())
        return asked, self._services.votes.named(asked.collection)


def add_vote_endpoints(services: Services, desk: VoteDesk) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = VoteEndpoints(services, desk)
    with gr.Column(visible=False):
        contestants = gr.JSON([], label="Contestants: method, model, scale, alpha, num_steps each")
        prompts = gr.Textbox("", label="Prompts, one per line; none: the Shapes grammar")
        name = gr.Textbox(DEFAULT_NAME, label="Name of the collection")
        voter = gr.Textbox("", label="Your name")
        match = gr.Textbox(label="Id of the match")
        choice = gr.Textbox(label=f"Answer: {', '.join(CHOICES)}")
        level = gr.Textbox("method", label=f"What is told apart: {', '.join(LEVELS)}")
        judge = gr.Textbox(PEOPLE, label="people, or the name of a scorer")
        collection = gr.Textbox("", label="Id of a collection; empty: all votes")
        left, right = (gr.Image(format="png", type="filepath") for _ in range(2))
        answer = gr.JSON()
    gr.on(
        [],
        endpoints.vote_next,
        [contestants, prompts, name, voter],
        [left, right, answer],
        api_name="vote_next",
        api_description=endpoints.vote_next.__doc__,
        concurrency_id=QUEUE,
        concurrency_limit=services.num_at_once,
    )
    table = {
        "vote": {"match": match, "choice": choice, "voter": voter},
        "vote_undo": {"match": match},
        "votes_list": {},
        "leaderboard": {"level": level, "judge": judge, "collection": collection},
    }
    for api_name, inputs in table.items():
        function = getattr(endpoints, api_name)
        gr.on(
            [],
            function,
            outputs=answer,
            inputs_kwargs=inputs,
            api_name=api_name,
            api_description=function.__doc__,
        )


def _given(match: Match, home: Collection, folder: Path) -> tuple[str, str, dict[str, Any]]:
    paths = []
    for side, name in (("left", match.left_picture), ("right", match.right_picture)):
        paths.append(str(folder / f"{side}.png"))
        shown_pixels(home.picture(name)).save(paths[-1])
    return *paths, {"match": match.id, "prompt": match.prompt}


def _counts(collection: Collection) -> dict[str, Any]:
    tally, dataset = collection.tally(), collection.dataset()
    return {
        "num_votes": len(tally.votes),
        "num_preferences": tally.num_winners,
        "num_missing": max(0, MIN_WINNERS - tally.num_winners),
        "dataset": dataset.id if dataset else None,
    }
