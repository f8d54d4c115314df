"""From what a form, a browser or a program says to a ballot; nothing of it is trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from chats.denoising.methods import needs_pair
from chats.errors import UserError, explain_validation
from chats.generation.prompts import clean_prompt
from chats.models.choices import ModelChoice
from chats.shapes import SHAPES_MODEL
from training.votes import Contestant
from training.votes.pairing import MAX_PROMPTS, Ballot
from training.votes.store import DEFAULT_NAME
from ui.compare.methods import METHODS
from ui.compare.values import build_config, find_model

SPEC = ("method", "model", "scale", "alpha", "num_steps")
"""What a contestant is asked for; `model` is a pair's id, as Compare calls it."""

DEFAULT_METHODS = ("cfg", "chats")
GRAMMAR, OWN = "grammar", "own"
SOURCES = (("Shapes grammar: ever new ones", GRAMMAR), ("My own, one per line", OWN))
MAX_PROMPT_CHARS = 2000
MAX_VOTER_CHARS = 60
NO_PROMPTS = "Write at least one prompt, one per line, or let the Shapes grammar make them."


@dataclass(frozen=True)
class Asked:
    """What a tab votes on.

    Attributes:
        ballot: the question.
        collection: name of the collection that the votes go to.
        voter: how the person calls themselves.
    """

    ballot: Ballot
    collection: str
    voter: str


def read_asked(kept: Any, models: Sequence[ModelChoice], *, login: str = "") -> Asked:
    """Check what a browser says that it votes on.

    Args:
        kept: `contestants`, `source`, `prompts`, `collection`, `voter`.
        models: the models on offer.
        login: the name that the person logged in with.

    Raises:
        UserError: what is wrong with it.
    """
    if not isinstance(kept, Mapping):
        raise UserError("Choose what to compare, then press Start voting.")
    contestants = read_contestants(kept.get("contestants"), models)
    prompts = read_prompts(kept.get("source"), kept.get("prompts"), models)
    try:
        ballot = Ballot(contestants=contestants, prompts=prompts)
    except ValidationError as error:
        raise explain_validation(error) from None
    return Asked(
        ballot=ballot,
        collection=_line(kept.get("collection")),
        voter=(_line(kept.get("voter")) or _line(login))[:MAX_VOTER_CHARS],
    )


def default_contestants(models: Sequence[ModelChoice]) -> list[dict[str, Any]]:
    """CFG against CHATS, or against no guidance where there is no pair."""
    model = models[0]
    methods = DEFAULT_METHODS if model.has_pair else ("standard", "cfg")
    return [spec_of(model, method) for method in methods]


def default_kept(models: Sequence[ModelChoice]) -> dict[str, Any]:
    """Return the question of a page just opened, as a browser keeps it."""
    model = models[0]
    return {
        "contestants": default_contestants(models),
        "source": GRAMMAR if model.name == SHAPES_MODEL else OWN,
        "prompts": "\n".join(model.examples),
        "collection": DEFAULT_NAME,
        "voter": "",
    }


def before_after(run: str, models: Sequence[ModelChoice]) -> list[dict[str, Any]]:
    """CHATS with the pair of a run against CHATS with the pair before it, or CFG without one.

    Raises:
        UserError: that pair is not on offer.
    """
    new = find_model(run, models)
    if not new.run:
        raise UserError(f"{run!r:.80} is no run whose pair could be compared.")
    old = models[0]
    before = spec_of(old, "chats" if old.has_pair else "cfg")
    return [before, spec_of(new, "chats")]


def spec_of(model: ModelChoice, method: str) -> dict[str, Any]:
    """Return a contestant as a form or a program writes it, with what suits the model."""
    values = (method, model.id, model.scale, model.alpha, model.num_steps)
    return dict(zip(SPEC, values, strict=True))


def read_contestants(specs: Any, models: Sequence[ModelChoice]) -> tuple[Contestant, ...]:
    """Check contestants; what one leaves out is its model's own.

    Raises:
        UserError: what is wrong, and with which.
    """
    if not specs:
        specs = default_contestants(models)
    if not isinstance(specs, list | tuple) or not all(isinstance(each, Mapping) for each in specs):
        raise UserError("contestants must be a list of settings: method, model, scale, alpha.")
    made = []
    for number, spec in enumerate(specs[:20], start=1):
        try:
            made.append(_contestant(spec, models))
        except (UserError, TypeError) as error:
            raise UserError(f"Contestant {number}: {error}") from None
    return tuple(made)


def read_prompts(source: Any, text: Any, models: Sequence[ModelChoice]) -> tuple[str, ...]:
    """Return the prompts; none stand for the Shapes grammar.

    Raises:
        UserError: there are none, too many, or one is too long.
    """
    if source == GRAMMAR or (source in (None, "") and not text):
        if models[0].name != SHAPES_MODEL:
            raise UserError("The Shapes grammar suits the Shapes model alone. " + NO_PROMPTS)
        return ()
    lines = text.splitlines() if isinstance(text, str) else []
    prompts = [clean_prompt(line, limits=()).text for line in lines]
    prompts = list(dict.fromkeys(filter(None, prompts)))
    if not prompts:
        raise UserError(NO_PROMPTS)
    if len(prompts) > MAX_PROMPTS:
        raise UserError(f"There are {len(prompts):,} prompts; at most {MAX_PROMPTS:,}.")
    if any(len(prompt) > MAX_PROMPT_CHARS for prompt in prompts):
        raise UserError(f"A prompt has more than {MAX_PROMPT_CHARS:,} characters.")
    return tuple(prompts)


def _contestant(spec: Mapping[str, Any], models: Sequence[ModelChoice]) -> Contestant:
    unknown = [name for name in spec if name not in SPEC]
    if unknown:
        raise UserError(f"{unknown[0]!r:.60} is no setting of it. There are: {', '.join(SPEC)}.")
    model = find_model(spec.get("model") or models[0].id, models)
    method = spec.get("method") or "chats"
    values = {
        name: getattr(model, name) if spec.get(name) is None else spec[name]
        for name in ("scale", "alpha", "num_steps")
    }
    config = build_config(
        prompt="any",
        seed=0,
        model=model,
        methods=[method],
        **{**values, "num_steps": values["num_steps"] or model.num_steps},
    )
    if needs_pair(method) and not model.has_pair:
        raise UserError(
            f"{METHODS[method].title} needs a preference pair, and {model.title} has none. "
            "Choose Standard or CFG, or train a pair first."
        )
    title = f"{model.pair_title} ({model.run[-6:]})" if model.run else model.pair_title
    return Contestant.of(config, pair_title=title)


def _line(value: Any) -> str:
    text = clean_prompt(value if isinstance(value, str) else "", limits=()).text
    return " ".join(text.split())
