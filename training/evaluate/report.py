"""The tables of an evaluation: means with standard errors, paired differences, win rates.

Errors and intervals take the prompt as the unit; pictures of one prompt do not count as
independent. This module imports no torch.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chats.scoring.registry import SCORERS
from chats.statistics import Estimate, estimate, fraction, paired_difference
from training.disk import write_atomically
from training.evaluation_config import EvaluateConfig

ALL = "all"
"""How the rows over all categories call their category."""


def write_report(
    rows: Sequence[Mapping[str, Any]],
    config: EvaluateConfig,
    *,
    categories: Sequence[str],
    folder: Path,
) -> None:
    """Write report.json, report.csv and report.md beside the scores."""
    table = tabulate(rows, config, categories=categories)
    names = [each.name for each in config.contestants]
    document = {
        "prompts": config.prompts,
        "num_prompts": len({row["number"] for row in rows}),
        "seeds": list(config.seeds),
        "model": config.model,
        "baseline": names[0],
        "rows": table,
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]))
    writer.writeheader()
    writer.writerows({key: _neutral(value) for key, value in row.items()} for row in table)
    write_atomically(folder / "report.json", json.dumps(document, indent=2) + "\n")
    write_atomically(folder / "report.csv", text.getvalue())
    write_atomically(folder / "report.md", _markdown(table, document, config))


def tabulate(
    rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, categories: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each scorer, category and method.

    Scores of 0 or 1 are given in percent. A win is a higher score than the baseline's at the same
    prompt and noise, the same score is a tie.
    """
    names = [each.name for each in config.contestants]
    found = {(row["method"], row["seed"], row["number"]): row for row in rows}
    numbers = sorted({row["number"] for row in rows})
    kinds = [found[names[0], config.seeds[0], number]["category"] for number in numbers]
    masks = {ALL: np.full(len(numbers), True)}
    masks |= {each: np.array([kind == each for kind in kinds]) for each in categories}
    table = []
    for scorer in config.scorers:
        unit = 100.0 if is_percent(scorer) else 1.0
        scores = {
            name: unit
            * np.array(
                [
                    [found[name, seed, number]["scores"][scorer] for number in numbers]
                    for seed in config.seeds
                ]
            )
            for name in names
        }
        for category, mask in masks.items():
            baseline = scores[names[0]][:, mask]
            table += [
                _row(
                    scores[name][:, mask],
                    None if name == names[0] else baseline,
                    names=(scorer, category, name),
                )
                for name in names
            ]
    return table


def _row(
    scores: np.ndarray, baseline: np.ndarray | None, *, names: tuple[str, str, str]
) -> dict[str, Any]:
    """Numbers of scores `(seeds, prompts)`; of the baseline there is no difference to itself."""
    mean = estimate(scores[None])
    row: dict[str, Any] = dict(zip(("scorer", "category", "method"), names, strict=True))
    row |= {"num_prompts": scores.shape[1], "mean": mean.mean, "error": _finite(mean.error)}
    empty = ("difference", "difference_error", "win_rate", "win_low", "win_high", "num_ties")
    if baseline is None:
        return row | dict.fromkeys(empty)
    difference = paired_difference(scores[None], baseline[None])
    wins = fraction(
        (np.sign(scores - baseline) / 2 + 0.5).ravel(),
        clusters=np.tile(np.arange(scores.shape[1]), len(scores)).astype(str),
    )
    values = (
        *(difference.mean, _finite(difference.error)),
        *(wins.rate, wins.low, wins.high, wins.num_ties),
    )
    return row | dict(zip(empty, values, strict=True))


def _markdown(
    table: Sequence[Mapping[str, Any]], document: Mapping[str, Any], config: EvaluateConfig
) -> str:
    lines = [
        "# Evaluation",
        "",
        f"{document['num_prompts']} prompts of {config.prompts} × {len(config.seeds)} image seeds, "
        f"model {config.model}. ± one standard error over prompts; differences and win rates are "
        f"paired with {document['baseline']}: the same prompt, the same noise. Win rates count "
        "ties half and have 95% intervals.",
    ]
    for scorer in config.scorers:
        rows = [row for row in table if row["scorer"] == scorer]
        label = SCORERS[scorer].label if scorer in SCORERS else scorer
        lines += ["", f"## {label}{', percent' if is_percent(scorer) else ''}", ""]
        header = ["method", "mean", "difference", "win rate"]
        cells = [
            [row["method"], mean_text(row), difference_text(row), wins_text(row)]
            for row in rows
            if row["category"] == ALL
        ]
        lines += _table(header, cells)
        categories = list(dict.fromkeys(row["category"] for row in rows))[1:]
        if categories:
            methods = list(dict.fromkeys(row["method"] for row in rows))
            by_place = {(row["method"], row["category"]): row for row in rows}
            cells = [
                [name, *(mean_text(by_place[name, each]) for each in categories)]
                for name in methods
            ]
            lines += ["", *_table(["method", *categories], cells)]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(header)
    return [
        f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
        for row in (header, rule, *rows)
    ]


def mean_text(row: Mapping[str, Any]) -> str:
    """Write the mean of a row with its standard error."""
    return _shown(row["mean"], row["error"], percent=is_percent(row["scorer"]))


def difference_text(row: Mapping[str, Any]) -> str:
    """Write its difference to the baseline; a dash for the baseline itself."""
    if row["difference"] is None:
        return "–"
    percent = is_percent(row["scorer"])
    text = _shown(row["difference"], row["difference_error"], percent=percent)
    return text if text.startswith("-") else f"+{text}"


def wins_text(row: Mapping[str, Any]) -> str:
    """Write its win rate against the baseline with its interval."""
    if row["win_rate"] is None:
        return "–"
    ends = f"{100 * row['win_low']:.1f}, {100 * row['win_high']:.1f}"
    return f"{100 * row['win_rate']:.1f}% [{ends}]"


def _shown(mean: float, error: float | None, *, percent: bool) -> str:
    if percent:
        return str(Estimate(mean, error)) if error is not None else f"{mean:.1f}"
    return f"{mean:.3f} ± {error:.3f}" if error is not None else f"{mean:.3f}"


def is_percent(scorer: str) -> bool:
    """Whether a scorer's means are written in percent."""
    return scorer in SCORERS and SCORERS[scorer].in_percent


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _neutral(value: object) -> object:
    """Keep spreadsheet programs from taking a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t")) else value
