"""The components of the Runs tab, as they stand on the page."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ui.html import plain_html
from ui.runs.view import BUTTONS

LABELS = {
    "stop": "Stop and save",
    "kill": "Kill",
    "resume": "Resume",
    "score": "Score it",
    "rerun": "Rerun with changes",
    "delete": "Delete",
}
VARIANTS = {"stop": "secondary", "resume": "primary", "score": "secondary", "rerun": "secondary"}


@dataclass(frozen=True)
class Layout:
    """The components, by what they are for."""

    asked: list[Component]
    """What a browser says it wants to see; see `Asked`."""
    views: tuple[gr.Column, gr.Column]
    parts: dict[str, list[Any]]
    buttons: dict[str, gr.Button]
    use: gr.Button
    push: tuple[gr.Textbox, gr.Checkbox, gr.Button, gr.HTML]
    download: gr.Button
    file: gr.DownloadButton


def lay_out() -> Layout:
    """Place them; everything is empty until somebody looks."""
    opened = gr.Textbox(visible=False)
    with gr.Column(elem_id="runs-page"):
        place = plain_html("")
        with gr.Column(elem_classes="runs-list") as list_view:
            active, ended = plain_html(""), plain_html("")
        with gr.Column(visible=False, elem_classes="run-page") as page_view:
            plain_html('<p class="back"><a href="?" data-run="">All runs</a></p>')
            head = plain_html("")
            with gr.Row(elem_classes="run-buttons"):
                use = gr.Button(
                    "Use this pair",
                    variant="primary",
                    elem_id="runs-use",
                    size="md",
                    visible=False,
                    min_width=0,
                )
                buttons = {
                    name: gr.Button(
                        LABELS[name],
                        variant=VARIANTS.get(name, "stop"),
                        elem_id=f"runs-{name}",
                        visible=False,
                        size="md",
                        min_width=0,
                    )
                    for name in BUTTONS
                }
            with gr.Accordion("Push to the Hub", open=False, visible=False) as pushing:
                push = _push_form()
            with gr.Row(elem_classes="curve-dials") as dials:
                others = gr.Dropdown(
                    [],
                    value=[],
                    multiselect=True,
                    label="Lay over",
                    info="Curves and settings of other runs",
                    elem_id="runs-others",
                    interactive=True,
                    scale=3,
                )
                smoothing = gr.Slider(
                    0,
                    0.98,
                    value=0.6,
                    step=0.02,
                    label="Smoothing",
                    buttons=[],
                    min_width=160,
                    info="Raw values stay faintly behind",
                    elem_id="runs-smoothing",
                )
            curves = plain_html("", elem_id="runs-curves")
            with gr.Column(visible=False) as sample_box:
                plain_html("<h3>Pictures on the way</h3>")
                step = gr.Slider(
                    0,
                    1,
                    value=0,
                    step=1,
                    label="Step",
                    buttons=[],
                    elem_id="runs-step",
                    visible=False,
                )
                samples = plain_html("", elem_id="runs-samples")
            with gr.Row(elem_classes="log-dials"):
                plain_html("<h3>Log</h3>")
                file = gr.Radio(
                    [("Log", "log"), ("All output", "output")],
                    value="log",
                    show_label=False,
                    container=False,
                    elem_id="runs-file",
                )
                search = gr.Textbox(
                    placeholder="Find in the whole log",
                    show_label=False,
                    container=False,
                    max_length=200,
                    elem_id="runs-search",
                    min_width=140,
                )
                download = gr.Button("Download", size="sm", min_width=0, elem_id="runs-download")
            log = plain_html("", elem_id="runs-log")
            with gr.Accordion("Settings", open=False, elem_id="runs-settings"):
                settings = plain_html("")
    sent = gr.DownloadButton(visible="hidden", elem_id="runs-sent")
    return Layout(
        asked=[opened, others, smoothing, step, file, search],
        views=(list_view, page_view),
        parts={
            "place": [place],
            "active": [active],
            "ended": [ended],
            "head": [head],
            "buttons": [use, *buttons.values(), pushing],
            "dials": [dials],
            "curves": [curves],
            "sample_box": [sample_box],
            "step": [step],
            "samples": [samples],
            "log": [log],
            "settings": [settings],
        },
        buttons=buttons,
        use=use,
        push=push,
        download=download,
        file=sent,
    )


def _push_form() -> tuple[gr.Textbox, gr.Checkbox, gr.Button, gr.HTML]:
    with gr.Row(elem_classes="push-row"):
        name = gr.Textbox(
            label="Repository", placeholder="owner/name", elem_id="runs-repo", min_width=180
        )
        private = gr.Checkbox(True, label="Private", container=False, min_width=80)
        button = gr.Button("Push", elem_id="runs-push", min_width=0)
    return name, private, button, plain_html("", elem_id="runs-pushed")
