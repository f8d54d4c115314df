"""The models that are on offer, described from their small files: nothing is loaded, no torch."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE
from chats.denoising.families import FAMILIES
from chats.pairs import hub
from chats.pairs.released import HALVES
from chats.pairs.weight_files import read_json
from chats.shapes import BASE, PAIR, SHAPES_MODEL, SHAPES_NUM_STEPS

UNKNOWN_NUM_STEPS = 50
SHAPES_EXAMPLES = (
    "three red stars on a black background",
    "a blue circle to the left of a square",
    "a green heart and a purple cross",
    "a triangle above a star on a brown background",
    "four yellow circles",
)
EXAMPLES = (
    "an astronaut riding a horse on the moon, oil painting",
    "a red fox in fresh snow, morning light",
    "a cosy bookshop on a rainy evening, watercolour",
)


@dataclass(frozen=True)
class ModelChoice:
    """One model that the page offers, as far as it is known without loading it."""

    name: str
    """What `GenerationConfig.model` takes."""
    title: str
    """How people call it."""
    num_steps: int
    """Number of steps that suits it."""
    scale: float = DEFAULT_SCALE
    """Guidance scale s that suits it: its pair's recommendation, else the paper's."""
    alpha: float = DEFAULT_ALPHA
    """Proxy strength α that suits it."""
    width: int | None = None
    """Its own width in pixels; none while it is not known."""
    height: int | None = None
    """Its own height in pixels; none while it is not known."""
    has_pair: bool = False
    """Whether a preference pair is there, so that CHATS can run."""
    pair: str | None = None
    """What `GenerationConfig.pair` takes, a run's id among it; none is the model's own."""
    run: str = ""
    """The run whose pair it is; empty for what the server was started with."""
    run_title: str = ""
    """How people call that run."""
    is_fast: bool = False
    """Whether a picture takes seconds, so that dragging a slider may make new ones."""
    examples: tuple[str, ...] = ()
    """Prompts worth a try."""

    @property
    def id(self) -> str:
        """What a page or a program calls it: a run's id, or the model's name."""
        return self.run or self.name

    @property
    def pair_title(self) -> str:
        """How people call its pair."""
        if self.run:
            return self.run_title or self.run
        if not self.has_pair:
            return "None: the base model alone"
        return "Embedded" if self.pair is None else PurePath(self.pair).name


@dataclass(frozen=True)
class ModelStatus:
    """How far the model is, in words for the page's header."""

    state: Literal["loading", "ready", "failed"]
    text: str


def describe_model(model: str, pair: str | None) -> ModelChoice:
    """Say what is known about a model without loading it: reads a few small files at most.

    Args:
        model: `shapes`, a folder, or a Hub id.
        pair: its preference pair, a folder or a Hub id; none means the one that belongs to it.
    """
    if model == SHAPES_MODEL:
        return describe_shapes(base=BASE, pair=pair)
    return ModelChoice(
        name=model,
        title=model_title(model),
        num_steps=_num_steps(model),
        has_pair=pair is not None or _is_released(model),
        pair=pair,
        examples=EXAMPLES,
    )


def describe_shapes(*, base: Path, pair: str | None, embedded: Path = PAIR) -> ModelChoice:
    """Describe the Shapes model and its pair, given or embedded, from their small files."""
    unet, vae = (read_json(base / part / "config.json") for part in ("unet", "vae"))
    size = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    metadata = (Path(pair).expanduser() if pair else embedded) / "pair.json"
    recommended = read_json(metadata).get("recommended") or {} if metadata.is_file() else {}
    return ModelChoice(
        name=SHAPES_MODEL,
        title=model_title(SHAPES_MODEL),
        num_steps=SHAPES_NUM_STEPS,
        scale=recommended.get("scale", DEFAULT_SCALE),
        alpha=recommended.get("alpha", DEFAULT_ALPHA),
        width=size,
        height=size,
        has_pair=pair is not None or metadata.is_file(),
        pair=pair,
        is_fast=True,
        examples=SHAPES_EXAMPLES,
    )


def model_title(model: str) -> str:
    """Return how people call a model."""
    return "Shapes model" if model == SHAPES_MODEL else Path(model).name


def _num_steps(model: str) -> int:
    """Return the number of steps that suits a model, as far as its family is known already."""
    path = hub.file_at_hand(model, "model_index.json")
    name = read_json(path).get("_class_name") if path else None
    known = [family.num_steps for family in FAMILIES if name in family.pipelines]
    return (*known, UNKNOWN_NUM_STEPS)[0]


def _is_released(model: str) -> bool:
    """Whether a model is known to be two denoisers in one folder, which are their own pair."""
    path = hub.file_at_hand(model, "model_index.json")
    return path is not None and read_json(path).keys() >= set(HALVES.values())
