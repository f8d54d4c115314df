"""Curves of one or several runs as small SVG pictures: smoothed lines, raw ones faintly behind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from training.run import Metrics
from ui.plots import Frame, number_text, widened

MAX_POINTS = 300
"""A plot is hardly wider than this many points."""
MAX_RUNS = 6
"""So many lines can be told apart."""


@dataclass(frozen=True)
class Line:
    """One metric of a plot; the second one is dashed."""

    metric: str
    label: str


@dataclass(frozen=True)
class Plot:
    """One or two metrics that share an axis."""

    title: str
    lines: tuple[Line, ...]


PLOTS = (
    Plot("Loss", (Line("loss", "training"), Line("validation/loss", "held out"))),
    Plot(
        "Implicit rewards",
        (Line("rewards/preferred", "preferred"), Line("rewards/dispreferred", "dispreferred")),
    ),
    Plot(
        "Accuracy",
        (Line("rewards/accuracies", "training"), Line("validation/accuracy", "held out")),
    ),
    Plot("Margin", (Line("rewards/margins", "training"), Line("validation/margin", "held out"))),
    Plot("Spread of the sigmoid's argument", (Line("sigmoid_argument/std", ""),)),
    Plot("Gradient norm", (Line("grad_norm", ""),)),
    Plot("Learning rate", (Line("lr", ""),)),
    Plot("Pairs per second", (Line("pairs_per_second", ""),)),
    Plot("Waiting for data, seconds a step", (Line("data_wait_seconds", ""),)),
    Plot("Memory, GB", (Line("memory_gb", ""),)),
)


@dataclass(frozen=True)
class RunCurve:
    """A run's metrics and what the legend calls it."""

    label: str
    rows: Sequence[Metrics]


@dataclass(frozen=True)
class _Drawn:
    """One line of a plot: points with steps in order."""

    run: int
    is_second: bool
    steps: list[float]
    raw: list[float]
    smooth: list[float]


def render_curves(runs: Sequence[RunCurve], *, smoothing: float) -> str:
    """Draw a plot for each metric that some run has, and a legend if there are several runs."""
    plots = "".join(_plot(plot, runs, smoothing=smoothing) for plot in PLOTS)
    if not plots:
        return '<p class="nothing">The first numbers come with the first steps.</p>'
    legend = ""
    if len(runs) > 1:
        names = "".join(
            f'<li data-line="{k}">{escape(run.label)}</li>' for k, run in enumerate(runs)
        )
        legend = f'<ul class="legend">{names}</ul>'
    return f'{legend}<div class="plots">{plots}</div>'


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Return the exponential moving average of values, without its bias towards the start.

    The k-th value is Σ_i w^(k−i)·v_i / Σ_i w^(k−i) over i ≤ k; w = 0 changes nothing.
    """
    total = share = 0.0
    found = []
    for value in values:
        total, share = weight * total + value, weight * share + 1
        found.append(total / share)
    return found


def _plot(plot: Plot, runs: Sequence[RunCurve], *, smoothing: float) -> str:
    lines = [
        drawn
        for number, run in enumerate(runs)
        for place, line in enumerate(plot.lines)
        if (drawn := _drawn(run.rows, line, run=number, is_second=place > 0, weight=smoothing))
    ]
    if not lines:
        return ""
    x0, x1 = widened(min(each.steps[0] for each in lines), max(each.steps[-1] for each in lines))
    frame = Frame(x0, x1, *_heights(lines))
    body = frame.axes() + '<g clip-path="inset(0)">'
    for kind in ("raw", "smooth"):
        for each in lines:
            values = each.raw if kind == "raw" else each.smooth
            points = " ".join(
                f"{frame.x(step):.1f},{frame.y(value):.1f}"
                for step, value in zip(each.steps, values, strict=True)
            )
            second = " data-second" if each.is_second else ""
            body += f'<polyline class="{kind}" data-line="{each.run}"{second} points="{points}"/>'
            if kind == "smooth" and len(values) == 1:
                body += (
                    f'<circle data-line="{each.run}" r="2.5" cx="{frame.x(each.steps[0]):.1f}" '
                    f'cy="{frame.y(values[0]):.1f}"/>'
                )
    return frame.figure(
        body + "</g>", title=plot.title, key=_key(plot, lines), said=_said(plot, lines)
    )


def _drawn(
    rows: Sequence[Metrics], line: Line, *, run: int, is_second: bool, weight: float
) -> _Drawn | None:
    found = [
        (float(row["step"]), float(value))
        for row in rows
        if isinstance(value := row.get(line.metric), int | float) and math.isfinite(value)
    ]
    if not found:
        return None
    steps, raw = (list(each) for each in zip(*found, strict=True))
    # What is held out is measured seldom and always with the same draws: there is no noise in it.
    is_plain = line.metric.startswith("validation/") or line.metric in ("lr", "memory_gb")
    kept = 0.0 if is_plain else weight
    return _Drawn(run, is_second, steps, raw, smoothed(raw, kept))


def _heights(lines: Sequence[_Drawn]) -> tuple[float, float]:
    """Return the axis: all that is smooth, and of the raw values all but the wildest."""
    low = min(min(each.smooth) for each in lines)
    high = max(max(each.smooth) for each in lines)
    raw = sorted(value for each in lines for value in each.raw)
    cut = len(raw) // 50
    low, high = min(low, raw[cut]), max(high, raw[-1 - cut])
    low, high = widened(low, high)
    room = 0.06 * (high - low)
    return low - room, high + room


def _key(plot: Plot, lines: Sequence[_Drawn]) -> str:
    """Say which line is which where a plot has two metrics."""
    if not any(each.is_second for each in lines):
        return ""
    first, second = plot.lines[:2]
    return f"{escape(first.label)}, <i>{escape(second.label)}</i>"


def _said(plot: Plot, lines: Sequence[_Drawn]) -> str:
    return f"{plot.title}: {number_text(lines[0].smooth[-1])} at step {lines[0].steps[-1]:.0f}"
