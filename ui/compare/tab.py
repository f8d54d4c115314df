"""The Compare tab: one prompt and one seed, a column for each method, side by side."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.png import read_png
from ui.compare.board import Board, lay_out
from ui.compare.cards import IDLE, Status, render_board, render_status
from ui.compare.comparing import STOPPING, View, compare
from ui.compare.form import MAX_DRAWN_SEED, CompareForm, build_form, pair_choices
from ui.compare.methods import SHOWN_FIRST
from ui.compare.overlay import overlay_updates
from ui.compare.values import build_config, find_model, form_values
from ui.html import plain_html
from ui.services import ModelChoice, Services
from ui.stopping import StoppableRuns, session_of
from ui.tickets import QUEUE

# Gradio needs a fixed value to read the form again after a restart; nothing secret is stored.
STORAGE_SECRET = "chats"
SUITED = ("num_steps", "width", "height", "alpha", "scale")
PRESS_GENERATE = "() => { document.getElementById('chats-generate').click(); return []; }"


class CompareHandlers(StoppableRuns):
    """What happens when a person acts; values in, component updates out."""

    def __init__(self, services: Services):
        self._services = services
        super().__init__()

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """Answer a press of Generate at once, end what this tab is doing, and open the way."""
        session = session_of(request)
        num_others = self._runs.num_others(session)
        self._runs.begin(session)
        detail = f"Requests before yours: {num_others}." if num_others else ""
        text = "In the queue…" if num_others else "Starting…"
        return render_status(Status("busy", text, detail)), gr.Button(interactive=True)

    def run_all(self, before: Board, request: gr.Request, **form: Any) -> Iterator[tuple[Any, ...]]:
        """Make every picture of the form, from a new seed unless the seed is kept."""
        seed = None if form["locked"] else random.randrange(MAX_DRAWN_SEED)
        form = form if seed is None else {**form, "seed": seed}
        views = self._run(form, before=before, reuse=False, session=session_of(request))
        for k, view in enumerate(views):
            yield _updates(
                view, new_seed=seed if k == 0 else None, remember=form if k == 0 else None
            )

    def run_changed(
        self, before: Board, request: gr.Request, **form: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Make the pictures that a moved slider changes; keep the others."""
        views = self._run(form, before=before, reuse=True, session=session_of(request))
        for k, view in enumerate(views):
            yield _updates(view, remember=form if k == 0 else None)

    def read_settings(self, path: str) -> Mapping[str, Any]:
        """Fill the form from a PNG that carries its settings."""
        try:
            values = form_values(read_png(path))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False, title="No settings read") from None
        gr.Info("The form is as it was when this picture was made.", title="Settings read")
        return values

    def pair_menu(self, chosen: str | None) -> gr.Dropdown:
        """Offer the pairs that there are now; one that is gone is chosen no more."""
        models = self._services.models()
        known = [model.id for model in models]
        return gr.Dropdown(
            choices=pair_choices(models),
            value=chosen if chosen in known else known[0],
            visible=len(models) > 1,
        )

    def suit(self, chosen: str | None, base: str) -> tuple[Any, ...]:
        """Put in what suits another base model; a pair of the same one changes nothing."""
        known = {model.id: model for model in self._services.models()}
        model = known.get(chosen)
        if model is None or model.name == base:
            return (base, *[gr.skip()] * len(SUITED))
        values = (model.num_steps, model.width or 0, model.height or 0, model.alpha, model.scale)
        return (model.name, *values)

    def _run(
        self, form: Mapping[str, Any], *, before: Board, reuse: bool, session: str
    ) -> Iterator[View]:
        ticket = self._runs.start(session)
        left_out = ("locked", "live", "model", "on_cpu")
        settings = {name: value for name, value in form.items() if name not in left_out}
        try:
            model = find_model(form["model"], self._services.models())
            yield from compare(
                self._services,
                build_config(model=model, **settings),
                model=model,
                before=before,
                reuse=reuse,
                ticket=ticket,
                is_current=lambda: self._runs.is_current(session, ticket),
                on_cpu=form.get("on_cpu", False),
            )
        except UserError as error:
            kept = replace(before, state="failed") if before.state == "running" else before
            yield View(kept, Status("error", str(error)))
        finally:
            ticket.set()
            self._runs.finish(session, ticket)


def build_compare(services: Services, *, page: gr.Blocks) -> CompareForm:
    """Lay out the tab and connect its handlers; returns its form."""
    models = services.models()
    model = models[0]
    handlers = CompareHandlers(services)
    form = build_form(
        models,
        offers_cpu=services.generate_on_cpu is not None,
        can_sweep=services.lab is not None,
    )
    board = gr.State(empty_board(model))
    saved = gr.BrowserState(
        None, storage_key=f"chats-compare-{model.name}-{model.width}", secret=STORAGE_SECRET
    )
    status = plain_html(render_status(IDLE), elem_id="chats-status")
    columns = plain_html(render_board(empty_board(model)), elem_id="chats-board")
    with gr.Row(visible=False, elem_id="chats-overlay") as overlay:
        words = plain_html("", elem_classes="overlay-words")
        pictures = gr.ImageSlider(
            interactive=False,
            format="png",
            show_label=False,
            container=False,
            buttons=[],
            max_height=520,
            elem_classes="overlay-pictures",
        )
    live = gr.Button("Live", visible="hidden", elem_id="chats-live")
    use_cpu = gr.Button("Use the CPU", visible="hidden", elem_id="chats-use-cpu")

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    long = {
        "inputs": [board],
        "inputs_kwargs": dict(form.fields),
        "outputs": [
            board,
            columns,
            status,
            form.stop,
            form.fields["seed"],
            saved,
            overlay,
            words,
            pictures,
        ],
        "concurrency_id": QUEUE,
        "concurrency_limit": services.num_at_once,
        "trigger_mode": "always_last",
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    for button, run in ((form.generate, handlers.run_all), (live, handlers.run_changed)):
        button.click(handlers.begin, None, [status, form.stop], **quick)
        started = button.click(run, **long)
        started.failure(handlers.refuse, None, [status, form.stop], **quick)
    stopping = json.dumps(render_status(Status("stopped", STOPPING)))
    form.stop.click(None, None, status, js=f"() => {stopping}", api_visibility="private")
    form.stop.click(handlers.halt, None, [status, form.stop], **quick)
    ticked = use_cpu.click(
        None, None, form.fields["on_cpu"], js="() => true", api_visibility="private"
    )
    ticked.then(None, None, None, js=PRESS_GENERATE, api_visibility="private")
    base = gr.State(model.name)
    suited = [base, *(form.fields[name] for name in SUITED)]
    form.fields["model"].change(handlers.suit, [form.fields["model"], base], suited, **quick)
    page.unload(handlers.leave)
    _connect_memory(page, handlers, form, saved)
    return form


def _connect_memory(
    page: gr.Blocks, handlers: CompareHandlers, form: CompareForm, saved: gr.BrowserState
) -> None:
    """Fill the form from a PNG, and after a reload from what the browser kept."""
    names, fields = list(form.fields), list(form.fields.values())

    def fill(values: Mapping[str, Any] | None) -> list[Any]:
        known = values or {}
        return [gr.update(value=known[name]) if name in known else gr.skip() for name in names]

    def read(path: str) -> list[Any]:
        return fill(handlers.read_settings(path))

    def load(values: Mapping[str, Any] | None) -> list[Any]:
        filled = fill(values)
        filled[names.index("model")] = handlers.pair_menu((values or {}).get("model"))
        return filled

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    form.read_png.upload(read, form.read_png, fields, **quiet)
    page.load(load, saved, fields, **quiet)


def empty_board(model: ModelChoice) -> Board:
    """The columns before the first picture."""
    rows = [Row(method=name, scale=model.scale, alpha=model.alpha) for name in SHOWN_FIRST]
    return lay_out(
        GenerationConfig(rows=tuple(rows), model=model.name, pair=model.pair), model=model
    )


def _updates(
    view: View, *, new_seed: int | None = None, remember: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Return what changes, in the order of the outputs; what a person may be typing in is left."""
    running = view.board.state == "running"
    return (
        view.board,
        render_board(view.board),
        render_status(view.status),
        gr.Button(interactive=running),
        gr.skip() if new_seed is None else new_seed,
        gr.skip() if remember is None else dict(remember),
        *overlay_updates(view.board),
    )
