"""The Vote tab: two pictures, two keys, the next match at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chats.shapes import SHAPES_MODEL
from ui.services import Services
from ui.tickets import QUEUE
from ui.told import told
from ui.vote.desk import VoteDesk
from ui.vote.form import build_form
from ui.vote.handlers import VoteHandlers
from ui.vote.values import before_after, default_kept

# Gradio needs a fixed value to read the form again after a restart; nothing secret is stored.
STORAGE_SECRET = "chats"
QUICK_RECIPE = "shapes_votes"

_PRESSED = "(pressed, kept) => [window.chats.vote.take(), kept]"
_SEEN = "(seen, kept) => window.chats.vote.asked(window.chats.vote.seen(), kept)"
_WANTED = "(wanted, kept) => window.chats.vote.asked(window.chats.vote.wanted(), kept)"
_STARTED = "() => { window.chats.vote.isStarting = false; }"
_RUN = "(run, kept) => [window.chats.vote.run, kept]"


@dataclass(frozen=True)
class VoteTab:
    """What other tabs connect to."""

    train: gr.Button
    """The button that asks for a training on the votes."""
    to_train: Callable[..., dict[str, Any]]
    """From what the browser keeps of the tab to what it keeps of the Train form."""
    kept: gr.BrowserState
    """What the browser keeps of the tab."""


def kept_votes() -> gr.BrowserState:
    """Have the browser keep what it votes on; place it outside of tabs, which open late."""
    return gr.BrowserState(None, storage_key="chats-vote", secret=STORAGE_SECRET)


def build_vote(
    services: Services, desk: VoteDesk, *, page: gr.Blocks, tab: gr.Tab, kept: gr.BrowserState
) -> VoteTab:
    """Lay out the tab and connect its handlers.

    Args:
        services: what the page is given; it has votes.
        desk: hands out matches.
        page: the page.
        tab: the tab that this stands in.
        kept: what the browser keeps.
    """
    handlers = VoteHandlers(services, services.votes, desk)
    form = build_form(services.models())
    box = gr.Textbox(visible=False)
    hidden = {
        name: gr.Button(visible="hidden", elem_id=f"vote-{name}")
        for name in ("cast", "undo", "rematch")
    }
    shown = [form.arena, form.told, form.status, form.stop, form.count, form.train]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    quick = {**quiet, "queue": False}

    def fill(seen: str, value: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        for view in handlers.fill(value, request, seen=seen or ""):
            yield view.updates()

    def follow(event: Any) -> None:
        """Make what is missing, in the one queue of all who want pictures."""
        filled = event.then(
            fill,
            [box, kept],
            shown,
            js=_SEEN,
            trigger_mode="multiple",
            concurrency_id=QUEUE,
            concurrency_limit=services.num_at_once,
            **quiet,
        )
        filled.failure(lambda: handlers.refuse().updates(), None, shown, **quick)

    def cast(pressed: str, value: Any, request: gr.Request) -> tuple[Any, ...]:
        return handlers.cast(pressed, value, request).updates()

    def undo(pressed: str, value: Any, request: gr.Request) -> tuple[Any, ...]:
        return handlers.undo(pressed, value, request).updates()

    def halt(request: gr.Request) -> tuple[Any, ...]:
        return handlers.halt(request).updates()

    def start(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        value = form.kept(values)
        view = handlers.begin(value, request)
        return (value, gr.Accordion(open=view.arena is None), *view.updates())

    def resume(wanted: str, value: Any, request: gr.Request) -> tuple[Any, ...]:
        if value is None:
            return (gr.skip(),) * (1 + len(shown))
        view = handlers.resume(value, request, wanted=wanted or "")
        return (gr.Accordion(open=view.arena is None), *view.updates())

    def fields(value: Any) -> list[Any]:
        return form.shown(value, services.models())

    def rematch(run: str, value: Any, request: gr.Request) -> tuple[Any, ...]:
        models = services.models()
        with told():
            contestants = before_after(run, models)
        known = value if isinstance(value, dict) else {}
        asked = {**default_kept(models), **known, "contestants": contestants}
        view = handlers.begin(asked, request)
        return (asked, gr.Accordion(open=False), *form.shown(asked, models), *view.updates())

    follow(form.start.click(start, form.inputs, [kept, form.setup, *shown], **quick))
    for name, act in (("cast", cast), ("undo", undo)):
        follow(hidden[name].click(act, [box, kept], shown, js=_PRESSED, **quick))
    started = hidden["rematch"].click(
        rematch, [box, kept], [kept, form.setup, *form.inputs, *shown], js=_RUN, **quick
    )
    follow(started.then(None, js=_STARTED, api_visibility="private"))
    follow(tab.select(resume, [box, kept], [form.setup, *shown], js=_WANTED, **quick))
    form.stop.click(halt, None, shown, **quick)
    page.load(fields, kept, form.inputs, **quick)
    page.unload(handlers.leave)

    def to_train(value: Any, request: gr.Request) -> dict[str, Any]:
        with told(title="Not enough votes"):
            dataset = handlers.data_to_train(value, request)
        # Other models keep the settings of the form: no recipe suits them all.
        suits = services.models()[0].name == SHAPES_MODEL
        start = {"name": QUICK_RECIPE, "settings": None} if suits else None
        return {"data": dataset, "start": start}

    return VoteTab(form.train, to_train, kept)


def train_on_votes(vote: VoteTab, *, saved: gr.BrowserState, refill: Callable[[Any], Any]) -> None:
    """Have the button fill the Train form with the votes and a recipe that suits them.

    Args:
        vote: the tab of the button.
        saved: what the browser keeps of the Train form.
        refill: fills the form from that, after an event.
    """
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    asked = vote.train.click(vote.to_train, vote.kept, saved, queue=False, **quiet)
    opened = "() => { window.chats.vote.openTab('Train'); }"
    refill(asked).success(None, None, None, js=opened, api_visibility="private")
