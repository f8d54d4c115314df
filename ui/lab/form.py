"""The form of the Alpha lab, made of the sweep's own settings."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from chats.config import SharedSettings
from chats.models.choices import ModelChoice
from chats.scoring import SCORERS
from chats.shapes import SHAPES_MODEL
from chats.sweeps.config import NO_SCORER, SweepConfig
from ui.compare.form import pair_choices
from ui.forms.checking import Choices
from ui.forms.form import SettingsForm
from ui.html import plain_html

FIRST = ("alphas", "scales", "seeds", "scorer")
NUM_EXAMPLES = 3
CHOSEN_ELSEWHERE = ("model", "pair")
_TITLES = {"alphas": "Proxy strengths α", "scales": "Guidance scales s", "num_steps": "Steps"}
_HELPS = {
    "alphas": "A list, or a range such as -0.5 to 1 by 0.25",
    "scales": "A list or a range; 0 is no guidance",
    "seeds": "The same for every cell: 0, 1, 2 or 0 to 3",
    "scorer": "Judges every picture by its prompt",
    "prompts": "One a line. Errors are measured between prompts: more of them tell more.",
}


@dataclass(frozen=True)
class LabForm:
    """The inputs, and the buttons beside them."""

    settings: SettingsForm
    choices: dict[str, Choices]
    model: gr.Dropdown
    cost: gr.HTML
    start: gr.Button
    stop: gr.Button


def build_lab_form(models: Sequence[ModelChoice]) -> LabForm:
    """Lay out the form with a start that suits the first model."""
    choices = {"scorer": scorer_choices(models[0])}
    settings = SettingsForm(
        SweepConfig,
        prefix="lab",
        start=first_sweep(models[0]),
        without=CHOSEN_ELSEWHERE,
        choices=choices,
        helps=_HELPS,
        titles=_TITLES,
    )
    with gr.Row(elem_classes="ask"):
        with gr.Column(scale=5, min_width=280):
            settings.place("prompts")
        with gr.Column(scale=1, min_width=150, elem_classes="go"):
            start = gr.Button("Start", variant="primary", elem_id="lab-start")
            stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="lab-stop")
    with gr.Row(elem_classes="settings"):
        settings.place(*FIRST)
        model = gr.Dropdown(
            pair_choices(models),
            value=models[0].id,
            label="Preference pair",
            info="What is swept",
            elem_id="lab-pair",
            min_width=180,
            visible=len(models) > 1,
        )
    with gr.Column(elem_classes="folds"):
        settings.place_rest()
    cost = plain_html("", elem_id="lab-cost")
    return LabForm(settings, choices, model, cost, start, stop)


def first_sweep(model: ModelChoice) -> SweepConfig:
    """Return the sweep that a page just opened offers."""
    start = SweepConfig(
        prompts=model.examples[:NUM_EXAMPLES] or ("a photo",),
        scales=tuple(sorted({min(30.0, model.scale * factor) for factor in (0.5, 1, 2)})),
        seeds=(0, 1),
        scorer="shapes" if model.name == SHAPES_MODEL else NO_SCORER,
    )
    return for_model(start, model)


def for_model(config: SweepConfig, model: ModelChoice) -> SweepConfig:
    """Return the sweep on a model and its pair."""
    return config.model_copy(update={"model": model.name, "pair": model.pair})


def scorer_choices(model: ModelChoice) -> list[tuple[str, str]]:
    """Return what can judge pictures of a model."""
    of_shapes = model.name == SHAPES_MODEL
    known = [
        (scorer.label, name)
        for name, scorer in SCORERS.items()
        if of_shapes or not name.startswith(SHAPES_MODEL)
    ]
    return [*known, ("None", NO_SCORER)]


SHARED = frozenset(SharedSettings.model_fields) - frozenset(CHOSEN_ELSEWHERE)
"""Settings that Compare and a sweep have in common."""
