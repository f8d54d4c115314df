"""From what a form says to a model, or to what is wrong with it, setting by setting."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chats.errors import UserError
from ui.forms.fields import Group, Setting, all_settings, nest, value_at

Model = TypeVar("Model", bound=BaseModel)
Choices = Sequence[tuple[str, str]]
"""What a list offers, as (title, value)."""


@dataclass(frozen=True)
class Checked(Generic[Model]):
    """A model, or all that is wrong, by the name of the setting; "" is what no setting is at."""

    config: Model | None
    problems: Mapping[str, str] = field(default_factory=dict)


def show_inputs(groups: Sequence[Group], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every input shows for a dumped model, by the name of the input."""
    shown: dict[str, Any] = {}
    for setting in all_settings(groups).values():
        values = setting.inputs(value_at(config, setting.path))
        shown |= zip(setting.input_names, values, strict=True)
    return shown


def read_inputs(
    groups: Sequence[Group], inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the inputs say, nested, and problems with reading them."""
    values, problems = {}, {}
    for setting in all_settings(groups).values():
        if not all(name in inputs for name in setting.input_names):
            continue
        try:
            said = [inputs[name] for name in setting.input_names]
            values[setting.path] = setting.value(said)
        except UserError as error:
            problems[setting.name] = str(error)
    return nest(values), problems


def check(
    model: type[Model],
    groups: Sequence[Group],
    settings: Mapping[str, Any],
    *,
    choices: Mapping[str, Choices],
) -> Checked[Model]:
    """Build the model; every setting that is wrong gets its own message, all of them at once.

    Args:
        model: The settings model.
        groups: Its settings.
        settings: Their values, nested.
        choices: The only values that settings of these names may have.
    """
    config, problems = None, {}
    try:
        config = model.model_validate(settings)
    except ValidationError as error:
        problems = explain(error, groups)
    problems |= dict(_not_offered(groups, settings, choices))
    return Checked(None if problems else config, problems)


def _not_offered(
    groups: Sequence[Group], settings: Mapping[str, Any], choices: Mapping[str, Choices]
) -> Iterator[tuple[str, str]]:
    for name, offers in choices.items():
        value: Any = settings
        for key in all_settings(groups)[name].path:
            value = value.get(key) if isinstance(value, Mapping) else None
        offered = [offer for _, offer in offers]
        if value is not None and value not in offered:
            yield name, f"{value!r:.80} is not on offer here. There is: {', '.join(offered)}."


def explain(error: ValidationError, groups: Sequence[Group]) -> dict[str, str]:
    """Return what is wrong, by the name of the setting that it is wrong with."""
    known = all_settings(groups)
    problems: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_context=False):
        message = _words(problem)
        problems.setdefault(_setting_of(problem["loc"], message, known), []).append(message)
    return {name: " ".join(messages) for name, messages in problems.items()}


def _words(problem: ErrorDetails) -> str:
    if problem["type"] == "missing" or problem["input"] is None:
        return "A value is needed here."
    return f"{problem['msg'].removeprefix('Value error, ').rstrip('.')}."


def _setting_of(location: Sequence[int | str], message: str, known: Mapping[str, Setting]) -> str:
    """Find the setting at a place, or, for a fault of a group, the first one that it speaks of."""
    names = [str(part) for part in location]
    for length in range(len(names), 0, -1):
        if (name := ".".join(names[:length])) in known:
            return name
    for word in re.findall(r"[a-z_]+", message.lower()):
        if (name := ".".join([*names, word])) in known:
            return name
    return ""
