"""The tables of a finished evaluation as HTML, with a plot against α and files to keep."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from chats.denoising.methods import uses_alpha
from chats.scoring.registry import SCORERS
from training.disk import read_if_there
from training.evaluate.report import ALL, difference_text, is_percent, mean_text, wins_text
from training.evaluation_config import EvaluateConfig
from ui.plots import Frame, widened

FILES = {
    "report.csv": "text/csv",
    "report.json": "application/json",
    "report.md": "text/markdown",
}
MAX_LINES = 6
"""So many lines can be told apart."""
NOTHING = '<p class="nothing">The tables come when all pictures are made and scored.</p>'

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """What a finished evaluation wrote.

    Attributes:
        config: Its settings.
        document: Its report.json.
        files: What its reports hold, by name.
    """

    config: EvaluateConfig
    document: Mapping[str, Any]
    files: Mapping[str, bytes]


def read_results(folder: Path, config: EvaluateConfig | None) -> Results | None:
    """Return what lies in an evaluation's folder; none before it is finished."""
    files = {name: read_if_there(folder / name) for name in FILES}
    if config is None or None in files.values():
        return None
    try:
        document = json.loads(files["report.json"])
    except ValueError:
        return None
    return Results(config, document, files)


def render_results(results: Results | None) -> str:
    """Draw the tables, scorer by scorer; each against the first method."""
    if results is None:
        return NOTHING
    rows = results.document["rows"]
    parts = [_intro(results)]
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        own = [row for row in rows if row["scorer"] == scorer]
        label = SCORERS[scorer].label if scorer in SCORERS else scorer
        unit = ", percent" if is_percent(scorer) else ""
        parts += [
            f"<h3>{escape(label)}{unit}</h3>",
            _overall(own),
            _curve(own, results.config, label),
            _by_category(own),
        ]
    return f'<div class="results">{"".join(parts)}</div>'


def _intro(results: Results) -> str:
    document = results.document
    seeds = len(document["seeds"])
    text = (
        f"{document['num_prompts']:,} prompts × {seeds} image seed{'s' * (seeds > 1)}. "
        f"± is one standard error over prompts; differences and win rates are paired with "
        f"{document['baseline']}: the same prompt, the same noise. Win rates count ties half and "
        "have 95% intervals."
    )
    links = " ".join(
        f'<a class="save" download="{name}" href="data:{kind};base64,'
        f'{base64.b64encode(results.files[name]).decode("ascii")}">{Path(name).suffix[1:].upper()}'
        "</a>"
        for name, kind in FILES.items()
    )
    return f'<p class="results-note">{escape(text)}</p><p class="saves">Download {links}</p>'


def _overall(rows: Sequence[Row]) -> str:
    cells = [
        [row["method"], mean_text(row), difference_text(row), wins_text(row)]
        for row in rows
        if row["category"] == ALL
    ]
    return _table(["method", "mean", "difference", "win rate"], cells)


def _by_category(rows: Sequence[Row]) -> str:
    categories = [each for each in dict.fromkeys(row["category"] for row in rows) if each != ALL]
    if not categories:
        return ""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    at = {(row["category"], row["method"]): row for row in rows}
    drawn = ""
    for heads, text in (("Mean", mean_text), ("Win rate", wins_text)):
        named = methods if text is mean_text else methods[1:]
        if not named:
            continue
        cells = [[each, *(text(at[each, name]) for name in named)] for each in categories]
        drawn += f"<h4>{heads} per category</h4>{_table(['category', *named], cells)}"
    return f"<details><summary>Per category</summary>{drawn}</details>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f'<div class="results-table" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _curve(rows: Sequence[Row], config: EvaluateConfig, label: str) -> str:
    """Plot the means against α: a line for each method that has several."""
    means = {row["method"]: row for row in rows if row["category"] == ALL}
    lines: dict[tuple, list[tuple[float, Row]]] = {}
    for each in config.contestants:
        if uses_alpha(each.method) and each.name in means:
            key = (each.method, each.scale, each.model, each.pair)
            lines.setdefault(key, []).append((each.alpha, means[each.name]))
    kept = {key: sorted(points, key=_alpha) for key, points in lines.items() if len(points) > 1}
    kept = dict(list(kept.items())[:MAX_LINES])
    if not kept:
        return ""
    points = [point for each in kept.values() for point in each]
    ends = [row["mean"] + sign * (row["error"] or 0) for _, row in points for sign in (-1, 1)]
    low, high = widened(min(ends), max(ends))
    left, right = widened(*(end(alpha for alpha, _ in points) for end in (min, max)))
    room, margin = 0.06 * (high - low), 0.07 * (right - left)
    frame = Frame(left - margin, right + margin, low - room, high + room)
    body = frame.axes() + "".join(_line(frame, each, k) for k, each in enumerate(kept.values()))
    names = [f"{method}, s = {scale:g}" for method, scale, _, _ in kept]
    key = ", ".join(f'<b data-line="{k}">{escape(name)}</b>' for k, name in enumerate(names))
    said = "; ".join(
        f"{name}: " + ", ".join(f"{mean_text(row)} at α = {alpha:g}" for alpha, row in points)
        for name, points in zip(names, kept.values(), strict=True)
    )
    drawn = frame.figure(body, title=f"{label} against α", key=key, said=said, x_name="α")
    return f'<div class="plots">{drawn}</div>'


def _line(frame: Frame, points: Sequence[tuple[float, Row]], number: int) -> str:
    places = [(frame.x(alpha), row) for alpha, row in points]
    joined = " ".join(f"{x:.1f},{frame.y(row['mean']):.1f}" for x, row in places)
    drawn = f'<polyline class="smooth" data-line="{number}" points="{joined}"/>'
    for x, row in places:
        if row["error"]:
            drawn += frame.error_bar(x, row["mean"], row["error"], line=number)
        drawn += (
            f'<circle data-line="{number}" r="2.5" cx="{x:.1f}" cy="{frame.y(row["mean"]):.1f}">'
            f"<title>{escape(mean_text(row))}</title></circle>"
        )
    return drawn


def _alpha(point: tuple[float, Row]) -> float:
    return point[0]
