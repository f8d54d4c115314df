"""The Evaluate tab: its components connected with what they do."""

import gradio as gr

from training.evaluate.desk import EvaluationDesk
from ui.evaluate.form import build_form
from ui.evaluate.handlers import EvaluateHandlers
from ui.evaluate.preparing import Preparation
from ui.html import plain_html
from ui.services import RunServices


def build_evaluate(desk: EvaluationDesk, runs: RunServices, *, tab: gr.Tab) -> None:
    """Lay out the tab and connect its handlers."""
    preparation = Preparation(desk)
    form = build_form(preparation)
    handlers = EvaluateHandlers(preparation, form, runs)
    with gr.Column(elem_classes="evaluate-results"):
        plain_html("<h2>Results</h2>")
        chosen = gr.Dropdown(
            [], label="Evaluation", elem_id="evaluate-chosen", visible=False, buttons=[]
        )
        results = plain_html("", elem_id="evaluate-results")
    # Values come as the browser sent them: what is wrong is said where it is wrong.
    quiet = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
    quick = {**quiet, "queue": False}
    # One event for all that changes the form: of several at once, the last is shown.
    # To gradio a text that replaces another at once, as when it is pasted, is a change, no input.
    texts = (form.prompts, *(each for each in form.asked if isinstance(each, gr.Textbox)))
    others = (each for each in form.asked if each not in texts)
    changes = [tab.select, *(each.change for each in texts), *(each.input for each in others)]
    gr.on(changes, handlers.preview, form.asked, form.shown, trigger_mode="always_last", **quick)
    form.bring.upload(handlers.bring, form.bring, form.prompts, **{**quick, "preprocess": True})
    tab.select(
        handlers.renew,
        [form.pair, chosen],
        [form.prompts, form.pair, chosen, results],
        **quick,
    )
    chosen.input(handlers.results, chosen, [chosen, results], **quick)
    form.start.click(
        handlers.start,
        form.asked,
        form.result,
        trigger_mode="once",
        concurrency_id="evaluate-start",
        concurrency_limit=1,
        **quiet,
    )
