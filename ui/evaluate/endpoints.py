"""The Evaluate tab for programs: what there is, what it would make, its start, its tables."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.evaluate.desk import EvaluationDesk
from training.evaluate.wins import wins_of
from ui.evaluate.preparing import Preparation, Prepared, start_evaluation
from ui.evaluate.results import read_results
from ui.services import RunServices
from ui.told import told


class EvaluateEndpoints:
    """The functions behind the API; names may come from anybody, and none becomes a path."""

    def __init__(self, desk: EvaluationDesk, runs: RunServices):
        self._desk, self._runs = desk, runs
        self._preparation = Preparation(desk)

    def prompts_list(self) -> list[dict[str, str]]:
        """List the prompt sets that are here; a Hub data set is named by its id."""
        return [{"name": name, "title": title} for title, name in self._desk.prompt_sets()]

    def evaluate_preview(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Say what an evaluation would make, and all that stands in its way."""
        with told():
            prepared = self._prepare(settings)
            return {
                "can_start": not prepared.obstacles,
                "obstacles": list(prepared.obstacles),
                "problems": dict(prepared.problems),
                "cost": asdict(prepared.cost) if prepared.cost else None,
            }

    def evaluate_start(self, settings: dict[str, Any]) -> dict[str, str]:
        """Put an evaluation into the queue; train_status, train_stop and others take its run."""
        with told():
            return {"run": start_evaluation(self._desk, self._prepare(settings))}

    def evaluate_report(self, run: str) -> dict[str, Any]:
        """Give the tables of a finished evaluation: a row for each scorer, category and method."""
        with told():
            config = self._runs.console.evaluation(run)
            found = read_results(self._runs.console.directory(run).path, config)
            if found is None:
                state = self._runs.console.get(run).state
                raise UserError(f"The evaluation {run} has no tables yet: it is {state}.")
            return dict(found.document)

    def evaluate_wins(self, run: str, scorer: str) -> list[dict[str, Any]]:
        """Give what a scorer preferred in a finished evaluation: a vote for every two methods."""
        with told():
            config = self._runs.console.evaluation(run)
            if scorer not in config.scorers:
                known = ", ".join(config.scorers)
                raise UserError(
                    f"The evaluation {run} has no scorer {scorer!r:.40}; it has {known}."
                )
            folder = self._runs.console.directory(run).path
            return [asdict(vote) for vote in wins_of([folder], scorer)]

    def _prepare(self, settings: Any) -> Prepared:
        if not isinstance(settings, Mapping | None):
            raise UserError('settings must map names to values, such as {"prompts": "shapes"}.')
        settings = dict(settings or {})
        if "output" in settings:
            raise UserError("output is set by this server. Leave it out.")
        return self._preparation.prepare(settings)


def add_evaluate_endpoints(desk: EvaluationDesk, runs: RunServices) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = EvaluateEndpoints(desk, runs)
    with gr.Column(visible=False):
        settings = gr.JSON({}, label="Settings of python -m training.evaluate, by name")
        run = gr.Textbox(label="Id of the run")
        scorer = gr.Textbox("shapes", label="Scorer")
        answer = gr.JSON()
    table = {
        "prompts_list": {},
        "evaluate_preview": {"settings": settings},
        "evaluate_start": {"settings": settings},
        "evaluate_report": {"run": run},
        "evaluate_wins": {"run": run, "scorer": scorer},
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
            concurrency_limit=1 if name == "evaluate_start" else None,
        )
