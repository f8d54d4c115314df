"""The Data tab for programs: every action as a named endpoint with named parameters."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.datasets import Dataset
from training.progress import Progress
from ui.data.actions import COLUMN_NAMES, ONLY, DataActions
from ui.told import told


class DataEndpoints:
    """The functions behind the API; errors that a person can mend come as `gr.Error`."""

    def __init__(self, actions: DataActions):
        self._actions = actions

    def datasets_list(self) -> list[dict[str, Any]]:
        """List the data sets, the newest first."""
        return self._actions.listing()

    def dataset_import(self, file: str, name: str, **columns: str) -> Iterator[dict[str, Any]]:
        """Import a zip or a parquet file; tell how far it is, then what became of the rows."""
        yield from self._imported(
            lambda: self._actions.import_upload(file, name=name, columns=columns)
        )

    def dataset_import_hub(
        self, repo_id: str, split: str, max_pairs: float, name: str, **columns: str
    ) -> Iterator[dict[str, Any]]:
        """Import the first pairs of a data set on the Hub."""
        yield from self._imported(
            lambda: self._actions.import_hub(
                repo_id, split=split, max_pairs=max_pairs, name=name, columns=columns
            )
        )

    def dataset_preview_hub(self, repo_id: str, split: str) -> dict[str, Any]:
        """Read the first rows of a data set on the Hub; pictures are named, not sent."""
        with told():
            found = self._actions.preview_hub(repo_id, split=split)
        rows = [{name: _plain(row.get(name)) for name in found.columns} for row in found.rows]
        return {"columns": list(found.columns), "num_rows": found.num_rows, "rows": rows}

    def dataset_validate(self, dataset: str) -> Iterator[dict[str, Any]]:
        """Look at every row and picture again."""
        with told():
            report = yield from _progress(self._actions.validate(dataset))
        yield report.model_dump(mode="json")

    def dataset_rows(self, dataset: str, only: str, offset: float, limit: float) -> dict[str, Any]:
        """Read some rows."""
        with told():
            return self._actions.rows(dataset, only=only, offset=offset, limit=limit)

    def dataset_edit(
        self, dataset: str, action: str, rows: list[int], prompt: str
    ) -> dict[str, Any]:
        """Drop or swap rows, write another prompt, or undo; makes a new version."""
        with told():
            if not isinstance(rows, list):
                raise UserError(f"rows must be a list of row numbers (given: {rows!r:.60}).")
            return self._actions.edit(dataset, action=action, rows=rows, prompt=prompt)

    def dataset_export(self, dataset: str) -> Iterator[str]:
        """Give the data set as a zip."""
        with told(), self._actions.export(dataset) as path:
            yield str(path)

    def dataset_push(self, dataset: str, repo_id: str, private: bool) -> Iterator[dict[str, Any]]:
        """Upload the data set to the Hub; tell how far it is, then where it is."""
        with told():
            stream = self._actions.push(dataset, repo_id=repo_id, private=private)
            address = yield from _progress(stream)
        yield {"url": address}

    def dataset_delete(self, dataset: str, confirm: bool) -> dict[str, Any]:
        """Remove a data set for good."""
        with told():
            self._actions.delete(dataset, confirm=confirm)
        return {"deleted": dataset}

    def _imported(
        self, start: Callable[[], Generator[Progress, None, Dataset]]
    ) -> Iterator[dict[str, Any]]:
        with told():
            dataset = yield from _progress(start())
            report = dataset.report()
        yield {"dataset": dataset.id, "report": report.model_dump(mode="json")}


def add_data_endpoints(actions: DataActions, *, queue: str) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = DataEndpoints(actions)
    with gr.Column(visible=False):
        dataset = gr.Textbox(label="Id of the data set")
        name = gr.Textbox("", label="Name")
        columns = {each: gr.Textbox("", label=each.replace("_", " ")) for each in COLUMN_NAMES}
        upload = gr.File(label="A .zip or a .parquet file")
        repo_id, split = gr.Textbox(label="owner/name"), gr.Textbox("train", label="Split")
        max_pairs = gr.Number(1000, precision=0, label="At most so many pairs")
        only = gr.Textbox(ONLY[0], label=f"Which rows: {', '.join(ONLY)}")
        offset = gr.Number(0, precision=0, label="Rows before these")
        limit = gr.Number(100, precision=0, label="At most so many rows")
        action = gr.Textbox(label="Edit: drop, swap, prompt or undo")
        rows, prompt = gr.JSON([], label="Row numbers"), gr.Textbox("", label="New prompt")
        private = gr.Checkbox(True, label="Private")
        confirm = gr.Checkbox(False, label="Really")
        answer, zipped = gr.JSON(), gr.File()
    source = {"repo_id": repo_id, "split": split}
    table = {
        "datasets_list": {},
        "dataset_import": {"file": upload, "name": name, **columns},
        "dataset_import_hub": {**source, "max_pairs": max_pairs, "name": name, **columns},
        "dataset_preview_hub": source,
        "dataset_validate": {"dataset": dataset},
        "dataset_rows": {"dataset": dataset, "only": only, "offset": offset, "limit": limit},
        "dataset_edit": {"dataset": dataset, "action": action, "rows": rows, "prompt": prompt},
        "dataset_export": {"dataset": dataset},
        "dataset_push": {"dataset": dataset, "repo_id": repo_id, "private": private},
        "dataset_delete": {"dataset": dataset, "confirm": confirm},
    }
    long = {"dataset_import", "dataset_import_hub", "dataset_validate", "dataset_export"}
    for api_name, inputs in table.items():
        function = getattr(endpoints, api_name)
        gr.on(
            [],
            function,
            outputs=zipped if api_name == "dataset_export" else answer,
            inputs_kwargs=inputs,
            api_name=api_name,
            api_description=function.__doc__,
            concurrency_limit=1,
            concurrency_id=queue if api_name in long else None,
        )


def _progress(stream: Generator[Progress, None, Any]) -> Generator[dict[str, Any], None, Any]:
    try:
        while True:
            try:
                yield asdict(next(stream))
            except StopIteration as end:
                return end.value
    finally:
        stream.close()


def _plain(value: Any) -> Any:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return f"<picture of {len(content):,} bytes>"
    return str(value)[:200]
