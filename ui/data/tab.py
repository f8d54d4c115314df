"""The Data tab: preference data sets are added, looked at, mended, exported and published."""

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.datasets import Dataset
from training.preferences.rows import UnknownColumnsError
from training.progress import Progress
from ui.compare.cards import Status, render_status
from ui.data.actions import COLUMN_NAMES, NAME_COLUMNS, DataActions, Selection
from ui.data.cards import choice, render_head, render_pairs, render_preview, render_report
from ui.data.endpoints import add_data_endpoints
from ui.data.form import IDLE, AddForm, DatasetView, build_add_form, build_view
from ui.html import plain_html
from ui.services import Services
from ui.told import told
from ui.working import rendered

DATA_QUEUE = "data"
"""Imports, checks, exports and pushes wait in this one queue, so that memory stays bounded."""

PAIRS_PER_PAGE = 12
NOT_DONE = "Not done"
DOWNLOAD = "() => { setTimeout(() => document.querySelector('#chats-zip')?.click(), 400); }"

logger = logging.getLogger(__name__)


class DataHandlers:
    """What happens when a person acts; values in, component updates out."""

    def __init__(self, actions: DataActions):
        self._actions = actions

    def refresh(self, current: str | None) -> Any:
        """List what there is now; keep the choice if it is still there, else take the newest."""
        summaries = self._actions.store.summaries()
        ids = [each.id for each in summaries]
        value = current if current in ids else next(iter(ids), None)
        return gr.Radio(choices=[choice(each) for each in summaries], value=value)

    def import_upload(self, file: str | None, name: str, *columns: str) -> Iterator[tuple]:
        """Import an upload, and choose it."""
        yield from self._import(
            self._actions.import_upload(file, name=name, columns=_columns(columns))
        )

    def import_hub(
        self, repo_id: str, split: str, max_pairs: float, name: str, *columns: str
    ) -> Iterator[tuple]:
        """Import from the Hub, and choose it."""
        yield from self._import(
            self._actions.import_hub(
                repo_id,
                split=(split or "").strip() or "train",
                max_pairs=max_pairs,
                name=name,
                columns=_columns(columns),
            )
        )

    def preview(self, repo_id: str, split: str) -> Iterator[tuple]:
        """Show the first rows, and offer their columns."""
        yield render_status(Status("busy", "Asking the Hub…")), "", *[gr.skip()] * 5
        try:
            found = self._actions.preview_hub(repo_id, split=split)
        except UserError as error:
            yield render_status(Status("error", str(error))), "", *[gr.skip()] * 5
            return
        offered = [gr.Dropdown(choices=list(found.columns)) for _ in COLUMN_NAMES]
        yield render_status(IDLE), render_preview(found), *offered

    def show(self, dataset: str | None, only: str, page: int) -> tuple:
        """Show a page of the pairs of a data set."""
        if not dataset:
            return _nothing()
        with told(title=NOT_DONE):
            return _shown(self._actions, dataset, only=only, page=page)

    def act(self, dataset: str, only: str, page: int, event: gr.EventData) -> tuple:
        """Do what a button of a pair says."""
        asked = event._data or {}
        row, prompt = asked.get("row"), str(asked.get("prompt") or "")
        return self._edit(
            dataset, only, page, action=asked.get("action"), rows=[row], prompt=prompt
        )

    def undo(self, dataset: str, only: str, page: int) -> tuple:
        """Take the last edit back."""
        return self._edit(dataset, only, page, action="undo")

    def drop_shown(self, dataset: str, only: str, page: int) -> tuple:
        """Leave out all rows that repeat, or that contradict others."""
        with told(title=NOT_DONE):
            if only == "all":
                raise UserError("Choose the repeats or the contradictions first.")
            rows = [row.row for row in self._actions.select(dataset, only=only).rows]
        return self._edit(dataset, only, 0, action="drop", rows=rows)

    def check(self, dataset: str) -> Iterator[str]:
        """Look at every row and picture again."""
        try:
            stream = self._actions.validate(dataset)
            report = yield from rendered(stream)
        except UserError as error:
            yield render_status(Status("error", str(error)))
            return
        text = f"{report.num_kept:,} of {report.num_read:,} rows are whole."
        yield render_status(Status("done", text)) + render_report(report)

    def export(self, dataset: str) -> Iterator[str]:
        """Lend the zip until it is copied to where the browser can fetch it."""
        with told(title=NOT_DONE), self._actions.export(dataset) as path:
            yield str(path)

    def push(self, dataset: str, repo_id: str, private: bool) -> Iterator[str]:
        """Upload to the Hub."""
        yield render_status(Status("busy", "Preparing the upload…"))
        try:
            address = yield from rendered(
                self._actions.push(dataset, repo_id=repo_id, private=private)
            )
        except UserError as error:
            yield render_status(Status("error", str(error)))
            return
        yield render_status(Status("done", "Pushed.", address))

    def delete(self, dataset: str) -> tuple[Any, Any]:
        """Remove a data set, and choose another."""
        with told(title=NOT_DONE):
            self._actions.delete(dataset, confirm=True)
        return gr.Row(visible=False), self.refresh(None)

    def _edit(self, dataset: str, only: str, page: int, **edit: Any) -> tuple:
        with told(title=NOT_DONE):
            self._actions.edit(dataset, **edit)
            return (self.refresh(dataset), *_shown(self._actions, dataset, only=only, page=page))

    def _import(self, stream: Generator[Progress, None, Dataset]) -> Iterator[tuple]:
        """Yield the status, whether Stop is offered, file, list, columns."""
        kept = (gr.skip(),) * (3 + len(COLUMN_NAMES))
        yield render_status(Status("busy", "Starting…")), gr.Button(visible=True), *kept
        idle = gr.Button(visible=False)
        try:
            views = rendered(stream)
            while True:
                try:
                    view = next(views)
                except StopIteration as end:
                    dataset = end.value
                    break
                yield view, gr.skip(), *kept
        except UnknownColumnsError as error:
            offered = [gr.Dropdown(choices=list(error.available)) for _ in COLUMN_NAMES]
            status = Status("error", str(error).partition(" Set ")[0], NAME_COLUMNS)
            yield (
                render_status(status),
                idle,
                gr.skip(),
                gr.skip(),
                gr.Accordion(open=True),
                *offered,
            )
            return
        except UserError as error:
            status = Status("error", str(error), "Nothing was imported.")
            yield render_status(status), idle, gr.File(value=None), *kept[1:]
            return
        except Exception as error:
            logger.exception("An import failed")
            status = Status("error", f"The import failed: {type(error).__name__}: {error}")
            yield render_status(status), idle, gr.File(value=None), *kept[1:]
            return
        done = Status("done", "Imported.", _became(dataset))
        yield render_status(done), idle, gr.File(value=None), self.refresh(dataset.id), *kept[2:]


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


def _shown(actions: DataActions, dataset: str, *, only: str, page: int) -> tuple:
    selection = actions.select(dataset, only=only)
    num_pages = max(1, -(-len(selection.rows) // PAIRS_PER_PAGE))
    page = min(max(0, page), num_pages - 1)
    start = page * PAIRS_PER_PAGE
    rows = selection.rows[start : start + PAIRS_PER_PAGE]
    head = render_head(actions.store.summary(dataset), selection, selection.dataset.report())
    return (
        page,
        gr.Column(visible=True),
        gr.HTML(visible=False),
        head,
        render_pairs(selection.dataset, rows),
        _place(selection, start, len(rows)),
        gr.Button(interactive=page > 0),
        gr.Button(interactive=page < num_pages - 1),
        gr.Button(interactive=selection.dataset.version() > 1),
        gr.Button(visible=only != "all" and bool(rows)),
    )


def _nothing() -> tuple:
    return 0, gr.Column(visible=False), gr.HTML(visible=True), *[gr.skip()] * 7


def _place(selection: Selection, start: int, count: int) -> str:
    if not count:
        return ""
    return f"<p>{start + 1:,}–{start + count:,} of {len(selection.rows):,}</p>"


def _became(dataset: Dataset) -> str:
    report = dataset.report()
    parts = [f"{report.num_kept:,} of {report.num_read:,} rows kept"]
    if report.num_dropped:
        parts.append(f"{report.num_dropped:,} can't be used")
    if report.num_ties:
        parts.append(f"{report.num_ties:,} ties left out")
    return ", ".join(parts) + "."


def _columns(values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(COLUMN_NAMES, values, strict=True))
