"""What happens when a person acts in the Data tab; values in, component updates out."""

import logging
from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.datasets import Dataset
from training.preferences.rows import UnknownColumnsError
from training.progress import Progress
from ui.compare.cards import Status, render_status
from ui.data.actions import COLUMN_NAMES, NAME_COLUMNS, DataActions, Selection
from ui.data.cards import choice, render_head, render_pairs, render_preview, render_report
from ui.data.form import IDLE
from ui.told import told
from ui.working import rendered

PAIRS_PER_PAGE = 12
NOT_DONE = "Not done"

logger = logging.getLogger(__name__)


class DataHandlers:
    """Answers the tab; what is kept is on the disk."""

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
