"""What happens when a person acts in the Train tab; the form says what is wrong where it is."""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.desk import TrainingDesk
from training.planning.counting import EstimateSupersededError
from training.recipe import write_recipe
from ui.tickets import Tickets
from ui.told import told
from ui.train.cards import (
    COUNTING,
    NOT_COUNTED,
    render_course,
    render_data_note,
    render_files,
    render_memory,
    render_memory_line,
    render_reason,
    render_recipe,
    render_refused,
    render_rerun,
    render_started,
)
from ui.train.form import TrainForm, data_choices, newest
from ui.train.preparing import Preparation, Prepared
from ui.train.starts import Start, start_of_browser, start_of_file, start_of_run

RESTS_AFTER_SECONDS = 0.5
"""The memory is counted when nothing has changed for so long."""

NOT_READ = "Not read"

logger = logging.getLogger(__name__)


class TrainHandlers:
    """What happens when a person acts; values in, component updates out.

    The inputs of a handler are the data set, the recipe that the form started from, and the values
    of all inputs as the browser sent them: the model judges them, no component.
    """

    def __init__(self, preparation: Preparation, form: TrainForm):
        self._desk: TrainingDesk = preparation.desk
        self._preparation = preparation
        self._form = form
        self._settings = form.settings
        self._estimates = Tickets()

    def preview(
        self, data_id: Any, start: Start, request: gr.Request, *values: Any
    ) -> tuple[Any, ...]:
        """Answer a change at once: marks, course, command, and whether it can be started."""
        self._estimates.begin(request.session_hash or "")
        inputs, prepared = self._prepare(data_id, values)
        marks = self._settings.marks(inputs, start=start.settings(), problems=prepared.problems)
        config = prepared.config
        command = ""
        if config:
            command = shlex.join(self._desk.command(config, start.recipe, prepared.hardware))
        return (
            *self._settings.render_notes(marks),
            *self._settings.update_folds(marks),
            render_data_note(prepared, num_data_sets=len(self._desk.data_sets())),
            render_course(prepared.course, speed=prepared.speed),
            command,
            render_files(write_recipe(config) if config else None),
            gr.Button(interactive=not prepared.obstacles),
            render_reason(prepared),
            {"data": data_id, "start": start.kept(), "inputs": inputs},
        )

    def estimate(
        self, data_id: Any, start: Start, request: gr.Request, *values: Any
    ) -> Iterator[Any]:
        """Count the memory once the form rests; newer input ends it."""
        session = request.session_hash or ""
        ticket = self._estimates.start(session)
        try:
            _, prepared = self._prepare(data_id, values)
            if prepared.config is None:
                yield render_memory_line(NOT_COUNTED)
            elif not ticket.wait(RESTS_AFTER_SECONDS):
                yield render_memory_line(COUNTING)
                yield self._memory(prepared, ticket)
        except EstimateSupersededError:
            pass
        finally:
            self._estimates.finish(session, ticket)

    def start(self, data_id: Any, *values: Any) -> str:
        """Hand the training in."""
        _, prepared = self._prepare(data_id, values)
        try:
            return render_started(start_training(self._desk, prepared))
        except UserError as error:
            return render_refused(str(error))

    def choose(self, name: Any) -> tuple[Any, ...]:
        """Fill the form from one of our recipes."""
        with told(title=NOT_READ):
            start = Start(self._desk.find_recipe(name))
        return (start, render_recipe(start.recipe), *self._filled(start))

    def reset(self, start: Start) -> list[Any]:
        """Fill the form from its start again."""
        return self._filled(start)

    def reset_one(self, name: Any, start: Start) -> list[Any]:
        """Take one setting back to what the start says."""
        names = self._settings.input_names_of(name) if isinstance(name, str) else ()
        shown = self._settings.show(start.settings())
        return [shown[each] if each in names else gr.skip() for each in shown]

    def read_yaml(self, path: str) -> tuple[Any, ...]:
        """Fill the form from an uploaded recipe, or from the config.yaml of a run."""
        with told(title=NOT_READ):
            start, left_out = start_of_file(Path(path), self._desk)
        note = render_recipe(start.recipe, left_out=left_out)
        return (start, note, gr.update(value=None), *self._filled(start))

    def rerun(self, run_id: Any) -> tuple[Any, ...]:
        """Fill the form with what a run did."""
        with told(title="Not possible"):
            start, data_id = start_of_run(run_id, self._desk)
        data = gr.Dropdown(choices=data_choices(self._desk.data_sets()), value=data_id)
        note = render_rerun(run_id, has_data=data_id is not None)
        return ("", data, start, note, gr.update(value=None), *self._filled(start))

    def restore(self, saved: Any) -> tuple[Any, ...]:
        """Fill the form from what the browser kept; what it kept is not trusted."""
        data_sets = self._desk.data_sets()
        choices = data_choices(data_sets)
        kept = saved if isinstance(saved, Mapping) else {}
        data = gr.Dropdown(choices=choices, value=newest(data_sets, unless=kept.get("data")))
        try:
            start, name = start_of_browser(kept.get("start"), self._desk)
        except UserError:
            return (data, *[gr.skip()] * (3 + len(self._settings.inputs)))
        inputs = kept.get("inputs") if isinstance(kept.get("inputs"), Mapping) else {}
        shown = {**self._settings.show(start.settings()), **inputs}
        values = [shown[each] for each in self._settings.inputs]
        return (data, start, render_recipe(start.recipe), gr.update(value=name), *values)

    def list_data(self, current: Any) -> Any:
        """List the data sets anew."""
        data_sets = self._desk.data_sets()
        return gr.Dropdown(choices=data_choices(data_sets), value=newest(data_sets, unless=current))

    def leave(self, request: gr.Request) -> None:
        """End what a tab that is closed was counting."""
        self._estimates.leave(request.session_hash or "")

    def _prepare(self, data_id: Any, values: Sequence[Any]) -> tuple[dict[str, Any], Prepared]:
        inputs = dict(zip(self._settings.inputs, values, strict=True))
        settings, problems = self._settings.read(inputs)
        return inputs, self._preparation.prepare(settings, data_id=data_id, problems=problems)

    def _memory(self, prepared: Prepared, ticket: Any) -> str:
        try:
            report = self._desk.estimate(prepared.config, prepared.place, ticket)
            return render_memory(report, num_processes=prepared.place.engine.num_processes)
        except UserError as error:
            return render_memory_line(str(error), is_problem=True)
        except EstimateSupersededError:
            raise
        except Exception as error:
            logger.exception("The memory could not be counted")
            text = f"The memory could not be counted: {type(error).__name__}: {error}"
            return render_memory_line(text, is_problem=True)

    def _filled(self, start: Start) -> list[Any]:
        return list(self._settings.show(start.settings()).values())


def start_training(desk: TrainingDesk, prepared: Prepared) -> str:
    """Hand a training in and return its run's id.

    Raises:
        UserError: Something stands in its way.
    """
    if prepared.obstacles or prepared.config is None:
        raise UserError("\n".join(prepared.obstacles))
    return desk.submit(prepared.config, prepared.hardware)
