"""Settings of a sweep, defined once: the page, the command line and the API read them here.

This module imports no torch.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from chats.config import Fraction, GenerationConfig, Row, SchedulerName, SharedSettings
from chats.errors import explain_validation
from chats.number_lists import read_numbers

MAX_CELLS = 400
MAX_PICTURES = 20_000
NO_SCORER = "none"

Alpha = Annotated[float, *Row.model_fields["alpha"].metadata]
Scale = Annotated[float, *Row.model_fields["scale"].metadata]
Seed = Annotated[int, *Row.model_fields["seed"].metadata]
NumSteps = Annotated[int, *GenerationConfig.model_fields["num_steps"].metadata]
_Listed = BeforeValidator(read_numbers)


class SweepConfig(SharedSettings):
    """Everything that decides the pictures and the scores of one sweep."""

    prompts: tuple[str, ...]
    """What the pictures should show, one prompt a line; errors are measured between prompts."""

    alphas: Annotated[tuple[Alpha, ...], _Listed] = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    """Proxy strengths α: a list, or a range such as `-0.5 to 1 by 0.25`."""

    scales: Annotated[tuple[Scale, ...], _Listed] = (2.0, 5.0, 8.0)
    """Guidance scales s: a list or a range."""

    seeds: Annotated[tuple[Seed, ...], _Listed] = (0, 1, 2, 3)
    """Seeds of the noise, the same for every cell: a list, or a range such as `0 to 3`."""

    scorer: str = Field(NO_SCORER, min_length=1, max_length=200)
    """What judges the pictures; `none` makes them without."""

    method: Literal["chats", "chats-exact"] = "chats"
    """How the predictions are combined; these are the methods that α changes."""

    num_steps: Annotated[tuple[NumSteps, ...], _Listed] | None = None
    """Numbers of denoising steps to try; none means the number that suits the model."""

    schedulers: tuple[SchedulerName, ...] = ("default",)
    """Samplers to try; `default` is the one that the model comes with."""

    intervals: tuple[tuple[Fraction, Fraction], ...] = ((0.0, 1.0),)
    """Fractions of the steps between which guidance is on, to try: `[[0, 1], [0.2, 0.8]]`."""

    rows_per_call: int = Field(16, ge=1, le=64)
    """The most pictures in one call of the model; halved where memory runs short."""

    @field_validator("prompts")
    @classmethod
    def _prompts_say_something(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        stripped = tuple(prompt.strip() for prompt in prompts)
        if not all(stripped):
            raise ValueError("a prompt is empty: write what the pictures should show")
        return stripped

    @field_validator("prompts", "alphas", "scales", "seeds", "num_steps", "schedulers", "intervals")
    @classmethod
    def _values_differ(cls, values: tuple | None) -> tuple | None:
        if values is None:
            return None
        if not values:
            raise ValueError("the list is empty: give at least one value")
        twice = [value for value, times in Counter(values).items() if times > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice: give each value once")
        return values

    @field_validator("intervals")
    @classmethod
    def _intervals_are_ordered(cls, intervals: tuple) -> tuple:
        for start, end in intervals:
            if start > end:
                raise ValueError(f"an interval must start before it ends, got {start} to {end}")
        return intervals

    @model_validator(mode="after")
    def _can_be_looked_at(self) -> "SweepConfig":
        if self.num_cells > MAX_CELLS:
            raise ValueError(
                f"alphas, scales, steps, schedulers and intervals make {self.num_cells:,} cells; a "
                f"sweep has at most {MAX_CELLS}: take some values out"
            )
        if self.num_pictures > MAX_PICTURES:
            raise ValueError(
                f"prompts and seeds make {self.num_pictures:,} pictures; a sweep has at most "
                f"{MAX_PICTURES:,}: take some of them or some cells out"
            )
        return self

    @property
    def num_cells(self) -> int:
        """Number of settings that are compared."""
        panels = len(self.num_steps or (None,)) * len(self.schedulers) * len(self.intervals)
        return panels * len(self.scales) * len(self.alphas)

    @property
    def num_pictures(self) -> int:
        """Number of pictures in all."""
        return self.num_cells * len(self.prompts) * len(self.seeds)


def parse_sweep_config(settings: Mapping[str, Any]) -> SweepConfig:
    """Check settings that came from outside (a form, an API call, a file).

    Raises:
        UserError: one line for each setting that is wrong, with the value that was given.
    """
    try:
        return SweepConfig.model_validate(dict(settings))
    except ValidationError as error:
        raise explain_validation(error) from None
