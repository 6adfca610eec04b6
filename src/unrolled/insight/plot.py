"""What charts are drawn of: the plot area, its axes, texts in both languages, curves and marks.

Colours are the style's (``templates/page.css``), so that a chart serves light and dark pages. A
series differs from the next by its dashes and its marks too, and never by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from unrolled.core.errors import UserError
from unrolled.insight.words import both, escaped

WIDTH = 520
HEIGHT = 280
LEFT = 78
RIGHT = 18
TOP = 16
BOTTOM = 46
ROW = 20  # height of a row of the legend
MARKED = 40  # points of the longest curve that shows every one of them
SPARSE = 8  # marks of a longer one among others, by which its form is known
# widths of characters, roughly; those of Hangul are twice as wide as a latin one
NARROW = 6.8
WIDE = 12.5
GRID = 'stroke="currentColor" stroke-opacity="0.13"'
DIAGONAL = 'stroke="currentColor" stroke-opacity="0.55" stroke-dasharray="4 4"'
COLOURS = 6  # .s1 to .s6 of the style
DASHES = ("", "8 4", "2 4", "12 4 2 4", "5 2", "1 3 6 3")
MARKS = ("circle", "square", "triangle", "diamond", "cross", "ring")

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that cover a range."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * f for f in (1, 2, 2.5, 5, 10) if size * f >= raw)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten inside a range; with twice and five times each where those are few."""
    first = math.floor(math.log10(low))
    powers = [10.0**n for n in range(first, math.ceil(math.log10(high)) + 1)]
    inside: list[float] = []
    for leads in ((1,), (1, 2, 5)):
        values = [lead * power for power, lead in product(powers, leads)]
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(inside) >= 3:
            break
    return inside or [low]


def label(value: float) -> str:
    """Return a short name of a number: 20k for 20000."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}".replace("e-0", "e-")


def text(x: float, y: float, content: object, attributes: str = "") -> str:
    """Return a text of a drawing; one of two languages is there twice, and shown once."""
    phrase = both(content)
    start = f'<text x="{x:.1f}" y="{y:.1f}"'
    if attributes:
        start += f" {attributes}"
    if phrase.en == phrase.ko:
        return f"{start}>{escaped(phrase.text('en'))}</text>"
    return "".join(
        f'{start} class="w" lang="{language}">{escaped(phrase.text(language))}</text>'
        for language in ("en", "ko")
    )


def width_of(content: object) -> float:
    """Return about how wide a text is drawn, in the longer of its languages."""
    phrase = both(content)
    return max(
        sum(WIDE if ord(letter) > 0x10FF else NARROW for letter in text_of_language)
        for text_of_language in (phrase.text("en"), phrase.text("ko"))
    )


def mark(number: int, x: float, y: float, title: str = "", size: float = 3.4) -> str:
    """Return the mark of a series at a point, in the colour of the group that it stands in."""
    kind = MARKS[number % len(MARKS)]
    hover = f"<title>{escaped(title)}</title>" if title else ""
    if kind in ("circle", "ring"):
        inside = 'fill="currentColor"'
        if kind == "ring":
            inside = 'fill="none" stroke="currentColor" stroke-width="1.8"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {inside}>{hover}</circle>'
    a = size
    shapes = {
        "square": f"M{-a} {-a}H{a}V{a}H{-a}Z",
        "triangle": f"M0 {-1.2 * a:.2f}L{1.2 * a:.2f} {a}H{-1.2 * a:.2f}Z",
        "diamond": f"M0 {-1.35 * a:.2f}L{1.35 * a:.2f} 0L0 {1.35 * a:.2f}L{-1.35 * a:.2f} 0Z",
        "cross": f"M{-a} {-a}L{a} {a}M{a} {-a}L{-a} {a}",
    }
    stroke = ' stroke="currentColor" stroke-width="2"' if kind == "cross" else ""
    return (
        f'<path transform="translate({x:.1f} {y:.1f})" d="{shapes[kind]}" '
        f'fill="currentColor"{stroke}>{hover}</path>'
    )


def series_class(number: int) -> str:
    """Return the class that gives a series its colour."""
    return f"s{number % COLOURS + 1}"


class Legend(NamedTuple):
    """The names of series above a plot: what is drawn, and how high that is."""

    parts: list[str]
    height: float


def legend(names: Sequence[object]) -> Legend:
    """Return the legend of several series, as many a row as fit; nothing for one of them."""
    if len(names) < 2:
        return Legend([], 0)
    parts = []
    x = float(LEFT)
    y = 12.0
    for number, name in enumerate(names):
        needed = 38 + width_of(name) + 16
        if x > LEFT and x + needed > WIDTH:
            x = float(LEFT)
            y += ROW
        sample = stroke(number, f"M{x:.1f} {y:.1f}h28") + mark(number, x + 14, y)
        parts.append(f'<g class="{series_class(number)}">{sample}</g>')
        parts.append(text(x + 36, y + 4, name))
        x += needed
    return Legend(parts, y + 4)


def stroke(number: int, path: str) -> str:
    """Return the line of a series along an SVG path."""
    dashes = DASHES[number % len(DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="2" '
        f'stroke-linejoin="round"{dashed}/>'
    )


class Frame:
    """The plot area: data coordinates to those of the drawing.

    Args:
        left, right, low, high: the ranges of x and of y.
        legend_height: what the legend above takes.
        log: the axes on a logarithmic scale: "", "x", "y" or "xy".

    Raises:
        UserError: a range is not above zero on a logarithmic scale.
    """

    def __init__(
        self,
        left: float,
        right: float,
        low: float,
        high: float,
        legend_height: float = 0,
        log: str = "",
    ) -> None:
        for axis, least in (("x", left), ("y", low)):
            if axis in log and least <= 0:
                raise UserError(f"a logarithmic scale has no {least:g}")
        self.left = left
        self.right = right
        self.low = low
        self.high = high
        self.log = log
        self.top = TOP + legend_height
        self.height = HEIGHT + legend_height

    def x(self, value: float) -> float:
        """Return where a value of x stands; a single point stands in the middle."""
        scale = math.log if "x" in self.log else float
        width = scale(self.right) - scale(self.left)
        fraction = (scale(value) - scale(self.left)) / width if width else 0.5
        return LEFT + fraction * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return where a value of y stands."""
        scale = math.log if "y" in self.log else float
        height = scale(self.high) - scale(self.low)
        fraction = (scale(value) - scale(self.low)) / height
        return self.height - BOTTOM - fraction * (self.height - self.top - BOTTOM)

    def curve(self, points: Points, number: int, among: int = 1) -> str:
        """Return the curve of series ``number`` of ``among``, with marks."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        shown = range(len(points))
        if len(points) > MARKED:
            shown = (
                range(0, len(points), len(points) // SPARSE) if among > 1 else range(0)
            )
        marks = [
            mark(number, self.x(x), self.y(y), f"{label(x)}: {y:.4g}")
            for x, y in (points[index] for index in shown)
        ]
        line = stroke(number, f"M{path}")
        return f'<g class="{series_class(number)}">{line}{"".join(marks)}</g>'

    def diagonal(self, low: float, high: float) -> str:
        """Return the dashed line on which y equals x."""
        return (
            f'<line x1="{self.x(low):.1f}" y1="{self.y(low):.1f}" x2="{self.x(high):.1f}" '
            f'y2="{self.y(high):.1f}" {DIAGONAL}/>'
        )

    def axes(self, across: object, up: object) -> list[str]:
        """Return grid, ticks and names of both axes."""
        parts = []
        for value in self._ticks_up():
            y = self.y(value)
            parts.append(
                f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" {GRID}/>'
            )
            parts.append(text(LEFT - 8, y + 4, label(value), 'text-anchor="end"'))
        bottom = self.height - BOTTOM
        for value in self._ticks_across():
            middle = 'text-anchor="middle"'
            parts.append(text(self.x(value), bottom + 19, label(value), middle))
        centre = (LEFT + WIDTH - RIGHT) / 2
        parts.append(text(centre, self.height - 6, across, 'text-anchor="middle"'))
        middle_y = (self.top + bottom) / 2
        turned = f'text-anchor="middle" transform="rotate(-90 15 {middle_y:.1f})"'
        parts.append(text(15, middle_y, up, turned))
        return parts

    def _ticks_across(self) -> list[float]:
        if "x" in self.log and self.right > self.left:
            return log_ticks(self.left, self.right)
        return ticks(self.left, self.right, 6)

    def _ticks_up(self) -> list[float]:
        if "y" in self.log:
            return log_ticks(self.low, self.high)
        return ticks(self.low, self.high)


def drawing(parts: Sequence[str], name: object, height: float = HEIGHT) -> str:
    """Return a whole SVG drawing, which is called ``name`` where it is not seen."""
    called = both(name).attribute("aria-label")
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" {called}>'
        f"{''.join(parts)}</svg>"
    )


def not_empty(series: Mapping[str, Points]) -> dict[str, Points]:
    """Return the series that have points.

    Raises:
        UserError: there is no point at all.
    """
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        raise UserError("there is nothing to draw yet")
    return drawn
