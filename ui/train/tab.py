"""The Train tab: its components connected with what they do."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from training.desk import TrainingDesk
from ui.train.form import build_train_form
from ui.train.handlers import TrainHandlers
from ui.train.preparing import Preparation

# Gradio needs a fixed value to read the form again after a restart; nothing secret is stored.
STORAGE_SECRET = "chats"

TakeUp = Callable[[gr.Button, gr.Textbox, str], None]
"""Connects a button, the id of a run, and the script that says which: the form is filled with what
the run did, and shown."""

Refill = Callable[[Any], Any]
"""Connects an event that wrote what the browser keeps: the form is filled with it."""


def kept_form() -> gr.BrowserState:
    """Have the browser keep the form; place it outside of tabs, which are made when opened."""
    return gr.BrowserState(None, storage_key="chats-train", secret=STORAGE_SECRET)


def build_train(
    desk: TrainingDesk, *, page: gr.Blocks, tab: gr.Tab, saved: gr.BrowserState
) -> tuple[TakeUp, Refill]:
    """Lay out the tab and connect its handlers.

    Returns:
        What connects "Rerun with changes", and what fills the form from `saved` after an event.
    """
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
    private = {"api_visibility": "private"}
    quiet = {**private, "show_progress": "hidden", "preprocess": False}
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

    def take_up(button: gr.Button, run: gr.Textbox, script: str) -> None:
        filled = button.click(
            handlers.rerun,
            run,
            [form.result, form.data, *start_from, form.recipe, *form.fields],
            js=script,
            **quick,
        )
        shown_then = filled.success(None, js="() => window.chats.runs.tab('Train')", **private)
        follow(shown_then)

    return take_up, refill
