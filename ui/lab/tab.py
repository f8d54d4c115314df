"""The Alpha lab: its components connected with what they do."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ui.compare.cards import Status, render_status
from ui.compare.form import CompareForm, pair_choices
from ui.html import plain_html
from ui.lab.downloads import DOWNLOADS
from ui.lab.form import LabForm, build_lab_form
from ui.lab.handlers import LabHandlers
from ui.services import Services

SWEEPS = "sweeps"
"""Sweeps wait for each other here; other pictures are made between their calls."""
STOPPING = "Stopping…"
# Gradio needs a fixed value to read the form again after a restart; nothing secret is stored.
STORAGE_SECRET = "chats"
IDLE = Status("idle", "", "Say what to try, then press Start. What is made is kept on the disk.")

_QUIET = {"show_progress": "hidden", "api_visibility": "private"}
_PICKED = "(opened, prompt, seed, cell) => [opened, prompt, seed, window.chats.lab.picked(cell)]"


@dataclass(frozen=True)
class _Results:
    """What shows a sweep."""

    opened: gr.Textbox
    cell: gr.Number
    box: gr.Column
    verdict: gr.HTML
    plot: gr.HTML
    prompt: gr.Dropdown
    seed: gr.Dropdown
    grid: gr.HTML
    detail: gr.HTML
    use: gr.Button
    keep: gr.Button
    asked: gr.Column
    question: gr.HTML
    answers: tuple[gr.Button, gr.Button]
    downloads: dict[str, gr.Button]

    @property
    def where(self) -> list[Any]:
        """What says where a person looks."""
        return [self.opened, self.prompt, self.seed, self.cell]

    @property
    def shown(self) -> list[Any]:
        """What is drawn, in the order of `drawn`."""
        return [
            self.box,
            self.verdict,
            self.plot,
            self.prompt,
            self.seed,
            self.grid,
            self.cell,
            self.detail,
        ]


def build_lab(
    services: Services,
    *,
    page: gr.Blocks,
    tab: gr.Tab,
    saved: gr.BrowserState,
    compare: CompareForm,
) -> None:
    """Lay out the tab and connect its handlers.

    Args:
        services: What the page is given; it has a lab.
        page: The page.
        tab: The tab that this stands in.
        saved: What the browser keeps.
        compare: Compare's form, which a sweep starts from and sets.
    """
    with gr.Column(elem_id="lab-page"):
        form = build_lab_form(services.models())
        status = plain_html(render_status(IDLE), elem_id="lab-status")
        earlier = gr.Dropdown(
            [], value=None, label="Earlier sweeps", elem_id="lab-earlier", visible=False
        )
        results = _lay_out_results()
    handlers = LabHandlers(services, form)
    _connect_work(page, handlers, form, results, status=status, saved=saved)
    _connect_memory(
        services, handlers, form, results, page=page, tab=tab, saved=saved, menu=earlier
    )
    _connect_results(handlers, results, compare=compare)
    _connect_compare(handlers, form, compare)


def kept_sweep() -> gr.BrowserState:
    """Have the browser keep the form; place it outside of tabs, which are made when opened."""
    return gr.BrowserState(None, storage_key="chats-lab", secret=STORAGE_SECRET)


def _lay_out_results() -> _Results:
    opened = gr.Textbox(visible=False)
    cell = gr.Number(-1, visible=False)
    with gr.Column(visible=False, elem_classes="lab-results") as box:
        with gr.Row(elem_classes="lab-found"):
            verdict = plain_html("", elem_id="lab-verdict")
            plot = plain_html("", elem_id="lab-plot")
        with gr.Row(elem_classes="lab-where"):
            prompt = gr.Dropdown(
                [], label="Pictures of the prompt", elem_id="lab-prompt", scale=3, visible=False
            )
            seed = gr.Dropdown([], label="Seed", elem_id="lab-seed", min_width=100, visible=False)
        grid = plain_html("", elem_id="lab-grid")
        detail = plain_html("", elem_id="lab-detail")
        with gr.Row(elem_classes="lab-buttons"):
            use = gr.Button("Use this α", variant="primary", elem_id="lab-use", min_width=0)
            keep = gr.Button("Keep as the pair's setting", elem_id="lab-keep", min_width=0)
        with gr.Column(visible=False, elem_id="lab-asked") as asked:
            question = plain_html("")
            with gr.Row(elem_classes="lab-buttons"):
                yes = gr.Button("Keep it", variant="primary", elem_id="lab-yes", min_width=0)
                no = gr.Button("Leave it", elem_id="lab-no", min_width=0)
        with gr.Row(elem_classes="lab-buttons"):
            downloads = {
                name: gr.Button(label, size="sm", elem_id=f"lab-{name}", min_width=0)
                for name, (label, _) in DOWNLOADS.items()
            }
    return _Results(
        opened=opened,
        cell=cell,
        box=box,
        verdict=verdict,
        plot=plot,
        prompt=prompt,
        seed=seed,
        grid=grid,
        detail=detail,
        use=use,
        keep=keep,
        asked=asked,
        question=question,
        answers=(yes, no),
        downloads=downloads,
    )


def _connect_work(
    page: gr.Blocks,
    handlers: LabHandlers,
    form: LabForm,
    results: _Results,
    *,
    status: gr.HTML,
    saved: gr.BrowserState,
) -> None:
    inputs = [form.model, *form.settings.inputs.values()]
    marks = [*form.settings.notes.values(), *form.settings.folds.values(), form.cost]
    for each in inputs:
        each.change(
            handlers.preview, inputs, marks, trigger_mode="always_last", queue=False, **_QUIET
        )
    page.load(handlers.preview, inputs, marks, queue=False, **_QUIET)
    ends = [status, form.stop]
    form.start.click(handlers.begin, None, ends, queue=False, **_QUIET)
    started = form.start.click(
        handlers.run,
        [results.prompt, results.seed, *inputs],
        [results.opened, *ends, saved, *results.shown],
        concurrency_id=SWEEPS,
        concurrency_limit=1,
        trigger_mode="once",
        **_QUIET,
    )
    started.failure(handlers.refuse, None, ends, queue=False, **_QUIET)
    started.success(handlers.preview, inputs, marks, queue=False, **_QUIET)
    stopping = json.dumps(render_status(Status("stopped", STOPPING)))
    form.stop.click(None, None, status, js=f"() => {stopping}", api_visibility="private")
    form.stop.click(handlers.halt, None, ends, queue=False, **_QUIET)
    page.unload(handlers.leave)


def _connect_memory(
    services: Services,
    handlers: LabHandlers,
    form: LabForm,
    results: _Results,
    *,
    page: gr.Blocks,
    tab: gr.Tab,
    saved: gr.BrowserState,
    menu: gr.Dropdown,
) -> None:
    """Fill the form after a reload, and from an earlier sweep."""
    inputs = form.settings.inputs

    def offer() -> gr.Dropdown:
        entries = handlers.entries()
        return gr.Dropdown(choices=entries, value=None, visible=bool(entries))

    def restore(kept: Any) -> list[Any]:
        models = services.models()
        known = kept if isinstance(kept, Mapping) else {}
        ids = [model.id for model in models]
        model = known.get("model") if known.get("model") in ids else ids[0]
        values = known.get("inputs") if isinstance(known.get("inputs"), Mapping) else {}
        shown = [values.get(name, gr.skip()) for name in inputs]
        choices = gr.Dropdown(choices=pair_choices(models), value=model, visible=len(ids) > 1)
        return [offer(), choices, *shown, *handlers.reopen(known.get("opened"))]

    restored = [menu, form.model, *inputs.values(), results.opened, *results.shown]
    page.load(restore, saved, restored, **_QUIET)
    tab.select(offer, None, menu, **_QUIET)
    menu.input(
        handlers.open,
        menu,
        [results.opened, form.model, *inputs.values(), *results.shown],
        **_QUIET,
    )


def _connect_results(handlers: LabHandlers, results: _Results, *, compare: CompareForm) -> None:
    where = results.where
    pick = gr.Button(visible="hidden", elem_id="lab-pick")
    pick.click(
        handlers.look, where, results.shown, js=_PICKED, trigger_mode="always_last", **_QUIET
    )
    for each in (results.prompt, results.seed):
        each.input(handlers.look, where, results.shown, trigger_mode="always_last", **_QUIET)

    names = list(compare.fields)

    def use(*values: Any) -> list[Any]:
        found = handlers.use(*values)
        return [found.get(name, gr.skip()) for name in names]

    used = results.use.click(use, where, list(compare.fields.values()), **_QUIET)
    used.success(None, js="() => window.chats.runs.tab('Compare')", api_visibility="private")

    def ask(*values: Any) -> tuple[Any, Any]:
        return gr.Column(visible=True), _asked(handlers.ask_to_keep(*values))

    def keep(*values: Any) -> gr.Column:
        gr.Info(handlers.keep(*values), title="Kept")
        return gr.Column(visible=False)

    results.keep.click(ask, where, [results.asked, results.question], **_QUIET)
    yes, no = results.answers
    yes.click(keep, where, results.asked, **_QUIET)
    no.click(lambda: gr.Column(visible=False), None, results.asked, queue=False, **_QUIET)

    sent = gr.DownloadButton(visible="hidden", elem_id="lab-sent")
    for name, button in results.downloads.items():
        made = button.click(functools.partial(handlers.download, name), where, sent, **_QUIET)
        made.success(None, js="() => window.chats.lab.save()", api_visibility="private")


def _connect_compare(handlers: LabHandlers, form: LabForm, compare: CompareForm) -> None:
    """Let "Sweep from here" fill the lab's form."""
    names = list(compare.fields)

    def fill(*values: Any) -> list[Any]:
        asked = dict(zip(names, values, strict=True))
        return handlers.from_compare(asked["model"], asked)

    filled = compare.sweep.click(
        fill,
        list(compare.fields.values()),
        [form.model, *form.settings.inputs.values()],
        **_QUIET,
    )
    filled.success(None, js="() => window.chats.runs.tab('Alpha lab')", api_visibility="private")


def _asked(question: str) -> str:
    return f'<p role="alert">{escape(question)}</p>'
