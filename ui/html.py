"""HTML of our own, without the style that gradio gives to running text."""

import gradio as gr


def plain_html(
    value: str, *, elem_id: str | None = None, elem_classes: str | None = None
) -> gr.HTML:
    """Place HTML that brings its own style and reacts to nothing."""
    return gr.HTML(
        value,
        elem_id=elem_id,
        elem_classes=elem_classes,
        apply_default_css=False,
        js_on_load=None,
        padding=False,
    )
