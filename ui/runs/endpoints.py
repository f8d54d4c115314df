"""The Runs tab for programs: every action as a named endpoint with named parameters."""

from dataclasses import asdict
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.changes import flat_settings
from training.jobs.catalogue import RunEntry
from training.progress import told_to_nobody
from training.scoring.record import start_score
from ui.runs.words import accuracy, title_of
from ui.services import RunServices
from ui.told import told

FROM_END = -1
"""Stands for the end of a log where a byte is asked for."""


class RunEndpoints:
    """The functions behind the API; ids may come from anybody, and none becomes a path."""

    def __init__(self, services: RunServices):
        self._console, self._catalogue = services.console, services.catalogue
        self._push = services.push
        self._refusal = services.refusal

    def runs_list(self) -> list[dict[str, Any]]:
        """List the trainings, the newest first."""
        return [_shown(entry) for entry in self._catalogue.entries()]

    def train_status(self, run: str) -> dict[str, Any]:
        """Say what becomes of a training, and what can be done with it."""
        with told():
            return _shown(self._catalogue.get(run))

    def train_log(self, run: str, offset: float, file: str) -> dict[str, Any]:
        """Read the next piece of a log from a byte on; -1 is its end."""
        with told():
            if file not in ("log", "output"):
                raise UserError(f"file must be log or output, not {file!r:.40}.")
            start = _whole("offset", offset)
            place = None if start == FROM_END else start
            return asdict(self._console.log(run, offset=place, file=file))

    def train_metrics(self, run: str, since_step: float, max_points: float) -> dict[str, Any]:
        """Read the metrics after a step, thinned out evenly to at most so many lines."""
        with told():
            since = _whole("since_step", since_step)
            points = _whole("max_points", max_points)
            curve = self._console.metrics(run, since_step=since, max_points=points)
            return {"rows": list(curve.rows), "is_thinned": curve.is_thinned}

    def train_diff(self, run: str, other: str) -> dict[str, list[Any]]:
        """Name the settings in which two trainings differ, with both values."""
        with told():
            found = self._console.config_diff(run, other)
            return {name: list(values) for name, values in found.items()}

    def train_stop(self, run: str) -> dict[str, Any]:
        """Ask a training to save and end; one that waits leaves the queue."""
        with told():
            self._console.stop(run)
            return _shown(self._catalogue.get(run))

    def train_kill(self, run: str) -> dict[str, Any]:
        """End a training at once; it can go on from its last checkpoint."""
        with told():
            self._console.kill(run)
            return _shown(self._catalogue.get(run))

    def train_resume(self, run: str) -> dict[str, Any]:
        """Put a training that ended early into the queue again."""
        with told():
            self._require_starts()
            self._console.resume(run)
            return _shown(self._catalogue.get(run))

    def train_rerun(self, run: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Give a training's settings with some changed, checked, to start another with."""
        with told():
            if not isinstance(changes, dict | None):
                raise UserError("changes must map names to values: optimizer.num_steps to 100.")
            settings = flat_settings(self._console.rerun(run, changes))
            return {name: value for name, value in settings.items() if name != "run.output"}

    def train_score(self, run: str) -> dict[str, Any]:
        """Start to score a finished pair of the Shapes model; train_status tells how it stands."""
        with told():
            self._require_starts()
            self._console.config(run)  # of an evaluation there is nothing to score
            start_score(self._console.directory(run))
            return _shown(self._catalogue.get(run))

    def train_delete(self, run: str) -> dict[str, Any]:
        """Remove a training that has ended, with its checkpoints and its pair."""
        with told():
            self._console.delete(run)
        return {"deleted": run}

    def train_push(self, run: str, repo_id: str, private: bool) -> dict[str, Any]:
        """Push a finished training's pair to the Hub, with the server's own login."""
        with told():
            return {"said": self._push(run, repo_id, bool(private), told_to_nobody)}

    def _require_starts(self) -> None:
        if self._refusal:
            raise UserError(self._refusal)


def add_run_endpoints(services: RunServices) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = RunEndpoints(services)
    with gr.Column(visible=False):
        run, other = gr.Textbox(label="Id of the run"), gr.Textbox(label="Id of another run")
        offset = gr.Number(FROM_END, precision=0, label="First byte; -1 is the log's end")
        file = gr.Textbox("log", label="log, or output for all that was printed")
        since_step = gr.Number(-1, precision=0, label="Only after this step")
        max_points = gr.Number(1000, precision=0, label="At most so many lines")
        changes = gr.JSON({}, label="Values by names such as optimizer.learning_rate")
        repo_id = gr.Textbox(label="owner/name")
        private = gr.Checkbox(True, label="Private")
        answer = gr.JSON()
    table = {
        "runs_list": {},
        "train_status": {"run": run},
        "train_log": {"run": run, "offset": offset, "file": file},
        "train_metrics": {"run": run, "since_step": since_step, "max_points": max_points},
        "train_diff": {"run": run, "other": other},
        "train_stop": {"run": run},
        "train_kill": {"run": run},
        "train_resume": {"run": run},
        "train_rerun": {"run": run, "changes": changes},
        "train_score": {"run": run},
        "train_delete": {"run": run},
        "train_push": {"run": run, "repo_id": repo_id, "private": private},
    }
    for name, inputs in table.items():
        function = getattr(endpoints, name)
        gr.on(
            [],
            function,
            outputs=answer,
            inputs_kwargs=inputs,
            api_name=name,
            api_description=function.__doc__,
            concurrency_limit=1 if name == "train_push" else None,
        )


def _shown(entry: RunEntry) -> dict[str, Any]:
    summary = entry.summary
    score = accuracy(entry)
    times = {
        name: moment.isoformat() if (moment := getattr(summary, name)) else None
        for name in ("submitted", "started", "ended")
    }
    return {
        **asdict(summary),
        **times,
        "title": title_of(entry),
        "progress": summary.progress,
        "actions": sorted(summary.actions),
        "has_pair": entry.has_pair,
        "accuracy": score[0] if score else None,
        "accuracy_is_held_out": score[1] if score else None,
        "newest": entry.newest,
        "score": entry.score.model_dump(mode="json") if entry.score else None,
    }


def _whole(name: str, value: float) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        raise UserError(f"{name} must be a whole number, not {value!r:.40}.")
    return int(value)
