"""The Runs tab: its components connected with what they do."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from ui.compare.form import pair_choices
from ui.compare.values import find_model
from ui.runs.handlers import RunsHandlers, Seen
from ui.runs.layout import Layout, lay_out
from ui.runs.view import Asked
from ui.services import Services
from ui.told import told
from ui.train.tab import TakeUp

OPENED = "(run, ...rest) => [window.chats.runs.opened(), ...rest]"
"""Which run is open is known to the browser alone: it stands in the page's address."""
KILL = "Kill this run? What it has not saved is lost."
DELETE = "Delete this run for ever, with all that it made?"


def build_runs(
    services: Services,
    *,
    page: gr.Blocks,
    tab: gr.Tab,
    pair: gr.Dropdown,
    take_up: TakeUp | None,
) -> None:
    """Lay out the tab and connect its handlers.

    Args:
        services: What the page is given; it has runs.
        page: The page.
        tab: The tab that this stands in.
        pair: Where Compare's pair is chosen.
        take_up: Connects what fills the Train tab from a run; none where there is none.
    """
    handlers = RunsHandlers(
        services.runs,
        is_offered=lambda run: any(model.run == run for model in services.models()),
        can_rerun=take_up is not None,
    )
    layout = lay_out()
    if take_up:
        take_up(layout.buttons["rerun"], layout.asked[0], OPENED)
    seen = gr.State({})
    poll, go = (gr.Button(visible="hidden", elem_id=f"runs-{name}") for name in ("poll", "open"))
    others, _, step, _, search = layout.asked[1:]
    shown = [*layout.views, *(each for group in layout.parts.values() for each in group)]
    quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def updates(changes: dict[str, Any]) -> list[Any]:
        """Return a value for each of `shown`."""
        page_is_open = changes.pop("views", gr.skip())
        found = [page_is_open, page_is_open]
        if isinstance(page_is_open, bool):
            found = [gr.Column(visible=not page_is_open), gr.Column(visible=page_is_open)]
        for name, group in layout.parts.items():
            value = changes.get(name)
            several = value if isinstance(value, list) else [value]
            found += several if name in changes else [gr.skip()] * len(group)
        return found

    def follow(*values: Any) -> list[Any]:
        *asked, known = values
        changes, now = handlers.changes(_asked(asked, known), known)
        return [now, *updates(changes)]

    def open_run(run: str) -> list[Any]:
        asked, changes, now = handlers.open(run)
        offers = handlers.choices(asked.run)
        menu = gr.Dropdown(choices=offers, value=[], visible=bool(offers))
        return [now, *updates(changes), menu, ""]

    inputs, outputs = [*layout.asked, seen], [seen, *shown]
    opening = {"inputs": layout.asked[0], "outputs": [*outputs, others, search], **quiet}
    poll.click(follow, inputs, outputs, js=OPENED, **quiet)
    go.click(open_run, js=OPENED, trigger_mode="always_last", **opening)
    page.load(open_run, js="(run) => [window.chats.runs.start()]", **opening)
    tab.select(follow, inputs, outputs, js=OPENED, **quiet)
    for event in (others.change, layout.asked[2].input, layout.asked[4].input, search.submit):
        event(follow, inputs, outputs, js=OPENED, trigger_mode="always_last", **quiet)
    step.input(follow, inputs, outputs, js=OPENED, trigger_mode="always_last", **quiet)

    for name, button in layout.buttons.items():
        if name == "rerun":
            continue
        act = _acting(handlers, name, follow, num_outputs=len(outputs))
        button.click(act, inputs, outputs, js=_pressed(name), **quiet)
    _connect_pair(services, handlers, layout, pair=pair, quiet=quiet)


def _connect_pair(
    services: Services,
    handlers: RunsHandlers,
    layout: Layout,
    *,
    pair: gr.Dropdown,
    quiet: dict[str, Any],
) -> None:
    """Connect what is done with a finished run's pair and with its log."""
    opened, file = layout.asked[0], layout.asked[4]

    def use(run: str) -> gr.Dropdown:
        models = services.models()
        with told():
            chosen = find_model(run, models)
        return gr.Dropdown(choices=pair_choices(models), value=chosen.id, visible=True)

    used = layout.use.click(use, opened, pair, js=OPENED, **quiet)
    used.success(None, js="() => window.chats.runs.tab('Compare')", api_visibility="private")
    name, private, button, answer = layout.push
    button.click(handlers.push, [opened, name, private], answer, js=OPENED, **quiet)
    made = layout.download.click(handlers.download, [opened, file], layout.file, js=OPENED, **quiet)
    made.success(None, js="() => window.chats.runs.save()", api_visibility="private")


def _asked(values: list[Any], seen: Seen) -> Asked:
    """Read what a browser says; pictures follow the training as long as the newest are shown."""
    run, others, smoothing, step, file, search = values
    before = (seen.get("step") or ("", ()))[1]
    follows = not before or step is None or step >= before[-1]
    return Asked(
        run=run or "",
        others=tuple(others or ()),
        smoothing=smoothing,
        step=None if follows else int(step),
        file="output" if file == "output" else "log",
        search=search or "",
    )


def _acting(
    handlers: RunsHandlers, name: str, follow: Callable[..., list[Any]], *, num_outputs: int
) -> Callable[..., list[Any]]:
    """Return what a button does: act, then show what became of it."""

    def act(*values: Any) -> list[Any]:
        if not values[0]:  # the person thought better of it
            return [gr.skip()] * num_outputs
        handlers.act(name, values[0])
        return follow(*values)

    return act


def _pressed(name: str) -> str:
    question = {"kill": KILL, "delete": DELETE}.get(name)
    if question is None:
        return OPENED
    return f"(run, ...rest) => [confirm({question!r}) ? window.chats.runs.opened() : '', ...rest]"
