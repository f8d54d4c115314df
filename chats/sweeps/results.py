"""What the scores say: a mean and its standard error for each cell, the best one, and its peers.

The prompt is the unit of sampling. A cell's score on a prompt is the mean over the seeds; the
standard error is that of the mean of these over the prompts, so that several pictures of one prompt
do not pass for independent ones. With one prompt it is over the seeds, and holds for that prompt
alone. All cells have the same prompts and seeds, so two cells are compared by their differences.
No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chats.statistics.estimates import estimate
from chats.sweeps.config import SweepConfig
from chats.sweeps.folder import Call
from chats.sweeps.plan import Cell, cells, pictures


@dataclass(frozen=True)
class CellScore:
    """What is known of one cell."""

    cell: Cell
    num_pictures: int
    """Pictures that are made."""
    mean: float | None
    """Mean score; none without scores."""
    error: float | None
    """Its standard error; none as long as only one prompt with one seed was scored."""


@dataclass(frozen=True)
class Results:
    """Scores of all cells, in the order of `cells`."""

    cells: tuple[CellScore, ...]
    best: int | None
    """The cell with the highest mean; none until every cell has the same pictures scored."""
    within: tuple[int, ...]
    """Other cells whose difference to the best is at most one standard error of that difference."""
    error_unit: str
    """What the errors are between: `prompts`, `seeds`, or empty where there are none."""


def results(config: SweepConfig, calls: Sequence[Call]) -> Results:
    """Judge what has been made so far.

    While calls are missing, each cell's mean is that of its own pictures; the best cell is told
    only of pictures that all cells have, so that no cell wins by an easier prompt.
    """
    scores, num_made = _table(config, calls)
    found = tuple(
        CellScore(cell, int(count), *mean_and_error(table))
        for cell, table, count in zip(cells(config), scores, num_made, strict=True)
    )
    shared = np.where(np.isnan(scores).any(axis=0), np.nan, scores)
    best, within = best_cells(shared)
    return Results(found, best, within, _unit(shared))


def mean_and_error(table: np.ndarray) -> tuple[float | None, float | None]:
    """Return the mean of scores `(prompts, seeds)` and its standard error; NaN is not made yet."""
    units = _units(table)
    if not len(units):
        return None, None
    found = estimate(units.reshape(1, 1, -1))
    return found.mean, None if np.isnan(found.error) else found.error


def best_cells(scores: np.ndarray) -> tuple[int | None, tuple[int, ...]]:
    """Return the best of scores `(cells, prompts, seeds)`, and those not told apart from it.

    Of equal ones the first is the best. NaN, at the same places in all cells, is not made yet.
    """
    means = [mean_and_error(table)[0] for table in scores]
    if any(mean is None for mean in means):
        return None, ()
    best = int(np.argmax(np.round(means, 12)))
    within = []
    for index, table in enumerate(scores):
        behind, error = mean_and_error(scores[best] - table)
        if index != best and behind <= (error or 0.0) + 1e-12:
            within.append(index)
    return best, tuple(within)


def _table(config: SweepConfig, calls: Sequence[Call]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores `(cells, prompts, seeds)`, NaN where there are none, and pictures a cell."""
    scores = np.full((config.num_cells, len(config.prompts), len(config.seeds)), np.nan)
    num_made = np.zeros(config.num_cells, int)
    plan = pictures(config)
    for call in calls:
        for k in range(call.count):
            made = plan[call.first + k]
            num_made[made.cell] += 1
            if call.scores is not None:
                scores[made.cell, made.prompt, made.seed] = call.scores[k]
    return scores, num_made


def _units(table: np.ndarray) -> np.ndarray:
    """Return what is independent: means of the prompts, or the seeds of a single prompt."""
    is_made = ~np.isnan(table)
    if table.shape[0] == 1:
        return table[0][is_made[0]]
    rows = zip(table, is_made, strict=True)
    return np.array([row[made].mean() for row, made in rows if made.any()])


def _unit(shared: np.ndarray) -> str:
    if not shared.size or len(_units(shared[0])) < 2:
        return ""
    return "prompts" if shared.shape[1] > 1 else "seeds"
