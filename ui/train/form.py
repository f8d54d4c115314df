"""The form of the Train tab: data, recipe, settings, review, laid out on one page."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from training.desk import DataSetSummary
from training.hardware import PlacedTraining
from ui.forms.form import SettingsForm
from ui.html import plain_html
from ui.train.cards import recipe_title, render_recipe
from ui.train.preparing import Preparation
from ui.train.starts import OF_THE_SOURCE, Start

CHOSEN_BY_RECIPE = ("model.kind", "objective.name", "model.base")
"""What is trained: asked beside the recipe."""

BASIC = (
    "optimizer.num_steps",
    "optimizer.learning_rate",
    "optimizer.batch_size",
    "optimizer.gradient_accumulation",
    "model.rank",
    "data.resolution",
    "run.mixed_precision",
    "run.seed",
)
"""Settings that most trainings change: asked first; all others are folded."""

FIRST_RECIPE = "shapes_demo"
STEPS = (
    ("Data", "The preferences that it learns from."),
    ("Recipe", "What is trained, and the settings to start from."),
    ("Settings", "What differs from the recipe is marked."),
    ("Review", "What it comes to, before anything starts."),
)
KIND_TITLES = {"lora": "LoRA pair", "full": "Full pair"}
OBJECTIVE_TITLES = {
    "chats": "CHATS",
    "chats-no-ref": "CHATS without reference",
    "diffusion-dpo": "Diffusion-DPO",
    "sft-preferred": "SFT on the preferred",
    "sft-all": "SFT on all",
    "diffusion-npo": "Diffusion-NPO",
}


@dataclass(frozen=True)
class TrainForm:
    """The components that handlers read and change."""

    settings: SettingsForm
    data: gr.Dropdown
    data_note: gr.HTML
    recipe: gr.Dropdown
    recipe_note: gr.HTML
    start_from: gr.State
    read_yaml: gr.UploadButton
    reset_all: gr.Button
    reset_one: gr.Button
    reset_name: gr.Textbox
    course: gr.HTML
    memory: gr.HTML
    command: gr.Textbox
    files: gr.HTML
    start: gr.Button
    reason: gr.HTML
    result: gr.HTML

    @property
    def fields(self) -> list[Component]:
        """The inputs of all settings."""
        return list(self.settings.inputs.values())

    @property
    def marks(self) -> list[Component]:
        """What is marked beside the settings."""
        return [*self.settings.notes.values(), *self.settings.folds.values()]


def build_train_form(preparation: Preparation) -> TrainForm:
    """Lay out the four steps."""
    desk = preparation.desk
    recipe = desk.find_recipe(FIRST_RECIPE)
    start = Start(recipe)
    settings = SettingsForm(
        PlacedTraining,
        prefix="train",
        start=start.settings(),
        choices={
            **preparation.choices,
            "model.kind": [(title, name) for name, title in KIND_TITLES.items()],
            "objective.name": [(title, name) for name, title in OBJECTIVE_TITLES.items()],
        },
        helps={
            "model.kind": "Small adapters on one base, or two whole denoisers.",
            "model.base": "What both models start from.",
            "objective.name": "What the training minimises.",
            "hardware.engine": "What starts its processes.",
            "hardware.num_processes": "How many; each takes a batch of its own.",
            "hardware.device": "For one process; others wait until it is free.",
        },
        without=OF_THE_SOURCE,
    )
    with gr.Column(elem_classes="steps"):
        with gr.Column(elem_classes="step"):
            _head(0)
            with gr.Column(elem_classes="step-body"):
                data, data_note = _data(desk.data_sets())
        with gr.Column(elem_classes="step"):
            _head(1)
            with gr.Column(elem_classes="step-body"):
                with gr.Row(elem_classes="recipe-row"):
                    chosen = gr.Dropdown(
                        [(recipe_title(each.name), each.name) for each in desk.recipes],
                        value=recipe.name,
                        label="Recipe",
                        elem_id="train-recipe",
                        min_width=220,
                        scale=3,
                        buttons=[],
                    )
                    read_yaml = gr.UploadButton(
                        "Read a YAML file",
                        file_types=[".yaml", ".yml"],
                        size="sm",
                        elem_id="train-read-yaml",
                        min_width=150,
                        scale=0,
                    )
                recipe_note = plain_html(render_recipe(recipe), elem_classes="note")
                with gr.Row(elem_classes="settings"):
                    settings.place(*CHOSEN_BY_RECIPE)
        with gr.Column(elem_classes="step"):
            _head(2)
            with gr.Column(elem_classes="step-body"):
                with gr.Row(elem_classes="settings"):
                    settings.place(*BASIC)
                with gr.Column(elem_classes="folds"):
                    settings.place_rest()
                reset_all = gr.Button(
                    "Back to the recipe", size="sm", elem_id="train-reset", elem_classes="quiet"
                )
        with gr.Column(elem_classes="step"):
            _head(3)
            with gr.Column(elem_classes="step-body"):
                course = plain_html("")
                memory = plain_html("", elem_id="train-memory")
                command = gr.Textbox(
                    label="The same from a terminal",
                    placeholder="It is shown once the settings are right.",
                    interactive=False,
                    lines=2,
                    max_lines=12,
                    buttons=["copy"],
                    elem_id="train-command",
                )
                files = plain_html("")
                with gr.Row(elem_classes="start-row"):
                    go = gr.Button(
                        "Start",
                        variant="primary",
                        interactive=False,
                        elem_id="train-start",
                        min_width=150,
                        scale=0,
                    )
                    reason = plain_html("", elem_id="train-reason")
                result = plain_html("", elem_id="train-result")
    reset_name = gr.Textbox(visible="hidden", elem_id="train-reset-name")
    reset_one = gr.Button("Reset", visible="hidden", elem_id="train-reset-one")
    return TrainForm(
        settings=settings,
        data=data,
        data_note=data_note,
        recipe=chosen,
        recipe_note=recipe_note,
        start_from=gr.State(start),
        read_yaml=read_yaml,
        reset_all=reset_all,
        reset_one=reset_one,
        reset_name=reset_name,
        course=course,
        memory=memory,
        command=command,
        files=files,
        start=go,
        reason=reason,
        result=result,
    )


def data_choices(data_sets: Sequence[DataSetSummary]) -> list[tuple[str, str]]:
    """Offer the data sets by name and size."""
    return [(f"{each.name} · {each.num_pairs:,} pairs", each.id) for each in data_sets]


def newest(data_sets: Sequence[DataSetSummary], *, unless: str | None = None) -> str | None:
    """Return the chosen data set if it is still there, else the newest."""
    ids = [each.id for each in data_sets]
    return unless if unless in ids else next(iter(ids), None)


def _data(data_sets: Sequence[DataSetSummary]) -> tuple[gr.Dropdown, gr.HTML]:
    choice = gr.Dropdown(
        data_choices(data_sets),
        value=newest(data_sets),
        label="Data set",
        elem_id="train-data",
        buttons=[],
    )
    return choice, plain_html("", elem_classes="note", elem_id="train-data-note")


def _head(index: int) -> None:
    title, line = STEPS[index]
    plain_html(
        f'<header class="step-head"><span class="step-number">{index + 1}</span>'
        f"<h2>{title}</h2><p>{line}</p></header>"
    )
