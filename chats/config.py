"""Settings of a generation, defined once: the page, the command line and the API read them here.

This module imports no torch, so that a form or a command line opens at once.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chats.errors import explain_validation

MethodName = Literal["standard", "cfg", "chats", "chats-exact", "preferred-cfg", "npo"]
"""Ways to combine predictions; `chats.denoising.methods` holds the formula of each."""

DEFAULT_SCALE = 5.0
DEFAULT_ALPHA = 0.5
"""The paper's s and α."""

SchedulerName = Literal["default", "ddim", "euler", "euler-ancestral", "dpm++", "unipc"]
"""Samplers that can replace a model's own; `default` is the model's own."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class FrozenSettings(BaseModel):
    """What every group of settings is: frozen, complete, each field explained by its docstring."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Row(FrozenSettings):
    """One picture of a generation: how its predictions are combined, and its seed."""

    method: MethodName = "chats"
    """How the predictions of the models are combined."""

    scale: float = Field(DEFAULT_SCALE, ge=0, le=30)
    """Guidance scale s as the paper writes it: 0 is no guidance; diffusers' scale is 1 + s."""

    alpha: float = Field(DEFAULT_ALPHA, ge=-1, le=2)
    """Strength α of the proxy prompt −α·c + (1+α)·∅; only CHATS methods use it."""

    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of this picture's noise: the same seed gives the same picture in any batch."""

    prompt: str | None = None
    """What this picture should show; none means the prompt of the generation."""


class Shaping(FrozenSettings):
    """What is done to the difference d that guidance adds to the guided prediction g.

    Every method is g + d with d = s·δ: δ = ε⁺(z, c) − ε⁻(z, c̃) for CHATS. The defaults change
    nothing. `chats.denoising.shaping` holds the formulas.
    """

    refresh_every: int = Field(1, ge=1, le=50)
    """Make the guidance difference d anew at every so many guided steps and add it as it was in
    between, where a step then costs one prediction; 1 makes it at every step."""

    rescale: Fraction = 0.0
    """Guidance rescale φ: how far the result is brought back to the standard deviation of the
    guided prediction; 0 changes nothing."""

    apg_eta: float = Field(1.0, ge=0, le=1)
    """Adaptive projected guidance: how much is kept of the part of the difference that lies along
    the guided prediction; 1 changes nothing."""

    apg_threshold: float = Field(0.0, ge=0, le=1e6)
    """Adaptive projected guidance: the largest norm of the difference before it is multiplied by s;
    longer ones are shortened; 0 changes nothing."""

    apg_momentum: float = Field(0.0, gt=-1, lt=1)
    """Adaptive projected guidance: how much of the last difference is added to a new one; negative
    values take from it; 0 changes nothing."""


class SharedSettings(FrozenSettings):
    """What is the same for all pictures of a generation or of a sweep."""

    negative_prompt: str = ""
    """What the pictures should avoid: it takes the place of the null prompt."""

    width: int | None = Field(None, ge=8, le=4096)
    """Width in pixels; none means the model's own size."""

    height: int | None = Field(None, ge=8, le=4096)
    """Height in pixels; none means the model's own size."""

    model: str = Field("shapes", min_length=1, max_length=500)
    """The base model: `shapes` (embedded), a folder, or a Hub id such as `owner/name`."""

    pair: str | None = Field(None, max_length=500)
    """The preference pair: a folder or a Hub id; none means the one embedded with the model."""


class GenerationConfig(SharedSettings):
    """Everything that decides the pictures of one generation."""

    prompt: str = ""
    """What the pictures should show; empty is the null prompt."""

    rows: tuple[Row, ...] = Field((Row(),), min_length=1, max_length=64)
    """The pictures, one row each; all of them denoise in lockstep."""

    num_steps: int | None = Field(None, ge=1, le=200)
    """Number of denoising steps; none means the number that suits the model."""

    scheduler: SchedulerName = "default"
    """Sampler; `default` is the one that the model comes with."""

    interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Fractions of the steps between which guidance is on; outside it costs nothing."""

    shaping: Shaping = Shaping()
    """What is done to the guidance of all rows: reuse between steps, rescale, projection."""

    missing_pair: Literal["refuse", "skip"] = "refuse"
    """Whether rows that need a pair are refused or left out where the model has none."""

    preview_every: int = Field(1, ge=0, le=200)
    """Show a preview every so many steps; 0 shows none."""

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> "GenerationConfig":
        start, end = self.interval
        if start > end:
            raise ValueError(f"interval must start before it ends, got {start} to {end}")
        return self


def parse_generation_config(settings: Mapping[str, Any]) -> GenerationConfig:
    """Check settings that came from outside (a form, an API call, a PNG).

    Raises:
        UserError: one line for each setting that is wrong, with the value that was given.
    """
    try:
        return GenerationConfig.model_validate(dict(settings))
    except ValidationError as error:
        raise explain_validation(error) from None


__all__ = [
    "DEFAULT_ALPHA",
    "DEFAULT_SCALE",
    "FrozenSettings",
    "GenerationConfig",
    "MethodName",
    "Row",
    "SchedulerName",
    "Shaping",
    "SharedSettings",
    "parse_generation_config",
]
