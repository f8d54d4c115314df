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
    preview = (handlers.preview, form.asked, form.shown)
    gr.on([each.input for each in form.asked], *preview, trigger_mode="always_last", **quick)
    brought = form.bring.upload(
        handlers.bring, form.bring, form.prompts, **{**quick, "preprocess": True}
    )
    brought.then(*preview, **quick)
    renewed = tab.select(
        handlers.renew,
        [form.prompts, form.pair, chosen],
        [form.prompts, form.pair, chosen, results],
        **quick,
    )
    renewed.then(*preview, **quick)
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
