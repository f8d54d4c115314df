"""Settings of an evaluation, defined once. This module imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, FrozenSettings, MethodName, SchedulerName
from chats.errors import UserError, explain_validation
from chats.scoring.registry import parse_terms
from training.config import parse_flags

PromptFormat = Literal["auto", "lines", "table", "geneval", "dpg", "hps"]
"""How a prompt set is written; `training.evaluate.prompts` reads each."""


class Contestant(FrozenSettings):
    """One way to make the pictures."""

    name: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9 ._=+-]*)?$", max_length=100)
    """How the tables and folders call it; empty makes one from the settings."""

    method: MethodName
    """How predictions are combined."""

    scale: float = Field(DEFAULT_SCALE, ge=0, le=30)
    """The paper's guidance scale s."""

    alpha: float = Field(DEFAULT_ALPHA, ge=-1, le=2)
    """The α of CHATS."""

    model: str | None = None
    """The base model: `shapes`, a folder or a Hub id; none means `model` of the evaluation."""

    pair: str | None = None
    """The preference pair: a folder or a Hub id; none means `pair` of the evaluation."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("name"):
            return settings
        parts = [str(settings.get("method", ""))]
        parts += [
            f"{short}{float(settings[each]):g}"
            for each, short in (("scale", "s"), ("alpha", "a"))
            if _is_number(settings.get(each))
        ]
        named = [settings[each] for each in ("model", "pair") if settings.get(each)]
        parts += [re.sub(r"[^A-Za-z0-9._-]", "-", Path(each).name) for each in named]
        return {**settings, "name": "-".join(parts)}


def _is_number(value: object) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


MethodText = Annotated[str, Field(min_length=1)]


class EvaluateConfig(FrozenSettings):
    """What is evaluated."""

    output: Path
    """Folder of pictures, scores and tables; a second start with the same settings goes on."""

    prompts: str = "shapes"
    """`shapes` (its 600 test prompts), `shapes-tuning`, a file, a folder, or a Hub data set."""

    prompt_format: PromptFormat = "auto"
    """How the prompts are written: `lines` of text, a `table` (jsonl, json, csv, tsv), GenEval's
    metadata, DPG-Bench's csv or folder of texts, HPS v2's json lists; `auto` judges by the file."""

    prompt_column: str = "prompt"
    """Column of the prompts in a table or a Hub data set."""

    category_column: str | None = None
    """Column of the categories; none means `category` or `tag` where there is one."""

    split: str = "train"
    """Split of a Hub data set."""

    max_prompts: int | None = Field(None, ge=1)
    """Take the first so many prompts; none takes all."""

    methods: tuple[MethodText, ...] = Field(("cfg,s=4", "chats,s=4,alpha=0"), min_length=1)
    """What is compared, each as `method,s=4,alpha=0.5,model=id,pair=folder,name=Mine`; the first
    one is the baseline of differences and win rates."""

    model: str = "shapes"
    """The base model: `shapes`, a folder, or a Hub id."""

    pair: str | None = None
    """The preference pair of methods that name none; none means the model's own."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Image seeds; each makes one picture of every prompt by every method."""

    scorers: tuple[str, ...] = Field(("shapes",), min_length=1)
    """Scorers by name, as `package.module:Class`, or weighted sums; see `chats.scoring`."""

    num_steps: int | None = Field(None, ge=1, le=200)
    """Denoising steps; none means what suits the model."""

    size_px: int | None = Field(None, ge=8, le=4096)
    """Width and height; none means the model's own."""

    scheduler: SchedulerName = "default"
    """Sampler; `default` is the model's own."""

    batch_size: int = Field(60, ge=1)
    """Pictures made together; also what is lost at most when it is interrupted."""

    cpu_threads: int = Field(1, ge=1)
    """Threads of each process on the CPU; another number may change last bits of pictures."""

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > 4000:
            raise ValueError("seeds must differ and lie between 0 and 4000")
        return seeds

    @field_validator("scorers")
    @classmethod
    def _scorers_are_known(cls, scorers: tuple[str, ...]) -> tuple[str, ...]:
        for name in scorers:
            try:
                parse_terms(name)
            except UserError as error:
                raise ValueError(str(error)) from None
        if len(set(scorers)) < len(scorers):
            raise ValueError("scorers must differ")
        return scorers

    @field_validator("methods")
    @classmethod
    def _methods_are_known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        names = [read_contestant(each).name for each in methods]
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError(f"methods must have different names, got {', '.join(names)}")
        return methods

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """The methods, read."""
        return tuple(read_contestant(each) for each in self.methods)


def parse_evaluation(arguments: Sequence[str]) -> EvaluateConfig:
    """Read `--config eval.yaml` and the flags over it.

    Raises:
        UserError: See `training.config.parse_flags`.
    """
    return parse_flags(
        EvaluateConfig,
        arguments,
        prog="python -m training.evaluate",
        description="Compare methods on a prompt set by scorers, with error bars. "
        "--config FILE.yaml reads settings from a file; flags go over it. It goes on where it was "
        "interrupted, and `accelerate launch` spreads it over devices. "
        "`python -m training submit --evaluate` puts it into the queue.",
    )


def read_contestant(text: str) -> Contestant:
    """Read `chats,s=4,alpha=0`.

    Raises:
        ValueError: a setting is wrong or unknown.
    """
    method, *options = (part.strip() for part in text.split(","))
    settings = {"method": method}
    for option in options:
        key, equals, given = option.partition("=")
        if not equals:
            raise ValueError(f"write settings as key=value, got {option!r} in {text!r}")
        settings["scale" if key == "s" else key] = given
    try:
        return Contestant.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{text}: {explain_validation(error)}") from None
