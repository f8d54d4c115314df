"""What happens when a person acts in the Evaluate tab; values in, component updates out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.jobs.catalogue import RunEntry
from ui.evaluate.cards import (
    render_cost,
    render_evaluation,
    render_obstacles,
    render_problem,
)
from ui.evaluate.form import PLACED_BY_HAND, EvaluateForm, first_settings, pair_choices
from ui.evaluate.preparing import Preparation, Prepared, start_evaluation
from ui.evaluate.results import read_results, render_results
from ui.runs.words import short_title
from ui.services import RunServices
from ui.told import told
from ui.train.cards import render_refused, render_started


class EvaluateHandlers:
    """Answers the tab; nothing is kept here, so any number of tabs may be open."""

    def __init__(self, preparation: Preparation, form: EvaluateForm, runs: RunServices):
        self._preparation, self._form, self._runs = preparation, form, runs

    def preview(self, *values: Any) -> list[Any]:
        """Answer a change: marks, cost, and whether it can be started."""
        settings = self._form.settings
        inputs = dict(zip(settings.inputs, values[len(PLACED_BY_HAND) :], strict=True))
        prepared = self._prepare(values)
        first = first_settings(self._preparation)
        marks = settings.marks(inputs, start=first, problems=prepared.problems)
        return [
            *(render_problem(prepared.problems.get(name, "")) for name in PLACED_BY_HAND),
            *settings.render_notes(marks),
            *settings.update_folds(marks),
            render_cost(prepared.cost),
            gr.Button(interactive=not prepared.obstacles),
            render_obstacles(prepared.obstacles),
        ]

    def start(self, *values: Any) -> str:
        """Put the evaluation into the queue."""
        try:
            run = start_evaluation(self._preparation.desk, self._prepare(values))
        except UserError as error:
            return render_refused(str(error))
        return render_started(run)

    def bring(self, path: str) -> Any:
        """Take a file of prompts, and choose it."""
        with told(title="Not taken"):
            name = self._preparation.desk.add_prompts(Path(path), name=Path(path).name)
        return gr.Dropdown(choices=self._preparation.desk.prompt_sets(), value=name)

    def renew(self, pair: Any, chosen: Any) -> list[Any]:
        """Offer what is there now: prompt sets, pairs, evaluations and their tables.

        What is chosen stays as the browser has it by now, but for a pair that is gone.
        """
        desk, pairs = self._preparation.desk, pair_choices(self._preparation)
        is_there = pair in [value for _, value in pairs]
        return [
            gr.update(choices=desk.prompt_sets()),
            gr.update(choices=pairs) if is_there else gr.update(choices=pairs, value=""),
            *self.results(chosen),
        ]

    def results(self, chosen: Any) -> list[Any]:
        """Show an evaluation, the newest if none is chosen."""
        found = [each for each in self._runs.catalogue.entries() if each.evaluation]
        entry = next((each for each in found if each.id == chosen), found[0] if found else None)
        offers = [(short_title(each), each.id) for each in found]
        menu = gr.Dropdown(choices=offers, value=entry.id if entry else None, visible=bool(found))
        return [menu, self._drawn(entry)]

    def _drawn(self, entry: RunEntry | None) -> str:
        head = render_evaluation(entry)
        if entry is None or entry.is_active:
            return head
        folder = self._runs.console.directory(entry.id).path
        return head + render_results(read_results(folder, entry.evaluation))

    def _prepare(self, values: Sequence[Any]) -> Prepared:
        prompts, pair, scorers, *rest = values
        inputs = dict(zip(self._form.settings.inputs, rest, strict=True))
        settings, problems = self._form.settings.read(inputs)
        named = {"prompts": prompts or "", "pair": pair or None, "scorers": scorers or []}
        return self._preparation.prepare({**settings, **named}, problems=problems)
