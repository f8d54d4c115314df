"""From what a form or an API call says to a `GenerationConfig`, and back from a PNG."""

from collections.abc import Mapping, Sequence
from typing import Any

from chats.config import GenerationConfig, MethodName, parse_generation_config
from chats.denoising.methods import uses_alpha, uses_scale
from chats.errors import UserError
from ui.compare.methods import METHODS
from ui.services import ModelChoice

MAX_BATCH = 8
MAX_NAMED = 5
NO_PROMPT = "Write what the pictures should show, or pick one of the examples."


def build_config(
    *,
    prompt: str,
    alpha: float,
    scale: float,
    seed: int,
    model: ModelChoice,
    methods: Sequence[str],
    negative_prompt: str = "",
    num_steps: int = 0,
    width: int = 0,
    height: int = 0,
    scheduler: str = "default",
    batch: int = 1,
    interval_start: float = 0.0,
    interval_end: float = 1.0,
    **shaping: float,
) -> GenerationConfig:
    """Check a form and lay out one row for each method and seed.

    A number of steps, a width or a height of 0 is the model's own. `shaping` holds fields of
    `chats.config.Shaping`.

    Raises:
        UserError: what is wrong with the form, in words for the person who filled it in.
    """
    if not (prompt or "").strip():
        raise UserError(NO_PROMPT)
    rows = [
        _row(method, scale=scale, alpha=alpha, seed=one_seed)
        for method in checked_methods(methods)
        for one_seed in _seeds(seed, batch)
    ]
    return parse_generation_config(
        {
            "prompt": prompt,
            "negative_prompt": negative_prompt or "",
            "rows": rows,
            "num_steps": num_steps or None,
            "width": width or None,
            "height": height or None,
            "scheduler": scheduler,
            "interval": (interval_start, interval_end),
            "shaping": shaping,
            "model": model.name,
            "pair": model.pair,
        }
    )


def checked_methods(methods: Sequence[str]) -> tuple[MethodName, ...]:
    """Return the methods in the page's order; refuse none at all and names that are unknown."""
    unknown = [name for name in methods or () if name not in METHODS]
    if unknown:
        raise UserError(f"Unknown method {unknown[0]!r}. Known are: {', '.join(METHODS)}.")
    if not methods:
        raise UserError("No method is chosen. Choose at least one to show.")
    return tuple(name for name in METHODS if name in methods)


def find_model(name: str, models: Sequence[ModelChoice]) -> ModelChoice:
    """Return the model on offer, or the run's pair on it, that has this name or id."""
    for model in models:
        if model.id == name:
            return model
    shown = ", ".join(model.id for model in models[:MAX_NAMED])
    more = ", …" if len(models) > MAX_NAMED else ""
    raise UserError(f"Unknown model {str(name)[:80]!r}. This server offers: {shown}{more}.")


def form_values(config: GenerationConfig) -> dict[str, Any]:
    """Return the form that makes a configuration; what it does not decide is left out."""
    rows = config.rows
    values: dict[str, Any] = {
        "prompt": config.prompt,
        "negative_prompt": config.negative_prompt,
        "seed": min(row.seed for row in rows),
        "num_steps": config.num_steps,
        "width": config.width or 0,
        "height": config.height or 0,
        "scheduler": config.scheduler,
        "interval_start": config.interval[0],
        "interval_end": config.interval[1],
        "batch": min(MAX_BATCH, len({row.seed for row in rows})),
        **config.shaping.model_dump(),
    }
    scales = [row.scale for row in rows if uses_scale(row.method)]
    alphas = [row.alpha for row in rows if uses_alpha(row.method)]
    return (
        values | ({"scale": scales[0]} if scales else {}) | ({"alpha": alphas[0]} if alphas else {})
    )


def _row(method: MethodName, *, scale: float, alpha: float, seed: int) -> Mapping[str, Any]:
    """Leave out what a method does not use, so that equal pictures have equal settings."""
    return {
        "method": method,
        "scale": scale if uses_scale(method) else 0.0,
        "alpha": alpha if uses_alpha(method) else 0.0,
        "seed": seed,
    }


def _seeds(first: int, batch: int) -> list[int]:
    if first is None or int(first) != first:
        raise UserError(f"The seed must be a whole number (given: {first!r}).")
    if not 1 <= batch <= MAX_BATCH:
        raise UserError(f"The batch must be 1 to {MAX_BATCH} pictures (given: {batch!r}).")
    return [int(first) + k for k in range(int(batch))]
