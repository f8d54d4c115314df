"""The settings of a frozen model as a flat list of what a form asks; nothing is drawn here.

Everything is read from the model's own schema, so a setting that is added there is asked here.
Values are those of `model_dump(mode="json")`, and so is what a form gives back.
"""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from chats.number_lists import read_numbers
from ui.train.untrusted_yaml import read_untrusted_yaml

Kind = Literal["choice", "several", "switch", "number", "text", "lines", "numbers", "yaml"]
"""`several` is any number of choices; `lines` is a list with one item a line; `numbers` is one with
commas; `yaml` is whatever has no simpler form."""

_ACRONYMS = {"ema": "EMA", "lora": "LoRA", "snr": "SNR"}
_WHEN_NONE = re.compile(r"\bnone(?: means|:)? ([^.;]+)", re.IGNORECASE)
_MAX_SLIDER_SPAN = 200


@dataclass(frozen=True)
class Ask:
    """One input of a form: what may be given."""

    kind: Kind
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    excludes_minimum: bool = False
    excludes_maximum: bool = False
    is_whole: bool = False

    @property
    def is_slider(self) -> bool:
        """Whether both ends of the range are in reach, and near enough to drag between."""
        if self.minimum is None or self.maximum is None:
            return False
        is_closed = not (self.excludes_minimum or self.excludes_maximum)
        return is_closed and self.maximum - self.minimum <= _MAX_SLIDER_SPAN

    @property
    def range(self) -> str:
        """The range in words; empty for what has none."""
        above = "above" if self.excludes_minimum else "at least"
        below = "below" if self.excludes_maximum else "at most"
        low = "" if self.minimum is None else f"{self.minimum:,.15g}"
        high = "" if self.maximum is None else f"{self.maximum:,.15g}"
        if low and high and not (self.excludes_minimum or self.excludes_maximum):
            return f"{low} to {high}"
        parts = [f"{above} {low}" if low else "", f"{below} {high}" if high else ""]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Setting:
    """One setting of a model, with one input, or one for each item of a tuple of fixed length."""

    path: tuple[str, ...]
    title: str
    """Its name for people: `Batch size`."""
    help: str
    asks: tuple[Ask, ...]
    is_tuple: bool = False
    is_optional: bool = False
    is_path: bool = False
    when_none: str = ""
    """What an empty input means, where it means something."""

    @property
    def name(self) -> str:
        """Its name as on the command line: `optimizer.batch_size`."""
        return ".".join(self.path)

    @property
    def range(self) -> str:
        """The range in words; empty for what has none."""
        return self.asks[0].range

    def inputs(self, value: Any) -> tuple[Any, ...]:
        """Return what the inputs show for a value."""
        if self.is_tuple:
            items = value if value is not None else [None] * len(self.asks)
            return tuple(_shown(ask, item) for ask, item in zip(self.asks, items, strict=True))
        return (_shown(self.asks[0], value),)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of its inputs: its own, or `optimizer.betas.0` and on."""
        if not self.is_tuple:
            return (self.name,)
        return tuple(f"{self.name}.{k}" for k in range(len(self.asks)))

    def value(self, inputs: Sequence[Any]) -> Any:
        """Return the value that the inputs say; the model judges whether it is right.

        Raises:
            UserError: Text that should be YAML is not.
        """
        values = [
            _said(ask, given, none_if_empty=self.is_optional or self.is_tuple)
            for ask, given in zip(self.asks, inputs, strict=True)
        ]
        if not self.is_tuple:
            return values[0]
        return None if self.is_optional and all(each is None for each in values) else values


@dataclass(frozen=True)
class Group:
    """Settings that belong together: a nested model, or the top of one."""

    name: str
    help: str
    settings: tuple[Setting, ...]

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.capitalize()


def describe(model: type[BaseModel]) -> tuple[Group, ...]:
    """Return the settings of a model, group by group, in the order of its fields."""
    schema = model.model_json_schema()
    groups: dict[str, list[Setting]] = {}
    helps = {"": _plain(schema.get("description", ""))}
    for name, field in schema["properties"].items():
        if "$ref" not in field:
            found = _setting((name,), field, beside=schema["properties"])
            groups.setdefault("", []).append(found)
            continue
        nested = schema["$defs"][field["$ref"].rpartition("/")[2]]
        helps[name] = _plain(nested.get("description", ""))
        fields = nested["properties"]
        groups[name] = [_setting((name, key), fields[key], beside=fields) for key in fields]
    return tuple(Group(name, helps[name], tuple(found)) for name, found in groups.items())


def all_settings(groups: Sequence[Group]) -> dict[str, Setting]:
    """Return the settings of all groups by their names."""
    return {each.name: each for group in groups for each in group.settings}


def value_at(config: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value of a setting in a dumped model."""
    for key in path:
        config = config[key]
    return config


def nest(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Build from values by their paths what `model_validate` takes."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        inner = nested
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return nested


def _setting(path: tuple[str, ...], field: Mapping[str, Any], *, beside: Container[str]) -> Setting:
    kinds = field.get("anyOf", [field])
    given = [each for each in kinds if each.get("type") != "null"]
    is_number = all(each.get("type") in ("integer", "number") for each in given)
    schema = given[0] if len(given) == 1 else {"type": "number"} if is_number else {}
    items = schema.get("prefixItems", ())
    asks = tuple(map(_ask, items)) if items else (_ask(schema),)
    is_optional = len(given) < len(kinds)
    if is_optional and asks[0].kind == "number":
        asks = tuple(replace(ask, kind="text") for ask in asks)  # a number can't be left empty
    is_tuple = bool(items) and all(ask.kind in ("number", "text", "choice") for ask in asks)
    text = _plain(field.get("description", ""))
    none = _WHEN_NONE.search(text) if is_optional else None
    return Setting(
        path=path,
        title=_title(path, beside=beside),
        help=text,
        asks=asks if is_tuple or not items else (Ask("yaml"),),
        is_tuple=is_tuple,
        is_optional=is_optional,
        is_path="path" in (schema.get("format", ""), schema.get("items", {}).get("format", "")),
        when_none=none[1].strip() if none else "none" if is_optional else "",
    )


def _title(path: tuple[str, ...], *, beside: Container[str]) -> str:
    """Call a name by its group, and a number by what it counts if nothing else is called so."""
    name = path[-2] if path[-1] == "name" and len(path) > 1 else path[-1]
    counted = name.removeprefix("num_")
    if counted != name:
        name = counted if counted not in beside else f"number of {counted}"
    title = " ".join(_ACRONYMS.get(word, word) for word in name.replace("_", " ").split())
    return title[:1].upper() + title[1:]


def _ask(schema: Mapping[str, Any]) -> Ask:
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        is_text = all(isinstance(each, str) for each in choices)
        return Ask("choice", choices=tuple(choices)) if is_text else Ask("yaml")
    kind = schema.get("type")
    if kind == "boolean":
        return Ask("switch")
    if kind in ("integer", "number"):
        return Ask(
            "number",
            minimum=schema.get("minimum", schema.get("exclusiveMinimum")),
            maximum=schema.get("maximum", schema.get("exclusiveMaximum")),
            excludes_minimum="exclusiveMinimum" in schema,
            excludes_maximum="exclusiveMaximum" in schema,
            is_whole=kind == "integer",
        )
    if kind == "string":
        return Ask("text")
    items = schema.get("items", {})
    if kind == "array" and items.get("type") == "string":
        choices = tuple(items.get("enum", ()))
        return Ask("several", choices=choices) if choices else Ask("lines")
    if kind == "array" and items.get("type") in ("number", "integer"):
        return Ask("numbers")
    return Ask("yaml")


def _shown(ask: Ask, value: Any) -> Any:
    if ask.kind == "lines":
        return "\n".join(value or ())
    if ask.kind == "numbers":
        return ", ".join(f"{each:.15g}" for each in value or ())
    if ask.kind == "several":
        return list(value or ())
    if ask.kind == "yaml":
        return _as_yaml(value)
    if ask.kind in ("text", "choice"):
        return "" if value is None else str(value)
    return value


def _said(ask: Ask, given: Any, *, none_if_empty: bool) -> Any:
    """Return what an input says; whatever else a browser sends is left for the model to refuse."""
    if ask.kind == "lines" and isinstance(given, str):
        lines = [line.strip() for line in given.splitlines() if line.strip()]
        return None if not lines and none_if_empty else lines
    if ask.kind == "numbers" and isinstance(given, str):
        return None if not given.strip() and none_if_empty else _numbers(given)
    if ask.kind == "several" and not given and none_if_empty:
        return None
    if ask.kind == "yaml" and isinstance(given, str):
        return read_untrusted_yaml(given)
    if given == "" and ask.kind in ("text", "choice") and none_if_empty:
        return None
    return given


def _numbers(given: str) -> Any:
    try:
        return read_numbers(given)
    except ValueError:  # a range that is none: the model says what is wrong with it
        return given


def _as_yaml(value: Any) -> str:
    if value is None:
        return ""
    text = yaml.safe_dump(value, default_flow_style=None, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _plain(text: str) -> str:
    return " ".join(text.split())
