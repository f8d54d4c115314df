"""Score against α as a plot: a line for each s, with a bar of one standard error each way."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from chats.sweeps.config import SweepConfig
from chats.sweeps.results import CellScore, Results
from chats.sweeps.words import panel_label, score_text
from ui.plots import Frame, widened

MAX_LINES = 6
"""So many lines can be told apart."""


@dataclass(frozen=True)
class _Line:
    number: int
    scale: float
    scores: list[CellScore]


def render_scores(config: SweepConfig, found: Results) -> str:
    """Draw a plot for each panel that has scores, all on one axis, and a legend."""
    panels = dict.fromkeys(score.cell.panel for score in found.cells)
    lines = {panel: _lines([s for s in found.cells if s.cell.panel == panel]) for panel in panels}
    drawn = [score for each in lines.values() for line in each for score in line.scores]
    if not drawn:
        return ""
    ends = [score.mean + sign * (score.error or 0) for score in drawn for sign in (-1, 1)]
    low, high = widened(min(ends), max(ends))
    room = 0.06 * (high - low)
    across = widened(min(config.alphas), max(config.alphas))
    margin = 0.07 * (across[1] - across[0])
    frame = Frame(across[0] - margin, across[1] + margin, low - room, high + room)
    plots = "".join(_plot(frame, config, each) for each in lines.values() if each)
    names = "".join(
        f'<li data-line="{k}">s = {scale:g}</li>'
        for k, scale in enumerate(config.scales[:MAX_LINES])
    )
    legend = f'<ul class="legend">{names}</ul>' if len(config.scales) > 1 else ""
    num_scales, note = len(config.scales), ""
    if num_scales > MAX_LINES:
        text = f"The first {MAX_LINES} of {num_scales} values of s are drawn; the CSV has all."
        note = f'<p class="plot-note">{text}</p>'
    return f'{legend}<div class="plots">{plots}</div>{note}'


def _lines(scores: Sequence[CellScore]) -> list[_Line]:
    scales = list(dict.fromkeys(score.cell.scale for score in scores))[:MAX_LINES]
    found = []
    for number, scale in enumerate(scales):
        own = [each for each in scores if each.cell.scale == scale and each.mean is not None]
        if own:
            found.append(_Line(number, scale, sorted(own, key=lambda score: score.cell.alpha)))
    return found


def _plot(frame: Frame, config: SweepConfig, lines: Sequence[_Line]) -> str:
    body = frame.axes()
    # Bars of several lines at one α would hide each other: they stand a little apart.
    for place, line in enumerate(lines):
        shift = 2.5 * (place - (len(lines) - 1) / 2)
        body += _line(frame, line, shift=shift)
    cell = lines[0].scores[0].cell
    panel = panel_label(cell, config)
    title = f"Score against α, {panel}" if panel else "Score against α"
    said = "; ".join(
        f"s = {line.scale:g}: "
        + ", ".join(f"{score_text(score)} at α = {score.cell.alpha:g}" for score in line.scores)
        for line in lines
    )
    return frame.figure(body, title=title, key="", said=f"{title}. {said}"[:2000], x_name="α")


def _line(frame: Frame, line: _Line, *, shift: float) -> str:
    places = [(frame.x(score.cell.alpha) + shift, score) for score in line.scores]
    points = " ".join(f"{x:.1f},{frame.y(score.mean):.1f}" for x, score in places)
    drawn = f'<polyline class="smooth" data-line="{line.number}" points="{points}"/>'
    for x, score in places:
        if score.error:
            drawn += frame.error_bar(x, score.mean, score.error, line=line.number)
        drawn += (
            f'<circle data-line="{line.number}" r="2.5" cx="{x:.1f}" '
            f'cy="{frame.y(score.mean):.1f}"><title>{escape(score_text(score))}</title></circle>'
        )
    return drawn
