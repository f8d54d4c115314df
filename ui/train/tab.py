"""The Train tab: data, recipe, settings, review; the form says what is wrong where it is wrong."""

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.config import TrainingConfig
from training.desk import EstimateSupersededError, TrainingDesk
from training.recipe import Recipe, complete, make_recipe, write_recipe
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
    render_started,
)
from ui.train.form import OF_THE_SOURCE, TrainForm, build_train_form, data_choices, newest
from ui.train.preparing import BASE, Preparation, Prepared
from ui.train.untrusted_yaml import MAX_BYTES, read_untrusted_yaml

RESTS_AFTER_SECONDS = 0.5
"""The memory is counted when nothing has changed for so long."""

# Gradio needs a fixed value to read the form again after a restart; nothing secret is stored.
STORAGE_SECRET = "chats"

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
        self, data_id: Any, start: Recipe, request: gr.Request, *values: Any
    ) -> tuple[Any, ...]:
        """Answer a change at once: marks, course, command, and whether it can be started."""
        self._estimates.begin(request.session_hash or "")
        inputs, prepared = self._prepare(data_id, values)
        marks = self._settings.marks(inputs, start=complete(start), problems=prepared.problems)
        config = prepared.config
        command = shlex.join(self._desk.command(config, start)) if config else ""
        return (
            *self._settings.render_notes(marks),
            *self._settings.update_folds(marks),
            render_data_note(prepared, num_data_sets=len(self._desk.data_sets())),
            render_course(prepared.course, speed=prepared.speed),
            command,
            render_files(write_recipe(config) if config else None),
            gr.Button(interactive=not prepared.obstacles),
            render_reason(prepared),
            {"data": data_id, "recipe": _saved(start), "inputs": inputs},
        )

    def estimate(
        self, data_id: Any, start: Recipe, request: gr.Request, *values: Any
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
                yield self._memory(prepared.config, ticket)
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
            recipe = self._desk.find_recipe(name)
        return (recipe, render_recipe(recipe), *self._filled(recipe))

    def reset(self, start: Recipe) -> list[Any]:
        """Fill the form from the recipe again."""
        return self._filled(start)

    def reset_one(self, name: Any, start: Recipe) -> list[Any]:
        """Take one setting back to what the recipe says."""
        names = self._settings.input_names_of(name) if isinstance(name, str) else ()
        shown = self._settings.show(complete(start))
        return [shown[each] if each in names else gr.skip() for each in shown]

    def read_yaml(self, path: str) -> tuple[Any, ...]:
        """Fill the form from an uploaded recipe, or from the config.yaml of a run."""
        file = Path(path)
        with told(title=NOT_READ):
            if file.stat().st_size > MAX_BYTES:
                raise UserError(f"{file.name} is longer than settings can be.")
            content = read_untrusted_yaml(file.read_bytes())
            recipe, left_out = make_recipe(content, name=file.name)
            self._check_offered(complete(recipe))
            left_out += _of_the_source(recipe)
        note = render_recipe(recipe, left_out=left_out)
        return (recipe, note, gr.update(value=None), *self._filled(recipe))

    def restore(self, saved: Any) -> tuple[Any, ...]:
        """Fill the form from what the browser kept; what it kept is not trusted."""
        data_sets = self._desk.data_sets()
        choices = data_choices(data_sets)
        kept = saved if isinstance(saved, Mapping) else {}
        data = gr.Dropdown(choices=choices, value=newest(data_sets, unless=kept.get("data")))
        try:
            recipe, name = self._kept_recipe(kept.get("recipe"))
        except UserError:
            return (data, *[gr.skip()] * (3 + len(self._settings.inputs)))
        inputs = kept.get("inputs") if isinstance(kept.get("inputs"), Mapping) else {}
        shown = {**self._settings.show(complete(recipe)), **inputs}
        values = [shown[each] for each in self._settings.inputs]
        return (data, recipe, render_recipe(recipe), gr.update(value=name), *values)

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

    def _memory(self, config: TrainingConfig, ticket: Any) -> str:
        try:
            return render_memory(self._desk.estimate(config, ticket))
        except UserError as error:
            return render_memory_line(str(error), is_problem=True)
        except EstimateSupersededError:
            raise
        except Exception as error:
            logger.exception("The memory could not be counted")
            text = f"The memory could not be counted: {type(error).__name__}: {error}"
            return render_memory_line(text, is_problem=True)

    def _filled(self, recipe: Recipe) -> list[Any]:
        return list(self._settings.show(complete(recipe)).values())

    def _check_offered(self, config: TrainingConfig) -> None:
        offered = [name for _, name in self._preparation.choices[BASE]]
        if config.model.base not in offered:
            raise UserError(
                f"{BASE}: {config.model.base!r:.80} is not on offer here. There is: "
                f"{', '.join(offered)}."
            )

    def _kept_recipe(self, kept: Any) -> tuple[Recipe, str | None]:
        if not isinstance(kept, Mapping):
            raise UserError("Nothing was kept.")
        if kept.get("settings") is None:
            recipe = self._desk.find_recipe(kept.get("name"))
            return recipe, recipe.name
        recipe, _ = make_recipe(kept["settings"], name=str(kept.get("name"))[:200])
        return recipe, None


def start_training(desk: TrainingDesk, prepared: Prepared) -> str:
    """Hand a training in and return its run's id.

    Raises:
        UserError: Something stands in its way.
    """
    if prepared.obstacles or prepared.config is None:
        raise UserError("\n".join(prepared.obstacles))
    return desk.submit(prepared.config)


def kept_form() -> gr.BrowserState:
    """Have the browser keep the form; place it outside of tabs, which are made when opened."""
    return gr.BrowserState(None, storage_key="chats-train", secret=STORAGE_SECRET)


def build_train(
    desk: TrainingDesk, *, page: gr.Blocks, tab: gr.Tab, saved: gr.BrowserState
) -> Callable[[Any], Any]:
    """Lay out the tab and connect its handlers; returns what fills the form from `saved` again."""
    preparation = Preparation(desk)
    form = build_train_form(preparation)
    handlers = TrainHandlers(preparation, form)
    asked = [form.data, form.start_from, *form.fields]
    shown = [
        *form.marks,
        form.data_note,
        form.course,
        form.command,
        form.files,
        form.start,
        form.reason,
        saved,
    ]
    # Values come as the browser sent them: a component that refuses one would keep us from saying
    # what is wrong where it is wrong.
    quiet = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    quick = {**quiet, "queue": False}

    def count(event: Any) -> None:
        event.then(
            handlers.estimate,
            asked,
            form.memory,
            trigger_mode="multiple",
            concurrency_id="estimates",
            concurrency_limit=4,
            **quiet,
        )

    def follow(event: Any) -> None:
        count(event.then(handlers.preview, asked, shown, trigger_mode="multiple", **quick))

    typed = [form.data.input, *(each.input for each in form.fields)]
    count(gr.on(typed, handlers.preview, asked, shown, trigger_mode="always_last", **quick))
    start_from = [form.start_from, form.recipe_note]
    follow(form.recipe.input(handlers.choose, form.recipe, [*start_from, *form.fields], **quick))
    follow(form.reset_all.click(handlers.reset, form.start_from, form.fields, **quick))
    follow(
        form.reset_one.click(
            handlers.reset_one,
            [form.reset_name, form.start_from],
            form.fields,
            js="(name, start) => [window.chats.resetting, start]",
            **quick,
        )
    )
    follow(
        form.read_yaml.upload(
            handlers.read_yaml,
            form.read_yaml,
            [*start_from, form.recipe, *form.fields],
            **{**quick, "preprocess": True},
        )
    )
    restored = [form.data, *start_from, form.recipe, *form.fields]
    follow(page.load(handlers.restore, saved, restored, **quick))

    def refill(event: Any) -> Any:
        filled = event.success(handlers.restore, saved, restored, **quick)
        follow(filled)
        return filled

    follow(tab.select(handlers.list_data, form.data, form.data, **quick))
    form.start.click(
        handlers.start,
        [form.data, *form.fields],
        form.result,
        trigger_mode="once",
        concurrency_id="train-start",
        concurrency_limit=1,
        **quiet,
    )
    page.unload(handlers.leave)
    return refill


def _saved(recipe: Recipe) -> dict[str, Any]:
    """Return what the browser keeps of a recipe: one of ours by its name, another one whole."""
    settings = None if recipe.path is not None else recipe.settings
    return {"name": recipe.name, "settings": settings}


def _of_the_source(recipe: Recipe) -> tuple[str, ...]:
    given = {f"{group}.{name}" for group, values in recipe.settings.items() for name in values}
    return tuple(name for name in OF_THE_SOURCE if name in given)
