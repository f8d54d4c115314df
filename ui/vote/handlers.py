"""What happens when a person votes; values in, parts of the page out.

Votes are answered at once, outside of the queue in which pictures are made; the next match is
made while the person looks at the present one.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.votes import Collection, Match, VoteStore
from ui.compare.cards import Status, render_status
from ui.services import Services
from ui.tickets import Tickets
from ui.vote.cards import (
    INTRO,
    MIN_WINNERS,
    WAITING,
    render_cast,
    render_count,
    render_match,
    render_undone,
    render_wrong,
    train_label,
)
from ui.vote.desk import VoteDesk
from ui.vote.values import Asked, read_asked
from ui.vote.words import FULL, IDLE, READY, STOPPED, making

CHOICES = ("left", "right", "tie", "skip")
NO_ANSWER = "An answer is one of: left, right, tie, skip"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """What changes on the page; none: it stays."""

    arena: str | None = None
    told: str | None = None
    status: Status | None = None
    can_stop: bool | None = None
    collection: Collection | None = None

    def updates(self) -> tuple[Any, ...]:
        """Return a value for arena, told, status, Stop, count, Train."""
        shown = [gr.skip() if each is None else each for each in (self.arena, self.told)]
        status = gr.skip() if self.status is None else render_status(self.status)
        stop = gr.skip() if self.can_stop is None else gr.Button(visible=self.can_stop)
        if self.collection is None:
            return (*shown, status, stop, gr.skip(), gr.skip())
        tally = self.collection.tally()
        train = gr.Button(
            train_label(tally.num_winners), interactive=tally.num_winners >= MIN_WINNERS
        )
        return (*shown, status, stop, render_count(tally), train)


class VoteHandlers:
    """Answers the tab; what it votes on is kept by the browser and sent with every press."""

    def __init__(self, services: Services, store: VoteStore, desk: VoteDesk) -> None:
        self._services = services
        self._store = store
        self._desk = desk
        self._tickets = Tickets()

    def begin(self, kept: Any, request: gr.Request) -> View:
        """End what the tab is doing, and ask a question anew."""
        self._tickets.begin(_session(request))
        return self.resume(kept, request)

    def resume(self, kept: Any, request: gr.Request, *, wanted: str = "") -> View:
        """Show the match that is ready, or say that one is being made."""
        try:
            asked, collection = self._open(kept, request)
            match = self._take(asked, collection, request, wanted=wanted)
        except UserError as error:
            return View(status=Status("error", str(error)), can_stop=False)
        return self._facing(match, collection, told="")

    def fill(self, kept: Any, request: gr.Request, *, seen: str = "") -> Iterator[View]:
        """Make a match if none is shown, then one ahead; `seen` is the one that the tab shows."""
        if kept is None:  # nobody has started yet
            yield View()
            return
        session = _session(request)
        ticket = self._tickets.start(session)
        try:
            asked, collection = self._open(kept, request)
            match = self._take(asked, collection, request)
            if match is None:
                for event in self._desk.make(collection, asked.ballot, ticket):
                    yield View(status=making(event, is_ahead=False), can_stop=True)
                match = self._take(asked, collection, request)
            if match is None:
                yield View(arena=INTRO, status=STOPPED, can_stop=False)
                return
            arena = None if match.id == seen else render_match(match, collection)
            yield View(arena, can_stop=False, collection=collection)
            if not ticket.is_set() and not self._desk.is_ahead(collection, asked.ballot):
                for event in self._desk.make(collection, asked.ballot, ticket):
                    yield View(status=making(event, is_ahead=True))
            if not ticket.is_set():
                yield View(status=READY)
        except UserError as error:
            yield View(status=Status("error", str(error)), can_stop=False)
        except Exception as error:
            logger.exception("A match could not be made")
            text = f"The pictures could not be made: {type(error).__name__}: {error}"
            detail = "Your votes are kept; the server's log has the details."
            yield View(status=Status("error", text, detail), can_stop=False)
        finally:
            self._tickets.finish(session, ticket)

    def cast(self, pressed: str, kept: Any, request: gr.Request) -> View:
        """Keep an answer for good, say what had made which picture, and show the next match."""
        try:
            match_id, choice = read_pressed(pressed)
            asked, _ = self._open(kept, request)
            collection = self._store.find(match_id)
            cast = collection.vote(match_id, choice, voter=asked.voter)
            told = render_cast(cast, collection.tally())
            match = self._take(asked, collection, request)
        except UserError as error:
            return View(told=render_wrong(str(error)))
        return self._facing(match, collection, told=told)

    def undo(self, pressed: str, kept: Any, request: gr.Request) -> View:
        """Take back the answer that the tab gave last, else the voter's last one."""
        try:
            asked, collection = self._open(kept, request)
            cast = collection.undo(self._last(pressed, asked, collection))
            match = self._take(asked, collection, request, wanted=cast.match.id)
        except UserError as error:
            return View(told=render_wrong(str(error)))
        return self._facing(match, collection, told=render_undone(cast))

    def halt(self, request: gr.Request) -> View:
        """End the making of pictures."""
        self._tickets.stop(_session(request))
        return View(status=STOPPED, can_stop=False)

    def leave(self, request: gr.Request) -> None:
        """End and forget what a tab that is closed was doing."""
        self._tickets.leave(_session(request))
        self._desk.leave(_session(request))

    def refuse(self) -> View:
        """Say that the request for pictures never reached the queue."""
        return View(status=FULL, can_stop=False)

    def data_to_train(self, kept: Any, request: gr.Request) -> str:
        """Return the id of the data set that holds the preferences.

        Raises:
            UserError: There are too few.
        """
        _, collection = self._open(kept, request)
        tally, dataset = collection.tally(), collection.dataset()
        if dataset is None or tally.num_winners < MIN_WINNERS:
            raise UserError(train_label(tally.num_winners) + ".")
        return dataset.id

    def _open(self, kept: Any, request: gr.Request) -> tuple[Asked, Collection]:
        login = getattr(request, "username", None) or ""
        asked = read_asked(kept, self._services.models(), login=login)
        return asked, self._store.named(asked.collection)

    def _take(
        self, asked: Asked, collection: Collection, request: gr.Request, *, wanted: str = ""
    ) -> Match | None:
        return self._desk.take(collection, asked.ballot, session=_session(request), wanted=wanted)

    def _facing(self, match: Match | None, collection: Collection, *, told: str) -> View:
        if match is None:
            status = making(None, is_ahead=False)
            return View(WAITING, told, status, can_stop=True, collection=collection)
        return View(render_match(match, collection), told, IDLE, collection=collection)

    def _last(self, pressed: str, asked: Asked, collection: Collection) -> str:
        match_id = _parsed(pressed).get("cast")
        votes = collection.tally().votes
        if isinstance(match_id, str) and match_id:
            return match_id
        own = [each for each, vote in votes.items() if vote.voter == asked.voter]
        if not own:
            raise UserError("There is no vote of yours to take back.")
        return own[-1]


def read_pressed(pressed: str) -> tuple[str, Any]:
    """Return the match and the answer that a browser sends.

    Raises:
        UserError: it is no answer.
    """
    said = _parsed(pressed)
    match_id, choice = said.get("match"), said.get("choice")
    if not isinstance(choice, str) or choice not in CHOICES:
        raise UserError(f"{NO_ANSWER} (given: {choice!r:.40}).")
    if not isinstance(match_id, str):
        raise UserError("The answer names no match.")
    return match_id, choice


def _parsed(pressed: Any) -> Mapping[str, Any]:
    try:
        said = json.loads(pressed)
    except (TypeError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, Mapping) else {}


def _session(request: gr.Request) -> str:
    return request.session_hash or ""
