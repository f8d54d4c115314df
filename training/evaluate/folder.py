"""The folder of an evaluation: what lies where in it; every file is whole at any moment.

It is a run directory (status.json, log.txt) with settings.json, pictures/METHOD/seed-K/NUMBER.png,
parts/ (scores as they come), scores.jsonl and report.json, .csv, .md at the end. This module
imports no torch.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chats.errors import UserError
from training.disk import read_if_there, write_atomically
from training.evaluation_config import EvaluateConfig
from training.run import RunDirectory

_REMEDY = "then start it again; or set output to another folder."
_POLL_SECONDS = 0.2
_FREE = frozenset({"output", "cpu_threads"})
"""Settings that may differ when an evaluation goes on."""


@dataclass(frozen=True)
class Part:
    """What is made, scored and written together: some prompts of one method and seed."""

    method: str
    seed: int
    first: int
    """Number of the first prompt, from 0."""
    last: int
    """Number after the last prompt."""

    @property
    def name(self) -> str:
        """Its file in parts/."""
        return f"{self.method}_seed-{self.seed}_{self.first:05}.jsonl"


@dataclass(frozen=True)
class EvaluationFolder:
    """Where an evaluation is kept."""

    path: Path

    @property
    def run(self) -> RunDirectory:
        """The same folder as a run: its state and its log."""
        return RunDirectory(self.path)

    @property
    def scores(self) -> Path:
        """All scores, one line for each picture."""
        return self.path / "scores.jsonl"

    def picture(self, method: str, seed: int, number: int) -> Path:
        """Where a picture lies."""
        return self.path / "pictures" / method / f"seed-{seed}" / f"{number:05}.png"

    def begin(self, config: EvaluateConfig, *, is_main: bool) -> None:
        """Write the settings, or see that they are those that it was begun with.

        Raises:
            UserError: the folder was begun with other settings; names the first that differs.
        """
        settings = config.model_dump(mode="json", exclude=set(_FREE))
        path = self.path / "settings.json"
        kept = read_if_there(path)
        if kept is None:
            if is_main:
                write_atomically(path, json.dumps(settings, indent=2) + "\n", remedy=_REMEDY)
            return
        try:
            before = json.loads(kept)
        except ValueError:
            raise UserError(f"{path} is damaged. Set output to another folder.") from None
        for name, value in settings.items():
            if before.get(name) != value:
                raise UserError(
                    f"{self.path} was begun with {name} = {before.get(name)!r}, not {value!r}. "
                    "Give the same settings to go on, or set output to another folder."
                )

    def has(self, part: Part) -> bool:
        """Whether a part is done."""
        return (self.path / "parts" / part.name).is_file()

    def write(self, part: Part, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the scores of a part, which is done with that."""
        write_atomically(
            self.path / "parts" / part.name,
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            remedy=_REMEDY,
        )

    def num_done(self, parts: Sequence[Part]) -> int:
        """Count the pictures of all parts that are done, by whichever process."""
        there = {path.name for path in (self.path / "parts").glob("*.jsonl")}
        return sum(part.last - part.first for part in parts if part.name in there)

    def wait_for(self, parts: Sequence[Part], *, each_time: Callable[[], None]) -> None:
        """Wait until every part is done, by whichever process; `each_time` may raise to end it."""
        while not all(self.has(part) for part in parts):
            each_time()
            time.sleep(_POLL_SECONDS)

    def merge(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Write all scores into one file in the order of the parts, and return them."""
        texts = [(self.path / "parts" / part.name).read_text("utf-8") for part in parts]
        write_atomically(self.scores, "".join(texts), remedy=_REMEDY)
        return [json.loads(line) for text in texts for line in text.splitlines()]
