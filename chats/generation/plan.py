"""What was asked, made definite for one model: sizes, steps, prompts and rows, with notices."""

import inspect
from dataclasses import dataclass
from typing import Any

from chats.config import GenerationConfig, Row
from chats.denoising.methods import needs_pair
from chats.errors import UserError
from chats.generation.prompts import TokenLimit, clean_prompt
from chats.models.manager import Lease
from chats.wording import METHOD_TITLES

HOW_TO_GET_A_PAIR = (
    "name one as the pair (a folder or a Hub id), or make one by fine-tuning this model on "
    "preferences"
)
_MAX_TIMES_DEFAULT_SIZE = 4
_NO_LIMIT_TOKENS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Settings with nothing left open, and what the person must be told about them."""

    config: GenerationConfig
    notices: tuple[str, ...]


def make_plan(config: GenerationConfig, lease: Lease) -> Plan:
    """Settle a request for the model that was leased for it.

    Raises:
        UserError: a size that the model cannot make, or a row that needs a pair it has not.
    """
    rows, row_notices = _rows(config, has_pair=lease.pair is not None)
    limits = token_limits(lease.pipeline)
    rows, own_notices = _clean_rows(rows, limits)
    prompt = clean_prompt(config.prompt, limits=limits)
    negative = clean_prompt(config.negative_prompt, limits=limits, name="Negative prompt")
    is_empty = not prompt.text and any(row.prompt is None for row in rows)
    empty = () if not is_empty else ("The prompt is empty: this is the null prompt.",)
    settled = config.model_copy(
        update={
            "prompt": prompt.text,
            "negative_prompt": negative.text,
            "rows": rows,
            "num_steps": config.num_steps or lease.default_num_steps,
            "width": _size("width", config.width, lease),
            "height": _size("height", config.height, lease),
        }
    )
    return Plan(settled, (*row_notices, *prompt.notices, *own_notices, *empty, *negative.notices))


def token_limits(pipeline: Any) -> tuple[TokenLimit, ...]:
    """Return the pipeline's tokenizers, each with the number of tokens that the model reads."""
    parameter = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    longest = _NO_LIMIT_TOKENS if parameter is None else parameter.default
    return tuple(
        TokenLimit(tokenizer, min(tokenizer.model_max_length, longest))
        for name, tokenizer in pipeline.components.items()
        if name.startswith("tokenizer") and tokenizer is not None
    )


def _rows(config: GenerationConfig, *, has_pair: bool) -> tuple[tuple, tuple[str, ...]]:
    lacking = [] if has_pair else [row for row in config.rows if needs_pair(row.method)]
    if not lacking:
        return config.rows, ()
    names = ", ".join(dict.fromkeys(METHOD_TITLES[row.method] for row in lacking))
    problem = f"{names}: this needs a preference pair and the model has none: {HOW_TO_GET_A_PAIR}."
    rest = tuple(row for row in config.rows if row not in lacking)
    if config.missing_pair == "refuse" or not rest:
        raise UserError(problem)
    return rest, (f"Left out {problem}",)


def _clean_rows(
    rows: tuple[Row, ...], limits: tuple[TokenLimit, ...]
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Clean the prompts that rows have of their own, each once."""
    own = dict.fromkeys(row.prompt for row in rows if row.prompt is not None)
    clean = {text: clean_prompt(text, limits=limits) for text in own}
    cleaned = tuple(
        row if row.prompt is None else row.model_copy(update={"prompt": clean[row.prompt].text})
        for row in rows
    )
    return cleaned, tuple(notice for each in clean.values() for notice in each.notices)


def _size(name: str, asked: int | None, lease: Lease) -> int:
    default, factor = lease.default_size_px, lease.size_factor_px
    size = default if asked is None else asked
    if size % factor:
        below, above = size // factor * factor, -(-size // factor) * factor
        fitting = " or ".join(str(fit) for fit in (below, above) if fit)
        raise UserError(f"{name} must be divisible by {factor}, got {size}. Try {fitting}.")
    if size > _MAX_TIMES_DEFAULT_SIZE * default:
        raise UserError(
            f"{name} may be at most {_MAX_TIMES_DEFAULT_SIZE * default} for this model, whose own "
            f"size is {default}; got {size}."
        )
    return size
