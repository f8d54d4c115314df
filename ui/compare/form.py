"""The form of the Compare tab: what a person sets, laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from chats.config import Shaping
from ui.compare.methods import METHODS, SHOWN_FIRST
from ui.compare.values import MAX_BATCH
from ui.services import ModelChoice

SCHEDULERS = (
    ("The model's own", "default"),
    ("DDIM", "ddim"),
    ("Euler", "euler"),
    ("Euler ancestral", "euler-ancestral"),
    ("DPM++ multistep", "dpm++"),
    ("UniPC", "unipc"),
)
_SHAPING_LABELS = {
    "refresh_every": "New difference every",
    "rescale": "Guidance rescale φ",
    "apg_eta": "APG η",
    "apg_threshold": "APG threshold",
    "apg_momentum": "APG momentum",
}
ALPHA_RANGE = (-0.5, 1.0)
SCALE_RANGE = (0.0, 15.0)
"""Ends of the sliders."""
MAX_DRAWN_SEED = 1_000_000
GO_LIVE = "(live) => { if (live) window.chats.live(); return []; }"
ROLL_DICE = f"""(live) => {{
    if (live) window.chats.live();
    return Math.floor(Math.random() * {MAX_DRAWN_SEED});
}}"""


@dataclass(frozen=True)
class CompareForm:
    """The fields by the name of the setting, and the buttons."""

    fields: Mapping[str, Component]
    generate: gr.Button
    stop: gr.Button
    read_png: gr.UploadButton
    sweep: gr.Button
    """Takes the form to the Alpha lab."""


def build_form(
    models: Sequence[ModelChoice], *, offers_cpu: bool = False, can_sweep: bool = False
) -> CompareForm:
    """Lay out the form with the defaults that suit the first model.

    Args:
        models: those on offer.
        offers_cpu: whether pictures may be made on the CPU, beside a GPU that is in use.
        can_sweep: whether there is an Alpha lab.
    """
    model = models[0]
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(
            label="Prompt",
            placeholder="What should the pictures show? Ctrl+Enter generates.",
            lines=2,
            max_lines=6,
            autofocus=True,
            elem_id="chats-prompt",
            scale=5,
        )
        with gr.Column(scale=1, min_width=150, elem_classes="go"):
            generate = gr.Button("Generate", variant="primary", elem_id="chats-generate")
            stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="chats-stop")
    with gr.Row(elem_classes="chips"):
        for text in model.examples:
            chip = gr.Button(text, size="sm", elem_classes="chip", min_width=0)
            chip.click(None, None, prompt, js=f"() => {text!r}", api_visibility="private")
    with gr.Row(elem_classes="dials"):
        dials = _dials(model, offers_cpu=offers_cpu)
        dials["model"] = gr.Dropdown(
            pair_choices(models),
            value=model.id,
            label="Preference pair",
            elem_id="chats-pair",
            elem_classes="pair",
            min_width=180,
            visible=len(models) > 1,
        )
    dials["model"].input(None, dials["live"], js=GO_LIVE, api_visibility="private")
    with gr.Accordion("Advanced", open=False, elem_classes="advanced"):
        advanced, read_png = _advanced(model)
    sweep = gr.Button(
        "Sweep from here",
        size="sm",
        visible=can_sweep,
        elem_id="chats-sweep",
        elem_classes="quiet",
    )
    return CompareForm(
        fields={"prompt": prompt, **dials, **advanced},
        generate=generate,
        stop=stop,
        read_png=read_png,
        sweep=sweep,
    )


def pair_choices(models: Sequence[ModelChoice]) -> list[tuple[str, str]]:
    """Return the pairs on offer for a menu, those of other models with the model's title."""
    first = models[0].name
    titles = {model.name: "" if model.name == first else f"{model.title}: " for model in models}
    return [(titles[model.name] + model.pair_title, model.id) for model in models]


def _dials(model: ModelChoice, *, offers_cpu: bool) -> dict[str, Component]:
    """α, s and the seed: what moves the pictures while they are looked at."""
    alpha = gr.Slider(
        *ALPHA_RANGE,
        value=model.alpha,
        step=0.05,
        label="Proxy strength α",
        info="How far the proxy opposes the prompt",
        buttons=[],
        elem_id="chats-alpha",
        min_width=150,
    )
    scale = gr.Slider(
        *SCALE_RANGE,
        value=model.scale,
        step=0.5,
        label="Guidance scale s",
        info="0 is none; in diffusers it is 1 + s",
        buttons=[],
        elem_id="chats-scale",
        min_width=150,
    )
    with gr.Column(min_width=220, elem_classes="seed"):
        with gr.Row(elem_classes="seed-row"):
            seed = gr.Number(
                0, precision=0, label="Seed", elem_id="chats-seed", min_width=90, scale=3
            )
            dice = gr.Button("Dice", size="sm", elem_id="chats-dice", min_width=64, scale=1)
        with gr.Row(elem_classes="switches"):
            locked = gr.Checkbox(True, label="Keep seed", container=False, min_width=100)
            live = gr.Checkbox(model.is_fast, label="Live", container=False, min_width=70)
            on_cpu = gr.Checkbox(
                False,
                label="On the CPU",
                container=False,
                min_width=100,
                visible=offers_cpu,
                elem_id="chats-on-cpu",
            )
    for dial in (alpha, scale, seed):
        dial.input(None, live, js=GO_LIVE, api_visibility="private")
    dice.click(None, live, seed, js=ROLL_DICE, api_visibility="private")
    switches = {"locked": locked, "live": live, "on_cpu": on_cpu}
    return {"alpha": alpha, "scale": scale, "seed": seed, **switches}


def _advanced(model: ModelChoice) -> tuple[dict[str, Component], gr.UploadButton]:
    methods = gr.CheckboxGroup(
        [(text.title, name) for name, text in METHODS.items()],
        value=list(SHOWN_FIRST),
        label="Methods shown",
        elem_id="chats-methods",
    )
    negative_prompt = gr.Textbox(
        label="Negative prompt",
        placeholder="What the pictures should avoid; it takes the place of the empty prompt",
        lines=1,
        max_lines=3,
    )
    with gr.Row():
        num_steps = gr.Slider(
            1, 200, value=model.num_steps, step=1, label="Steps", min_width=160, buttons=[]
        )
        batch = gr.Slider(1, MAX_BATCH, value=1, step=1, label="Seeds", min_width=160, buttons=[])
        scheduler = gr.Dropdown(list(SCHEDULERS), value="default", label="Scheduler", min_width=160)
    with gr.Row():
        width = gr.Number(
            model.width or 0, precision=0, label="Width", info="0: the model's own", min_width=120
        )
        height = gr.Number(
            model.height or 0, precision=0, label="Height", info="0: the model's own", min_width=120
        )
        start = gr.Slider(
            0,
            1,
            value=0,
            step=0.05,
            label="Guidance from",
            info="Fraction of the steps",
            min_width=160,
        )
        end = gr.Slider(
            0,
            1,
            value=1,
            step=0.05,
            label="Guidance until",
            info="Fraction of the steps",
            min_width=160,
        )
    with gr.Row():
        shaping = shaping_fields()
    read_png = gr.UploadButton(
        "Read settings from a PNG", file_types=[".png"], size="sm", elem_id="chats-read-png"
    )
    fields = {
        "methods": methods,
        "negative_prompt": negative_prompt,
        "num_steps": num_steps,
        "batch": batch,
        "scheduler": scheduler,
        "width": width,
        "height": height,
        "interval_start": start,
        "interval_end": end,
        **shaping,
    }
    return fields, read_png


def shaping_fields() -> dict[str, Component]:
    """Return a field for each setting of `chats.config.Shaping`, with its docstring as its help."""
    return {
        name: gr.Number(
            field.default,
            precision=0 if field.annotation is int else None,
            label=_SHAPING_LABELS[name],
            info=" ".join(field.description.split()),
            min_width=160,
        )
        for name, field in Shaping.model_fields.items()
    }
