"""What a sweep found, in plain words, and as a table. No torch here."""

import csv
import io

from chats.sweeps.config import NO_SCORER, SweepConfig
from chats.sweeps.plan import Cell, panels
from chats.sweeps.results import CellScore, Results

_MAX_NAMED = 6
_COLUMNS = (
    "method",
    "alpha",
    "scale",
    "num_steps",
    "scheduler",
    "interval_start",
    "interval_end",
    "scorer",
    "mean",
    "standard_error",
    "num_pictures",
    "best",
    "within_one_standard_error",
)


def cell_label(cell: Cell, config: SweepConfig) -> str:
    """Name a cell by what it does not share with all others: `α = 0.5, s = 2`."""
    label = f"α = {cell.alpha:g}, s = {cell.scale:g}"
    own = panel_label(cell, config)
    return f"{label}, {own}" if own else label


def panel_label(cell: Cell, config: SweepConfig) -> str:
    """Name steps, sampler and interval where the sweep has several; empty where it has one."""
    parts = []
    if len(config.num_steps or ()) > 1:
        parts.append(f"{cell.panel.num_steps} steps")
    if len(config.schedulers) > 1:
        parts.append(f"sampler {cell.panel.scheduler}")
    if len(config.intervals) > 1:
        start, end = cell.panel.interval
        parts.append(f"guidance {start:g} to {end:g}")
    return ", ".join(parts)


def score_text(score: CellScore) -> str:
    """Write a score with its error: `0.75 ± 0.05`."""
    if score.mean is None:
        return ""
    error = "" if score.error is None else f" ± {score.error:.2g}"
    return f"{score.mean:.3g}{error}"


def verdict(config: SweepConfig, found: Results) -> str:
    """Say which cell is best, which ones cannot be told from it, and what the errors mean."""
    if config.scorer == NO_SCORER:
        return "Nothing judged the pictures: choose a scorer to have the cells compared."
    if found.best is None:
        return "The best cell is told when every cell has a picture of the same prompt and seed."
    best = found.cells[found.best]
    text = f"Best: {cell_label(best.cell, config)}, with {score_text(best)}."
    if not found.error_unit:
        return (
            f"{text} One picture a cell tells nothing of chance: add prompts or seeds before you "
            "trust it."
        )
    if found.within:
        names = [cell_label(found.cells[index].cell, config) for index in found.within]
        shown = "; ".join(names[:_MAX_NAMED])
        more = f"; and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        text += f" Not told apart from it, being within one standard error: {shown}{more}."
    else:
        text += " Every other cell is more than one standard error behind."
    if found.error_unit == "seeds":
        return f"{text} The errors are between seeds, so this holds for this one prompt."
    return f"{text} The errors are between prompts."


def table_csv(config: SweepConfig, found: Results) -> str:
    """Write one line for each cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for index, score in enumerate(found.cells):
        cell = score.cell
        writer.writerow(
            [
                config.method,
                cell.alpha,
                cell.scale,
                cell.panel.num_steps or "",
                cell.panel.scheduler,
                *cell.panel.interval,
                _neutral(config.scorer),
                "" if score.mean is None else score.mean,
                "" if score.error is None else score.error,
                score.num_pictures,
                int(index == found.best),
                int(index in found.within),
            ]
        )
    return stream.getvalue()


def num_panels(config: SweepConfig) -> int:
    """Number of grids of α and s."""
    return len(panels(config))


def _neutral(text: str) -> str:
    """Keep a text that a person wrote from being a formula in a spreadsheet."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
