"""The parts of the Vote tab: the two pictures, what is asked, what is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from chats.models.choices import ModelChoice
from chats.shapes import SHAPES_MODEL
from training.votes.store import DEFAULT_NAME
from ui.compare.cards import render_status
from ui.compare.form import pair_choices
from ui.compare.methods import METHODS
from ui.html import plain_html
from ui.vote.cards import INTRO, train_label
from ui.vote.values import GRAMMAR, OWN, SOURCES, SPEC, default_contestants
from ui.vote.words import IDLE

NUM_SLOTS = 4
NOBODY = ""


@dataclass(frozen=True)
class VoteForm:
    """The components that handlers read and change.

    Attributes:
        slots: the fields of each contestant, by the names of `SPEC`.
        fields: what else is asked, by the names that the browser keeps.
    """

    slots: Sequence[Mapping[str, Component]]
    fields: Mapping[str, Component]
    start: gr.Button
    setup: gr.Accordion
    arena: gr.HTML
    told: gr.HTML
    status: gr.HTML
    stop: gr.Button
    count: gr.HTML
    train: gr.Button

    @property
    def inputs(self) -> list[Component]:
        """All fields: those of the slots, then the others."""
        return [
            *(slot[name] for slot in self.slots for name in SPEC),
            *self.fields.values(),
        ]

    def kept(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return what the browser keeps of the values of `inputs`."""
        specs = [
            dict(zip(SPEC, values[k * len(SPEC) : (k + 1) * len(SPEC)], strict=True))
            for k in range(NUM_SLOTS)
        ]
        rest = dict(zip(self.fields, values[NUM_SLOTS * len(SPEC) :], strict=True))
        return {"contestants": [spec for spec in specs if spec["method"] != NOBODY], **rest}

    def shown(self, kept: Any, models: Sequence[ModelChoice]) -> list[Any]:
        """Return what `inputs` show for what a browser kept, which is not trusted."""
        kept = kept if isinstance(kept, Mapping) else {}
        given = kept.get("contestants")
        specs = [each for each in given if isinstance(each, Mapping)] if given else []
        specs = specs[:NUM_SLOTS] or default_contestants(models)
        known = [model.id for model in models]
        values: list[Any] = []
        for slot in range(NUM_SLOTS):
            spec = specs[slot] if slot < len(specs) else {**specs[0], "method": NOBODY}
            chosen = spec.get("model") if spec.get("model") in known else known[0]
            values += [
                gr.Dropdown(choices=pair_choices(models), value=chosen, visible=len(models) > 1)
                if name == "model"
                else gr.update(value=spec.get(name))
                for name in SPEC
            ]
        values += [
            gr.update(value=kept[name]) if isinstance(kept.get(name), str) else gr.skip()
            for name in self.fields
        ]
        return values


def build_form(models: Sequence[ModelChoice]) -> VoteForm:
    """Lay out the tab: what is looked at first, what is set once below."""
    arena = plain_html(INTRO, elem_id="vote-arena")
    with gr.Row(elem_classes="vote-said"):
        told = plain_html("", elem_id="vote-told")
    with gr.Row(elem_classes="vote-progress"):
        status = plain_html(render_status(IDLE), elem_id="vote-status")
        stop = gr.Button(
            "Stop", variant="stop", size="sm", visible=False, min_width=0, elem_id="vote-stop"
        )
    with gr.Accordion("What is compared", open=True, elem_classes="advanced vote-setup") as setup:
        specs = default_contestants(models)
        slots = []
        slots = [_slot(number, specs[number], models) for number in range(2)]
        with gr.Accordion("More contestants", open=False, elem_classes="fold"):
            slots += [_slot(number, None, models) for number in range(2, NUM_SLOTS)]
        fields = _fields(models)
        start = gr.Button("Start voting", variant="primary", elem_id="vote-start", min_width=0)
    with gr.Row(elem_classes="vote-train"):
        train = gr.Button(
            train_label(0), interactive=False, elem_id="vote-train", min_width=0, scale=0
        )
        count = plain_html("", elem_id="vote-count")
    return VoteForm(
        slots=slots,
        fields=fields,
        start=start,
        setup=setup,
        arena=arena,
        told=told,
        status=status,
        stop=stop,
        count=count,
        train=train,
    )


def _slot(
    number: int, spec: Mapping[str, Any] | None, models: Sequence[ModelChoice]
) -> dict[str, Component]:
    """One contestant in a row; the first two always take part."""
    shown = spec or {**default_contestants(models)[0], "method": NOBODY}
    methods = [(text.title, name) for name, text in METHODS.items()]
    nobody = [] if number < 2 else [("Nobody", NOBODY)]
    with gr.Row(elem_classes="slot"):
        method = gr.Dropdown(
            [*nobody, *methods],
            value=shown["method"],
            label=f"Contestant {number + 1}",
            elem_id=f"vote-method-{number + 1}",
            min_width=120,
            scale=2,
        )
        model = gr.Dropdown(
            pair_choices(models),
            value=shown["model"],
            label="Preference pair",
            elem_id=f"vote-pair-{number + 1}",
            visible=len(models) > 1,
            min_width=140,
            scale=3,
        )
        scale = gr.Number(shown["scale"], label="s", minimum=0, maximum=30, min_width=60)
        alpha = gr.Number(shown["alpha"], label="α", minimum=-1, maximum=2, min_width=60)
        steps = gr.Number(
            shown["num_steps"], label="Steps", precision=0, minimum=1, maximum=200, min_width=60
        )
    return {
        "method": method,
        "model": model,
        "scale": scale,
        "alpha": alpha,
        "num_steps": steps,
    }


def _fields(models: Sequence[ModelChoice]) -> dict[str, Component]:
    knows_grammar = models[0].name == SHAPES_MODEL
    source = gr.Radio(
        list(SOURCES) if knows_grammar else [each for each in SOURCES if each[1] == OWN],
        value=GRAMMAR if knows_grammar else OWN,
        label="Prompts",
        elem_id="vote-source",
    )
    prompts = gr.Textbox(
        "\n".join(models[0].examples),
        label="Own prompts",
        lines=3,
        max_lines=12,
        visible=not knows_grammar,
        elem_id="vote-prompts",
    )
    source.change(
        lambda chosen: gr.Textbox(visible=chosen == OWN),
        source,
        prompts,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    with gr.Row(elem_classes="slot"):
        collection = gr.Textbox(
            DEFAULT_NAME,
            label="Collection",
            info="Votes of one name are one data set",
            max_lines=1,
            max_length=120,
            min_width=140,
            elem_id="vote-collection",
        )
        voter = gr.Textbox(
            "",
            label="Your name",
            info="Kept with each vote",
            max_lines=1,
            max_length=60,
            min_width=140,
            elem_id="vote-voter",
        )
    return {"source": source, "prompts": prompts, "collection": collection, "voter": voter}
