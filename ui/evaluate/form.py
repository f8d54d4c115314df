"""The form of the Evaluate tab: prompts, methods, scorers and what it comes to, on one page."""

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from chats.scoring.registry import SCORERS
from training.evaluate.desk import SUFFIXES
from training.hardware import PlacedEvaluation
from ui.evaluate.preparing import Preparation
from ui.forms.form import SettingsForm
from ui.html import plain_html

PLACED_BY_HAND = ("prompts", "pair", "scorers")
"""Settings with components of their own."""
STEPS = (
    ("Prompts", "What every method paints."),
    ("Methods", "The first is the baseline of differences and win rates."),
    ("Scorers", "Who judges the pictures."),
    ("Review", "What it comes to, before anything starts."),
)


@dataclass(frozen=True)
class EvaluateForm:
    """The components that handlers read and change."""

    settings: SettingsForm
    prompts: gr.Dropdown
    prompts_note: gr.HTML
    bring: gr.UploadButton
    pair: gr.Dropdown
    pair_note: gr.HTML
    scorers: gr.CheckboxGroup
    scorers_note: gr.HTML
    cost: gr.HTML
    start: gr.Button
    reason: gr.HTML
    result: gr.HTML

    @property
    def asked(self) -> list[Component]:
        """All inputs: those placed by hand in the order of PLACED_BY_HAND, then the form's."""
        return [self.prompts, self.pair, self.scorers, *self.settings.inputs.values()]

    @property
    def shown(self) -> list[Component]:
        """What a preview changes."""
        return [
            self.prompts_note,
            self.pair_note,
            self.scorers_note,
            *self.settings.notes.values(),
            *self.settings.folds.values(),
            self.cost,
            self.start,
            self.reason,
        ]


def first_settings(preparation: Preparation) -> PlacedEvaluation:
    """Return what the form shows at first: a model that is on offer."""
    offered = [name for _, name in preparation.desk.models()]
    first = PlacedEvaluation(output=preparation.desk.output)
    if first.model in offered or not offered:
        return first
    return first.model_copy(update={"model": offered[0]})


def build_form(preparation: Preparation) -> EvaluateForm:
    """Lay out the four steps."""
    first = first_settings(preparation)
    settings = SettingsForm(
        PlacedEvaluation,
        prefix="evaluate",
        start=first,
        choices=preparation.choices,
        helps={
            "methods": "One a line, as method,s=4,alpha=0.5; pair= names a run, name= what tables "
            "call it. Methods: standard, cfg, chats, chats-exact, preferred-cfg, npo.",
            "model": "What paints.",
            "max_prompts": "Empty takes all.",
            "hardware.engine": "What starts its processes.",
            "hardware.num_processes": "How many; they share the work and change no number.",
            "hardware.device": "For one process; others wait until it is free.",
        },
        without=PLACED_BY_HAND,
    )
    with gr.Column(elem_classes="steps"):
        with _step(0):
            with gr.Row(elem_classes="recipe-row"):
                prompts = gr.Dropdown(
                    preparation.desk.prompt_sets(),
                    value=first.prompts,
                    label="Prompt set",
                    info="One of these, or the id of a Hub data set: owner/name.",
                    allow_custom_value=True,
                    elem_id="evaluate-prompts",
                    min_width=220,
                    scale=3,
                    buttons=[],
                )
                bring = gr.UploadButton(
                    "Bring a file",
                    file_types=list(SUFFIXES),
                    size="sm",
                    elem_id="evaluate-bring",
                    min_width=150,
                    scale=0,
                )
            prompts_note = plain_html("", elem_classes="note", elem_id="evaluate-prompts-note")
            with gr.Row(elem_classes="settings"):
                settings.place("max_prompts", "seeds")
        with _step(1):
            settings.place("methods")
            with gr.Row(elem_classes="settings"):
                settings.place("model")
                with gr.Column(min_width=220, elem_classes="setting"):
                    pair = gr.Dropdown(
                        pair_choices(preparation),
                        value="",
                        label="Pair",
                        info="For methods that name none.",
                        elem_id="evaluate-pair",
                        min_width=100,
                        buttons=[],
                    )
                    pair_note = plain_html("", elem_classes="note")
        with _step(2):
            scorers = gr.CheckboxGroup(
                [(known.label, name) for name, known in SCORERS.items()],
                value=list(first.scorers),
                show_label=False,
                elem_id="evaluate-scorers",
            )
            scorers_note = plain_html("", elem_classes="note")
            with gr.Column(elem_classes="folds"):
                settings.place_rest()
        with _step(3):
            cost = plain_html("", elem_id="evaluate-cost")
            with gr.Row(elem_classes="start-row"):
                start = gr.Button(
                    "Start",
                    variant="primary",
                    interactive=False,
                    elem_id="evaluate-start",
                    min_width=150,
                    scale=0,
                )
                reason = plain_html("", elem_id="evaluate-reason")
            result = plain_html("", elem_id="evaluate-result")
    return EvaluateForm(
        settings=settings,
        prompts=prompts,
        prompts_note=prompts_note,
        bring=bring,
        pair=pair,
        pair_note=pair_note,
        scorers=scorers,
        scorers_note=scorers_note,
        cost=cost,
        start=start,
        reason=reason,
        result=result,
    )


def pair_choices(preparation: Preparation) -> list[tuple[str, str]]:
    """Offer the model's own pair and those of finished runs."""
    return [("the model's own", ""), *preparation.desk.pairs()]


def _step(index: int) -> gr.Column:
    """Open a step: its head stands, its body is the layout that is built within."""
    title, line = STEPS[index]
    with gr.Column(elem_classes="step"):
        plain_html(
            f'<header class="step-head"><span class="step-number">{index + 1}</span>'
            f"<h2>{title}</h2><p>{line}</p></header>"
        )
        return gr.Column(elem_classes="step-body")
