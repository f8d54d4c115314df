"""What the lines of votes.jsonl say, and what they are about: contestants, matches, votes."""

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from chats.config import FrozenSettings, GenerationConfig, Row
from chats.denoising.methods import needs_pair, uses_alpha, uses_scale
from chats.shapes import SHAPES_MODEL
from chats.wording import METHOD_TITLES, row_label

Choice = Literal["left", "right", "tie", "skip"]
"""Which picture is better; `tie`: neither; `skip`: no answer."""

Level = Literal["method", "setting", "run"]
"""What a scoreboard tells apart: methods, their settings, or pairs by the run they came from."""

BASE_TITLE = "Base model"

MatchId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""Drawn by the server; it says nothing of what was matched."""


class Contestant(FrozenSettings):
    """What makes one of the two pictures."""

    settings: GenerationConfig
    """One row; prompt and seed are those of the match."""

    pair_title: str = Field(BASE_TITLE, max_length=200)
    """How people call its preference pair."""

    @classmethod
    def of(cls, config: GenerationConfig, *, pair_title: str) -> "Contestant":
        """Leave out what does not change the picture, so that equal contestants are equal."""
        row = config.rows[0]
        used = {
            "seed": 0,
            "scale": row.scale if uses_scale(row.method) else 0.0,
            "alpha": row.alpha if uses_alpha(row.method) else 0.0,
        }
        update = {
            "prompt": "",
            "rows": (row.model_copy(update=used),),
            "preview_every": 0,
            "missing_pair": "refuse",
        }
        if not needs_pair(row.method):
            update["pair"], pair_title = None, BASE_TITLE
            if config.model != SHAPES_MODEL:
                pair_title = f"{BASE_TITLE} {PurePath(config.model).name}"
        return cls(settings=config.model_copy(update=update), pair_title=pair_title[:200])

    @property
    def row(self) -> Row:
        """Method, s and α."""
        return self.settings.rows[0]

    def config(self, prompt: str, seed: int) -> GenerationConfig:
        """Return what makes its picture of a prompt from a seed."""
        rows = (self.row.model_copy(update={"seed": seed}),)
        return self.settings.model_copy(update={"prompt": prompt, "rows": rows})

    def name(self, level: Level) -> str:
        """Return how a scoreboard calls it."""
        if level == "method":
            return METHOD_TITLES[self.row.method]
        if level == "run":
            return self.pair_title
        steps = self.settings.num_steps
        return " · ".join(
            filter(None, (row_label(self.row), f"{steps} steps" if steps else "", *self._extras()))
        )

    @property
    def title(self) -> str:
        """All that tells it from others."""
        return f"{self.name('setting')} · {self.pair_title}"

    def _extras(self) -> tuple[str, ...]:
        settings = self.settings
        return (
            "" if settings.model == SHAPES_MODEL else PurePath(settings.model).name,
            "" if settings.scheduler == "default" else settings.scheduler,
            ""
            if settings.interval == (0.0, 1.0)
            else "guided from {:g} to {:g}".format(*settings.interval),
            f"not {settings.negative_prompt!r:.40}" if settings.negative_prompt else "",
        )


class Match(FrozenSettings):
    """Two pictures of one prompt and seed, their sides drawn; it can be voted on once."""

    kind: Literal["match"] = "match"
    """Tells the lines apart."""

    id: MatchId
    """Its id."""

    made: AwareDatetime
    """When both pictures were there (UTC)."""

    ballot: str = Field(max_length=64)
    """Which question it belongs to: see `Ballot.key`."""

    prompt: str = Field(min_length=1)
    """The prompt of both."""

    seed: int = Field(ge=0, lt=2**32)
    """The seed of both."""

    left: Contestant
    """What made the left picture."""

    right: Contestant
    """What made the right picture."""

    left_picture: str
    """The left picture's file, settings inside."""

    right_picture: str
    """The right picture's file, settings inside."""

    repeats: MatchId | None = None
    """The match whose pictures are shown again, to see whether the answer is the same."""

    def contestant(self, choice: Choice) -> Contestant | None:
        """Return the one on a side; none for a tie or a skip."""
        return {"left": self.left, "right": self.right}.get(choice)


class Vote(FrozenSettings):
    """A person's answer to a match."""

    kind: Literal["vote"] = "vote"
    """Tells the lines apart."""

    match: MatchId
    """The match."""

    choice: Choice
    """The answer."""

    voter: str = Field(max_length=80)
    """How the person calls themselves."""

    when: AwareDatetime
    """When (UTC)."""


class Undo(FrozenSettings):
    """A vote is taken back; its match is open again."""

    kind: Literal["undo"] = "undo"
    """Tells the lines apart."""

    match: MatchId
    """The match."""

    when: AwareDatetime
    """When (UTC)."""


class Stored(FrozenSettings):
    """The data set has the preference of a match, or has it no more."""

    kind: Literal["stored"] = "stored"
    """Tells the lines apart."""

    match: MatchId
    """The match."""

    dataset: str
    """The data set's id."""

    row: int | None
    """The row in it; none: it was taken out."""


Entry = Match | Vote | Undo | Stored
"""One line of votes.jsonl."""


ENTRIES: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])
"""Reads a line."""


class CollectionRecord(FrozenSettings):
    """What collection.json says; it never changes."""

    name: str = Field(min_length=1, max_length=120)
    """How people call the collection."""

    created: AwareDatetime
    """When it was made (UTC)."""


def is_winner(choice: Choice) -> bool:
    """Whether a choice says which picture is better."""
    return choice in ("left", "right")
