"""Forms made of settings models: nothing is forgotten or lost, faults stand where they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from chats.config import FrozenSettings, GenerationConfig
from tests.train_fakes import build_page
from training.config import TrainingConfig
from ui.forms.checking import check, read_inputs, show_inputs
from ui.forms.fields import all_settings, describe, nest, value_at
from ui.forms.form import SettingsForm, render_note

REQUIRED = {"data": {"path": "pairs"}, "run": {"output": "out"}}
CONFIGS = {
    GenerationConfig: GenerationConfig(),
    # The reference's errors can be kept only of pairs that are encoded ahead.
    TrainingConfig: TrainingConfig.model_validate(
        REQUIRED | {"data": REQUIRED["data"] | {"encode": "online"}}
    ),
}
CANDIDATES = (
    *(True, False, 0, 1, 2, 7, 9, 16, 512, 0.25, 0.5, 1e-9, 3e-9, "x", "a b", "owner/name"),
    *(["x"], ["to_q", "to_k"], [0.25, 0.75], ["a", "b c"], [0.1, 0.2]),
    *([{"method": "cfg", "scale": 2.5, "alpha": 0.0, "seed": 2**32 - 1}] * 2,),
    [{"method": "cfg", "scale": 2.5, "alpha": 0.0, "seed": 2**32 - 1}],
)


class Inner(FrozenSettings):
    """What is inside."""

    size: int = Field(3, ge=1, le=9)
    """How large; it has room."""

    share: float = Field(0.5, gt=0, lt=1)
    """A part."""

    kind: Literal["one", "two", "three", "four"] = "one"
    """Which."""

    some: tuple[Literal["a", "b"], ...] = ()
    """Which of them."""

    maybe: Literal["yes", "no"] | None = None
    """Perhaps; none lets the model decide."""

    held_out: int | float = 0
    """A number or a share."""

    names: tuple[str, ...] = ("x",)
    """Names."""

    table: Mapping[str, int] = Field(default_factory=lambda: {"a": 1})
    """Anything."""

    @model_validator(mode="after")
    def _fits(self) -> "Inner":
        if self.size > 7 and self.share > 0.9:
            raise ValueError("share must be smaller if size is above 7")
        return self


class Outer(FrozenSettings):
    """What is outside."""

    folder: Path = Path("nowhere")
    """Where it is."""

    title: str = "none"
    """What it is called."""

    inner: Inner = Inner()


def varied(model: type[FrozenSettings], start: FrozenSettings) -> dict[tuple[str, ...], Any]:
    """Find for every setting a value that it does not have at first, all of them valid together."""
    before = start.model_dump(mode="json")
    groups = describe(model)
    paths = [each.path for each in all_settings(groups).values()]
    values = {path: value_at(before, path) for path in paths}
    for path in [*paths, *paths]:  # some are valid only beside others
        setting = all_settings(groups)[".".join(path)]
        offers = [choice for ask in setting.asks for choice in ask.choices]
        for candidate in (*offers, *([offer] for offer in offers), *CANDIDATES, {"b": 2}):
            if candidate == value_at(before, path):
                continue
            try:
                made = model.model_validate(nest({**values, path: candidate}))
            except ValueError:
                continue
            if value_at(made.model_dump(mode="json"), path) != value_at(before, path):
                values[path] = value_at(made.model_dump(mode="json"), path)
                break
    return values


@pytest.mark.parametrize(
    ("model", "start"), [*CONFIGS.items(), (Outer, Outer())], ids=lambda each: type(each).__name__
)
def test_every_setting_survives_the_form_and_the_way_through_a_browser(model, start):
    values = varied(model, start)
    before = start.model_dump(mode="json")
    assert [path for path, value in values.items() if value == value_at(before, path)] == []
    config = model.model_validate(nest(values))
    groups = describe(model)
    for each in (start, config):
        inputs = json.loads(json.dumps(show_inputs(groups, each.model_dump(mode="json"))))
        settings, problems = read_inputs(groups, inputs)
        assert problems == {}
        assert check(model, groups, settings, choices={}).config == each


@pytest.mark.parametrize(
    ("model", "start"), [*CONFIGS.items(), (Outer, Outer())], ids=lambda each: type(each).__name__
)
def test_every_setting_but_a_path_has_a_place_with_its_help(model, start):
    form = SettingsForm(model, prefix="t", start=start)
    build_page(form.place_rest)
    asked = {name for name, each in all_settings(describe(model)).items() if not each.is_path}
    assert set(form.notes) == asked
    assert {input_name.split(".")[-1] for input_name in form.inputs} & {"path", "output"} == set()
    for setting in all_settings(form.groups).values():
        assert setting.help
        first = form.inputs[setting.input_names[0]]
        assert setting.help in first.info
        assert setting.range in first.info


def test_the_range_is_said_and_an_empty_input_says_what_it_means():
    settings = all_settings(describe(Outer))
    assert settings["inner.size"].range == "1 to 9"
    assert settings["inner.share"].range == "above 0, below 1"
    assert settings["inner.maybe"].when_none == "lets the model decide"
    training = all_settings(describe(TrainingConfig))
    assert training["data.resolution"].when_none == "the model's own size"
    assert training["data.path"].is_path
    assert training["data.cache"].is_path
    assert training["optimizer.num_steps"].title == "Steps"
    assert training["objective.name"].title == "Objective"


def problems_of(model, start, **changed):
    groups = describe(model)
    inputs = {**show_inputs(groups, start.model_dump(mode="json")), **changed}
    settings, problems = read_inputs(groups, inputs)
    return {**check(model, groups, settings, choices={}).problems, **problems}


def test_all_faults_are_told_at_once_each_at_its_setting():
    found = problems_of(
        TrainingConfig,
        CONFIGS[TrainingConfig],
        **{
            "model.rank": 5000,
            "optimizer.learning_rate": None,
            "optimizer.betas.1": 1.5,
            "data.resolution": "large",
            "run.seed": 1.5,
            "model.kind": "<img src=x>",
        },
    )
    assert found["model.rank"] == "Input should be less than or equal to 1024."
    assert found["optimizer.learning_rate"] == "A value is needed here."
    assert "less than 1" in found["optimizer.betas"]
    assert "valid integer" in found["data.resolution"]
    assert "fractional part" in found["run.seed"]
    assert "'lora' or 'full'" in found["model.kind"]
    assert len(found) == 6


def test_a_fault_of_a_group_stands_at_the_setting_that_it_names():
    start = CONFIGS[TrainingConfig]
    found = problems_of(TrainingConfig, start, **{"optimizer.warmup_steps": 1000})
    assert found == {
        "optimizer.warmup_steps": "warmup_steps 1000 must be less than num_steps 1000."
    }
    stream = {"data.streaming": True, "data.encode": "ahead"}
    found = problems_of(TrainingConfig, start, **stream)
    assert list(found) == ["data.streaming"]
    found = problems_of(Outer, Outer(), **{"inner.size": 8, "inner.share": 0.95})
    assert list(found) == ["inner.share"]


@pytest.mark.parametrize("sent", [{"a": 1}, [1], True, "x" * 10**6, 7, None])
def test_what_no_form_would_send_is_refused_by_the_model(sent):
    found = problems_of(TrainingConfig, CONFIGS[TrainingConfig], **{"model.base": sent})
    assert list(found) == ["model.base"]


def test_text_that_is_no_yaml_is_told_at_its_setting():
    found = problems_of(Outer, Outer(), **{"inner.table": "{a: ["})
    assert "not YAML" in found["inner.table"]
    found = problems_of(Outer, Outer(), **{"inner.table": "a: &a [1]\nb: *a"})
    assert "aliases" in found["inner.table"]


def test_a_value_that_is_not_on_offer_is_refused():
    groups = describe(TrainingConfig)
    settings = {**REQUIRED, "model": {"base": "/etc/passwd"}}
    found = check(TrainingConfig, groups, settings, choices={"model.base": [("Shapes", "shapes")]})
    assert found.config is None
    assert found.problems == {"model.base": "'/etc/passwd' is not on offer here. There is: shapes."}


def test_what_differs_from_the_start_is_marked_with_what_it_was():
    start = CONFIGS[TrainingConfig]
    form = SettingsForm(TrainingConfig, prefix="t", start=start)
    build_page(lambda: (form.place("model.rank"), form.place_rest()))
    shown = form.show(start)
    assert form.marks(shown, start=start, problems={}).changed == {}
    changed = {
        **shown,
        "model.rank": 4,
        "data.buckets": True,
        "optimizer.betas.0": 0.8,
        "data.max_pairs": "9",
        "model.lora_alpha": 16.0,
    }
    marks = form.marks(changed, start=start, problems={"data.max_pairs": "no"})
    assert marks.changed == {
        "model.rank": "16",
        "data.buckets": "off",
        "optimizer.betas": "0.9, 0.999",
        "data.max_pairs": "uses all",
    }
    folds = form.update_folds(marks)
    labels = {name: fold.label for name, fold in zip(form.folds, folds, strict=True)}
    assert labels["data"] == "Data · 2 changed · 1 wrong"
    assert labels["model"] == "Model"


def test_what_stands_below_a_setting_is_escaped():
    note = render_note("a.b", "<script>", "<b>")
    assert "<script>" not in note
    assert "<b>" not in note
    assert 'data-reset="a.b"' in note
    assert render_note("a.b", "", None) == ""
