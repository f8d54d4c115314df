"""Small plots as SVG: a frame with axes, into which lines are drawn."""

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 6, 8, 22
_CAP = 3


@dataclass(frozen=True)
class Frame:
    """The values at the ends of both axes, and where values are drawn between them."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """Return the place from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x0) / (self.x1 - self.x0)

    def y(self, value: float) -> float:
        """Return the place from the top; what lies far outside is drawn just outside."""
        place = TOP + (HEIGHT - TOP - BOTTOM) * (self.y1 - value) / (self.y1 - self.y0)
        return min(max(place, -HEIGHT), 2.0 * HEIGHT)

    def axes(self) -> str:
        """Draw the grid and its numbers."""
        lines = "".join(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(value):.1f}" '
            f'y2="{self.y(value):.1f}"/><text x="{LEFT - 6}" y="{self.y(value) + 4:.1f}" '
            f'text-anchor="end">{number_text(value)}</text>'
            for value in ticks(self.y0, self.y1)
        )
        below = "".join(
            f'<text x="{self.x(value):.1f}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{number_text(value)}</text>"
            for value in ticks(self.x0, self.x1, wanted=6)
            if LEFT + 8 <= self.x(value) <= WIDTH - RIGHT - 12 or value == 0
        )
        return f'<g class="axes">{lines}{below}</g>'

    def error_bar(self, x: float, mean: float, error: float, *, line: int) -> str:
        """Draw a bar from `mean - error` to `mean + error` at the place x from the left."""
        top, bottom = (self.y(mean + sign * error) for sign in (1, -1))
        caps = "".join(f"M{x - _CAP:.1f} {end:.1f}h{2 * _CAP}" for end in (top, bottom))
        path = f"M{x:.1f} {top:.1f}V{bottom:.1f}{caps}"
        return f'<path class="bar-of-error" data-line="{line}" d="{path}"/>'

    def figure(self, body: str, *, title: str, key: str, said: str, x_name: str = "step") -> str:
        """Put what was drawn under a title.

        Args:
            body: SVG.
            title: What is plotted.
            key: HTML that says which line is which.
            said: The plot in words.
            x_name: What the values under the pointer are told for.
        """
        return (
            f'<figure class="plot" data-box="{LEFT} {WIDTH - RIGHT} {TOP} {HEIGHT - BOTTOM}" '
            f'data-x0="{self.x0!r}" data-x1="{self.x1!r}" data-y0="{self.y0!r}" '
            f'data-y1="{self.y1!r}" data-x-name="{escape(x_name)}"><figcaption>'
            f"<strong>{escape(title)}</strong><output>{key}</output></figcaption>"
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
            f"{body}</svg></figure>"
        )


def ticks(low: float, high: float, *, wanted: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about so many."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def widened(low: float, high: float) -> tuple[float, float]:
    """Keep the ends apart."""
    if high - low > 1e-6 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def number_text(value: float) -> str:
    """Write a number as short as it can be read."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 and value == round(value, -2):
        return f"{value / 1000:g}k"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("e-0", "e-").replace("-", "−")
