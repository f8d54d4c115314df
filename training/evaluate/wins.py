"""Finished evaluations as votes: at each prompt and noise the higher score wins. No torch."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from chats.errors import UserError
from chats.statistics.votes import Vote
from training.disk import read_if_there
from training.evaluate.folder import EvaluationFolder


def wins_of(folders: Iterable[Path], scorer: str) -> list[Vote]:
    """Return what a scorer preferred in finished evaluations, as people's votes are written.

    Each prompt and image seed gives one vote for every two contestants; equal scores are a tie.
    Votes of one prompt share their cluster, also across evaluations. Folders without scores of
    this scorer, and evaluations that are not finished, say nothing.

    Args:
        folders: of evaluations.
        scorer: its name as in the evaluations' settings.

    Raises:
        UserError: the scores of a folder are damaged.
    """
    return [vote for folder in folders for vote in _votes(folder, scorer)]


def _votes(folder: Path, scorer: str) -> Iterator[Vote]:
    drawn: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in _rows(EvaluationFolder(folder).scores):
        if scorer in row["scores"]:
            drawn.setdefault((row["number"], row["seed"]), []).append(row)
    for rows in drawn.values():
        for one, other in itertools.combinations(rows, 2):
            first, second = one["scores"][scorer], other["scores"][scorer]
            yield Vote(
                first=one["method"],
                second=other["method"],
                outcome=0.5 if first == second else float(first > second),
                cluster=" ".join(one["prompt"].casefold().split()),
            )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (read_if_there(path) or b"").splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Start its evaluation again.") from None
