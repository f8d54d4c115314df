"""The Data tab: preference data sets are added, looked at, mended, exported and published."""

from collections.abc import Callable

import gradio as gr

from ui.compare.cards import Status, render_status
from ui.data.actions import COLUMN_NAMES, DataActions
from ui.data.endpoints import add_data_endpoints
from ui.data.form import AddForm, DatasetView, build_add_form, build_view
from ui.data.handlers import DataHandlers
from ui.html import plain_html
from ui.services import Services

DATA_QUEUE = "data"
"""Imports, checks, exports and pushes wait in this one queue, so that memory stays bounded."""

DOWNLOAD = "() => { setTimeout(() => document.querySelector('#chats-zip')?.click(), 400); }"


def build_data(services: Services, *, tab: gr.Tab) -> None:
    """Lay out the tab and connect its handlers."""
    runs = services.runs
    actions = DataActions(services.datasets, console=runs.console if runs else None)
    handlers = DataHandlers(actions)
    page = gr.State(0)
    with gr.Row(elem_classes="data"):
        with gr.Column(scale=1, min_width=280, elem_classes="data-side"):
            plain_html("<h3>Data sets</h3>")
            chosen = gr.Radio(
                [], label="Data sets", show_label=False, container=False, elem_id="chats-datasets"
            )
            plain_html("<h3>Add preferences</h3>")
            form = build_add_form()
        with gr.Column(scale=3, min_width=320, elem_classes="data-main"):
            view = build_view()
    tab.select(handlers.refresh, chosen, chosen, **_QUIET)
    _connect_adding(handlers, form, chosen)
    _connect_view(handlers, view, chosen, page)
    add_data_endpoints(actions, queue=DATA_QUEUE)


_QUIET = {"show_progress": "hidden", "api_visibility": "private"}
_LONG = {**_QUIET, "concurrency_id": DATA_QUEUE, "concurrency_limit": 1}


def _connect_adding(handlers: DataHandlers, form: AddForm, chosen: gr.Radio) -> None:
    columns = [form.columns[name] for name in COLUMN_NAMES]
    outputs = [form.status, form.stop, form.file, chosen, form.columns_box, *columns]
    started = [
        form.upload.click(
            handlers.import_upload, [form.file, form.name, *columns], outputs, **_LONG
        ),
        form.fetch.click(
            handlers.import_hub,
            [form.repo_id, form.split, form.max_pairs, form.name, *columns],
            outputs,
            **_LONG,
        ),
    ]
    stopped = render_status(Status("stopped", "Stopped.", "Nothing was imported."))
    form.stop.click(
        lambda: (stopped, gr.Button(visible=False)),
        None,
        [form.status, form.stop],
        cancels=started,
        **_QUIET,
    )
    form.preview.click(
        handlers.preview,
        [form.repo_id, form.split],
        [form.status, form.previewed, *columns],
        **_LONG,
    )


def _connect_view(
    handlers: DataHandlers, view: DatasetView, chosen: gr.Radio, page: gr.State
) -> None:
    where = [chosen, view.only, page]
    shown = [
        page,
        view.panel,
        view.empty,
        view.head,
        view.grid,
        view.place,
        view.back,
        view.on,
        view.undo,
        view.drop_shown,
    ]

    def turn(by: int) -> Callable[[str, str, int], tuple]:
        return lambda dataset, only, number: handlers.show(dataset, only, number + by)

    def first(dataset: str, only: str) -> tuple:
        return handlers.show(dataset, only, 0)

    chosen.change(first, where[:2], shown, **_QUIET)
    chosen.change(
        lambda: ("", "", gr.Row(visible=False)),
        None,
        [view.checked, view.pushed, view.sure],
        **_QUIET,
    )
    view.only.input(first, where[:2], shown, **_QUIET)
    view.back.click(turn(-1), where, shown, **_QUIET)
    view.on.click(turn(1), where, shown, **_QUIET)
    view.grid.click(handlers.act, where, [chosen, *shown], **_QUIET)
    view.undo.click(handlers.undo, where, [chosen, *shown], **_QUIET)
    view.drop_shown.click(handlers.drop_shown, where, [chosen, *shown], **_QUIET)
    view.check.click(handlers.check, chosen, view.checked, **_LONG)
    exported = view.export.click(handlers.export, chosen, view.download, **_LONG)
    exported.success(None, None, None, js=DOWNLOAD, api_visibility="private")
    view.push.click(handlers.push, [chosen, view.repo_id, view.private], view.pushed, **_LONG)
    for button, is_asked in ((view.delete, True), (view.no, False)):
        button.click(lambda asked=is_asked: gr.Row(visible=asked), None, view.sure, **_QUIET)
    view.yes.click(handlers.delete, chosen, [view.sure, chosen], **_QUIET)
