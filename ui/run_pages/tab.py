"""The Runs tab, laid out and connected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ui.compare_form import pair_choices
from ui.form import find_model
from ui.html import plain_html
from ui.run_pages.handlers import RunsHandlers, Seen
from ui.run_pages.view import BUTTONS, Asked
from ui.services import Services
from ui.told import told

OPENED = "(run, ...rest) => [window.chats.runs.opened(), ...rest]"
"""Which run is open is known to the browser alone: it stands in the page's address."""
KILL = "Kill this training? What came after its last checkpoint is lost."
DELETE = "Delete this run for ever, with its checkpoints, pictures and pair?"

LABELS = {"stop": "Stop and save", "kill": "Kill", "resume": "Resume", "delete": "Delete"}
VARIANTS = {"stop": "secondary", "resume": "primary"}


@dataclass(frozen=True)
class _Layout:
    """The components, by what they are for."""

    asked: list[Component]
    """What a browser says it wants to see; see `Asked`."""
    views: tuple[gr.Column, gr.Column]
    parts: dict[str, list[Any]]
    buttons: dict[str, gr.Button]
    use: gr.Button
    push: tuple[gr.Textbox, gr.Checkbox, gr.Button, gr.HTML]
    download: gr.Button
    file: gr.DownloadButton


def build_runs(services: Services, *, page: gr.Blocks, tab: gr.Tab, pair: gr.Dropdown) -> None:
    """Lay out the tab and connect its handlers.

    Args:
        services: What the page is given; it has runs.
        page: The page.
        tab: The tab that this stands in.
        pair: Where Compare's pair is chosen.
    """
    handlers = RunsHandlers(
        services.runs,
        is_offered=lambda run: any(model.run == run for model in services.models()),
    )
    layout = _lay_out()
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
        menu = gr.Dropdown(choices=handlers.choices(asked.run), value=[])
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
        act = _acting(handlers, name, follow, num_outputs=len(outputs))
        button.click(act, inputs, outputs, js=_pressed(name), **quiet)
    _connect_pair(services, handlers, layout, pair=pair, quiet=quiet)


def _lay_out() -> _Layout:
    opened = gr.Textbox(visible=False)
    with gr.Column(elem_id="runs-page"):
        place = plain_html("")
        with gr.Column(elem_classes="runs-list") as list_view:
            active, ended = plain_html(""), plain_html("")
        with gr.Column(visible=False, elem_classes="run-page") as page_view:
            plain_html('<p class="back"><a href="?" data-run="">All runs</a></p>')
            head = plain_html("")
            with gr.Row(elem_classes="run-buttons"):
                use = gr.Button(
                    "Use this pair",
                    variant="primary",
                    elem_id="runs-use",
                    size="md",
                    visible=False,
                    min_width=0,
                )
                buttons = {
                    name: gr.Button(
                        LABELS[name],
                        variant=VARIANTS.get(name, "stop"),
                        elem_id=f"runs-{name}",
                        visible=False,
                        size="md",
                        min_width=0,
                    )
                    for name in BUTTONS
                }
            with gr.Accordion("Push to the Hub", open=False, visible=False) as pushing:
                push = _push_form()
            with gr.Row(elem_classes="curve-dials"):
                others = gr.Dropdown(
                    [],
                    value=[],
                    multiselect=True,
                    label="Lay over",
                    info="Curves and settings of other runs",
                    elem_id="runs-others",
                    scale=3,
                )
                smoothing = gr.Slider(
                    0,
                    0.98,
                    value=0.6,
                    step=0.02,
                    label="Smoothing",
                    buttons=[],
                    min_width=160,
                    info="Raw values stay faintly behind",
                    elem_id="runs-smoothing",
                )
            curves = plain_html("", elem_id="runs-curves")
            with gr.Column(visible=False) as sample_box:
                plain_html("<h3>Pictures on the way</h3>")
                step = gr.Slider(
                    0,
                    1,
                    value=0,
                    step=1,
                    label="Step",
                    buttons=[],
                    elem_id="runs-step",
                    visible=False,
                )
                samples = plain_html("", elem_id="runs-samples")
            with gr.Row(elem_classes="log-dials"):
                plain_html("<h3>Log</h3>")
                file = gr.Radio(
                    [("Log", "log"), ("All output", "output")],
                    value="log",
                    show_label=False,
                    container=False,
                    elem_id="runs-file",
                )
                search = gr.Textbox(
                    placeholder="Find in the whole log",
                    show_label=False,
                    container=False,
                    max_length=200,
                    elem_id="runs-search",
                    min_width=140,
                )
                download = gr.Button("Download", size="sm", min_width=0, elem_id="runs-download")
            log = plain_html("", elem_id="runs-log")
            with gr.Accordion("Settings", open=False, elem_id="runs-settings"):
                settings = plain_html("")
    sent = gr.DownloadButton(visible="hidden", elem_id="runs-sent")
    return _Layout(
        asked=[opened, others, smoothing, step, file, search],
        views=(list_view, page_view),
        parts={
            "place": [place],
            "active": [active],
            "ended": [ended],
            "head": [head],
            "buttons": [use, *buttons.values(), pushing],
            "curves": [curves],
            "sample_box": [sample_box],
            "step": [step],
            "samples": [samples],
            "log": [log],
            "settings": [settings],
        },
        buttons=buttons,
        use=use,
        push=push,
        download=download,
        file=sent,
    )


def _push_form() -> tuple[gr.Textbox, gr.Checkbox, gr.Button, gr.HTML]:
    with gr.Row(elem_classes="push-row"):
        name = gr.Textbox(
            label="Repository", placeholder="owner/name", elem_id="runs-repo", min_width=180
        )
        private = gr.Checkbox(True, label="Private", container=False, min_width=80)
        button = gr.Button("Push", elem_id="runs-push", min_width=0)
    return name, private, button, plain_html("", elem_id="runs-pushed")


def _connect_pair(
    services: Services,
    handlers: RunsHandlers,
    layout: _Layout,
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
