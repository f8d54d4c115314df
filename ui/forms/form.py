"""A form made of any frozen settings model: inputs, marks beside them, and what they say.

The model's own schema says everything (see `ui.forms.fields`); a layout places the settings that
belong first and folds the rest, group by group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel

from ui.forms.checking import Choices, read_inputs, show_inputs
from ui.forms.fields import Ask, Group, Setting, all_settings, describe, value_at
from ui.html import plain_html

MAX_RADIO_CHOICES = 3


@dataclass(frozen=True)
class Marks:
    """What stands beside the settings: what is wrong, and what differs from the start."""

    problems: Mapping[str, str]
    changed: Mapping[str, str]
    """By the name of the setting: the value at the start, in words."""


class SettingsForm:
    """Inputs for the settings of a model; place them inside the layout that is being built.

    Attributes:
        groups: The settings that the form asks for.
        inputs: The components, by the names of the inputs.
        notes: What stands below each setting, by its name.
        folds: What holds the settings of a group that are not placed elsewhere, by its name.
    """

    def __init__(
        self,
        model: type[BaseModel],
        *,
        prefix: str,
        start: BaseModel,
        without: Sequence[str] = (),
        choices: Mapping[str, Choices] | None = None,
        helps: Mapping[str, str] | None = None,
        titles: Mapping[str, str] | None = None,
    ):
        """Prepare a form.

        Args:
            model: The settings model.
            prefix: What ids in the page begin with.
            start: What the inputs show at first.
            without: Names of settings that are not asked; paths never are.
            choices: Offers for settings whose values come from a list, as (title, value).
            helps: What is said here instead of the settings' own words.
            titles: How settings are called here instead of by their names.
        """
        self._prefix = prefix
        self._start = start.model_dump(mode="json")
        self._choices = dict(choices or {})
        self._helps = dict(helps or {})
        self.groups = _asked(describe(model), without=without, titles=titles or {})
        self.inputs: dict[str, Component] = {}
        self.notes: dict[str, gr.HTML] = {}
        self.folds: dict[str, gr.Accordion] = {}
        self._folded: dict[str, frozenset[str]] = {}
        self._settings = all_settings(self.groups)

    def place(self, *names: str) -> None:
        """Add the inputs of these settings to the layout that is being built."""
        for name in names:
            self._place(self._settings[name])

    def place_rest(self) -> None:
        """Add every setting that has no place yet, folded by group."""
        for group in self.groups:
            rest = [each for each in group.settings if each.name not in self.notes]
            if not rest:
                continue
            with gr.Accordion(
                fold_title(group), open=False, elem_classes="fold", elem_id=self._id(group.name)
            ) as fold:
                self.folds[group.name] = fold
                self._folded[group.name] = frozenset(each.name for each in rest)
                plain_html(f'<p class="fold-help">{escape(group.help)}</p>')
                with gr.Row(elem_classes="settings"):
                    for setting in rest:
                        self._place(setting)

    def show(self, config: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
        """Return what the inputs show for a model, by their names."""
        dumped = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
        shown = show_inputs(self.groups, dumped)
        return {name: shown[name] for name in self.inputs}

    def read(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the settings that the inputs say, nested, and problems with reading them."""
        return read_inputs(self.groups, inputs)

    def marks(
        self, inputs: Mapping[str, Any], *, start: BaseModel, problems: Mapping[str, str]
    ) -> Marks:
        """Compare the inputs with where they started."""
        shown, changed = self.show(start), {}
        for name in self.notes:
            setting = self._settings[name]
            if any(_differ(inputs.get(each), shown[each]) for each in setting.input_names):
                value = value_at(start.model_dump(mode="json"), setting.path)
                changed[name] = describe_value(setting, value)
        return Marks(problems=dict(problems), changed=changed)

    def render_notes(self, marks: Marks) -> list[str]:
        """Return what stands below each setting, in the order of `notes`."""
        return [
            render_note(name, marks.problems.get(name, ""), marks.changed.get(name))
            for name in self.notes
        ]

    def update_folds(self, marks: Marks) -> list[Any]:
        """Return titles of the folds that count what is marked inside; a fault opens its fold."""
        updates = []
        for group in self.groups:
            if group.name in self.folds:
                names = self._folded[group.name]
                num_wrong = len(names & marks.problems.keys())
                title = fold_title(
                    group, num_changed=len(names & marks.changed.keys()), num_wrong=num_wrong
                )
                is_open = {"open": True} if num_wrong else {}
                updates.append(gr.Accordion(label=title, **is_open))
        return updates

    def input_names_of(self, name: str) -> tuple[str, ...]:
        """Return the inputs of a setting; none for a name that is not asked."""
        return self._settings[name].input_names if name in self.notes else ()

    def _place(self, setting: Setting) -> None:
        with gr.Column(min_width=220, elem_classes="setting", elem_id=self._id(setting.name)):
            if setting.is_tuple:
                with gr.Row(elem_classes="items"):
                    self._place_inputs(setting)
            else:
                self._place_inputs(setting)
            self.notes[setting.name] = plain_html("", elem_classes="note")

    def _place_inputs(self, setting: Setting) -> None:
        values = setting.inputs(value_at(self._start, setting.path))
        for k, (name, ask) in enumerate(zip(setting.input_names, setting.asks, strict=True)):
            self.inputs[name] = make_input(
                setting,
                ask,
                value=values[k],
                label=setting.title if not setting.is_tuple else f"{setting.title}, {_NTH[k]}",
                info=self._info(setting) if k == 0 else " ",
                choices=self._choices.get(setting.name),
            )

    def _info(self, setting: Setting) -> str:
        text = self._helps.get(setting.name, setting.help)
        return f"{text} ({setting.range})" if setting.range else text

    def _id(self, name: str) -> str:
        return f"{self._prefix}-{name.replace('.', '-')}"


_NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def make_input(
    setting: Setting,
    ask: Ask,
    *,
    value: Any,
    label: str,
    info: str,
    choices: Choices | None = None,
) -> Component:
    """Make the component for one input; what it says is checked by the model, not by it."""
    words = {"label": label, "info": info, "min_width": 100}
    if ask.kind == "choice" or choices is not None:
        offers = list(choices or ((each, each) for each in ask.choices))
        if setting.is_optional:
            offers.insert(0, (setting.when_none, ""))
        kind = gr.Radio if len(offers) <= MAX_RADIO_CHOICES else gr.Dropdown
        return kind(offers, value=value, buttons=[], **words)
    if ask.kind == "several":
        return gr.CheckboxGroup(list(ask.choices), value=value, buttons=[], **words)
    if ask.kind == "switch":
        return gr.Checkbox(bool(value), buttons=[], **words)
    if ask.kind == "number" and ask.is_slider:
        step = 1 if ask.is_whole else 0.01
        return gr.Slider(ask.minimum, ask.maximum, value=value, step=step, buttons=[], **words)
    if ask.kind == "number":
        return gr.Number(value, buttons=[], **words)
    lines = 2 if ask.kind in ("lines", "yaml") else 1
    empty = setting.when_none or None
    return gr.Textbox(
        value, lines=lines, max_lines=max(lines, 8), placeholder=empty, buttons=[], **words
    )


def render_note(name: str, problem: str, was: str | None) -> str:
    """Draw what stands below a setting: what is wrong, and the way back to where it was."""
    parts = []
    if problem:
        parts.append(f'<p class="problem" role="alert">{escape(problem)}</p>')
    if was is not None:
        parts.append(
            f'<p class="changed">changed, was {escape(was)} '
            f'<button type="button" data-reset="{escape(name)}">reset</button></p>'
        )
    return "".join(parts)


def describe_value(setting: Setting, value: Any) -> str:
    """Say a value in words."""
    if value is None or value == "":
        return setting.when_none or "empty"
    if isinstance(value, bool):
        return "on" if value else "off"
    if value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(describe_value(setting, each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def fold_title(group: Group, *, num_changed: int = 0, num_wrong: int = 0) -> str:
    """Name a fold, with what is marked inside."""
    marks = [
        f"{num_changed} changed" if num_changed else "",
        f"{num_wrong} wrong" if num_wrong else "",
    ]
    return " · ".join([group.title or "More", *(mark for mark in marks if mark)])


def _asked(
    groups: Sequence[Group], *, without: Sequence[str], titles: Mapping[str, str]
) -> tuple[Group, ...]:
    asked = []
    for group in groups:
        settings = [each for each in group.settings if not each.is_path]
        kept = tuple(
            replace(each, title=titles.get(each.name, each.title))
            for each in settings
            if each.name not in without
        )
        if kept:
            asked.append(Group(group.name, group.help, kept))
    return tuple(asked)


def _differ(given: Any, start: Any) -> bool:
    """Compare as a person would: 2 and 2.0 are the same, True and 1 are not."""
    if isinstance(given, bool) != isinstance(start, bool):
        return True
    return given != start
