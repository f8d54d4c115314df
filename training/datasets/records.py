"""What a data set's files say, as frozen models: its record, its rows, its edits, its report."""

from typing import Literal

from pydantic import AwareDatetime, Field

from chats.config import FrozenSettings
from training.preferences.bad_rows import BadRow

DISK_REMEDY = "then try again."
"""What to do when the disk refuses to write a data set."""

EditAction = Literal["drop", "swap", "prompt", "undo"]
"""Leave rows out; swap which picture is preferred; write another prompt; take back an edit."""


class DatasetRecord(FrozenSettings):
    """What is known of a data set, in dataset.json; it never changes."""

    name: str = Field(min_length=1, max_length=120)
    """How people call it."""

    origin: str = Field(max_length=300)
    """Where it came from, in words."""

    created: AwareDatetime
    """When it was made (UTC)."""


class StoredRow(FrozenSettings):
    """One line of metadata.jsonl, as the ImageFolder layout has it."""

    prompt: str = Field(min_length=1)
    """The prompt."""

    chosen_file_name: str
    """The preferred picture."""

    rejected_file_name: str
    """The dispreferred picture."""

    row: int = Field(ge=1)
    """Names the row for good: its number in what was imported, or the next one that is free."""

    provenance: str = ""
    """How the preference came about, as JSON; empty if that is not known."""


class Edit(FrozenSettings):
    """One line of edits.jsonl: the rows as they were and as they are."""

    version: int = Field(ge=2)
    """The version that it makes; what was imported is version 1."""

    action: EditAction
    """What was done."""

    when: AwareDatetime
    """When (UTC)."""

    before: tuple[StoredRow, ...]
    """The rows before; those that came anew are not among them."""

    after: tuple[StoredRow, ...]
    """The rows afterwards; those that were left out are not among them."""

    next_row: int = Field(ge=1)
    """The next free row at that time: a row that was left out does not give its number away."""

    undoes: int | None = None
    """The version that it takes back."""


class Report(FrozenSettings):
    """What became of every row of an import, or of a check of what is stored."""

    when: AwareDatetime
    """When the rows were read (UTC)."""

    num_read: int = Field(ge=0)
    """Rows read."""

    num_kept: int = Field(ge=0)
    """Rows that are pairs."""

    num_ties: int = Field(0, ge=0)
    """Rows that prefer neither picture; they are left out."""

    ties: tuple[int, ...] = ()
    """The first of them."""

    dropped: dict[str, int] = Field(default_factory=dict)
    """Rows that can't be used, by what is wrong with them."""

    faults: tuple[BadRow, ...] = ()
    """The first of them, with their numbers and what is wrong."""

    sizes: dict[str, int] = Field(default_factory=dict)
    """Pictures by their size, such as `1024 × 768`, the most frequent first."""

    @property
    def num_dropped(self) -> int:
        """Rows that can't be used."""
        return sum(self.dropped.values())
