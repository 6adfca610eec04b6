"""Charts as inline SVG: they need no library, no network, and print sharp at any size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from markupsafe import Markup

from unrolled.core.errors import UserError
from unrolled.insight import pages
from unrolled.insight.pages import escaped
from unrolled.scores.classes import Calibration

WIDTH = 460
HEIGHT = 250
LEFT = 74
RIGHT = 16
TOP = 26
BOTTOM = 44
MARKED = 40  # points of the longest curve that shows every one of them
DOTS = 2000  # of a scatter chart, at most
COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea", "#b45309", "#64748b")
# the colour of the text around it, so that a chart serves a light page and a dark one
GRID = 'stroke="currentColor" stroke-opacity="0.14"'
DIAGONAL = 'stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="4 4"'

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


def label(value: float) -> str:
    """Return a short name of a number: 20k for 20000."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}".replace("e-0", "e-")


def lines(series: Mapping[str, Points], across: str, up: str, log: str = "") -> Markup:
    """Return a line chart.

    Args:
        series: points (x, y) by the name in the legend.
        across: what x is.
        up: what y is.
        log: the axes that count in powers of ten: "", "x", "y" or "xy"; what is not above 0 there
            is left out.

    Raises:
        UserError: there is no point at all.
    """
    series = {name: _drawable(points, log) for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        raise UserError("there is nothing to draw yet")
    xs, ys = zip(*chain.from_iterable(series.values()), strict=True)
    low = min(ys)
    high = max(ys)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    if "y" in log:
        frame = _Frame(min(xs), max(xs), low / 1.2, high * 1.2, log)
    else:
        frame = _Frame(min(xs), max(xs), low - margin, high + margin, log)
    parts = frame.axes(across, up)
    # the legend stands above the plot, where no curve is
    apart = min(110, (WIDTH - RIGHT) // len(series))
    begin = min(LEFT, WIDTH - RIGHT - apart * len(series))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += frame.curve(points, colour)
        if len(series) > 1:
            left = begin + apart * number
            parts.append(
                f'<rect x="{left}" y="8" width="14" height="4" fill="{colour}"/>'
            )
            parts.append(f'<text x="{left + 20}" y="14">{escaped(name)}</text>')
    return _svg(parts, f"{up} by {across}")


def scatter(points: Points, across: str, up: str) -> Markup:
    """Return a scatter chart with the diagonal on which prediction equals truth."""
    coordinates = list(chain.from_iterable(points))
    low = min(coordinates)
    high = max(coordinates)
    margin = 0.03 * (high - low) or 1.0
    frame = _Frame(low - margin, high + margin, low - margin, high + margin)
    parts = frame.axes(across, up)
    parts.append(frame.diagonal(low, high))
    parts += [
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5" fill="{COLOURS[0]}" '
        'fill-opacity="0.5"/>'
        for x, y in points[:DOTS]
    ]
    return _svg(parts, f"{up} by {across}")


def reliability(bins: Calibration) -> Markup:
    """Return a reliability diagram: accuracy by confidence, beside the diagonal of no error."""
    frame = _Frame(0, 1, 0, 1)
    total = len(bins.counts)
    parts = frame.axes("confidence", "accuracy")
    for number, (count, confidence, accuracy) in enumerate(
        zip(bins.counts.tolist(), bins.confidence, bins.accuracy, strict=True)
    ):
        if not count:
            continue
        left = frame.x(number / total)
        right = frame.x((number + 1) / total)
        top = frame.y(accuracy)
        title = (
            f"{count:,} answers: confidence {confidence:.3f}, accuracy {accuracy:.3f}"
        )
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{frame.y(0) - top:.1f}" fill="{COLOURS[0]}" fill-opacity="0.35">'
            f"<title>{title}</title></rect>"
        )
        parts.append(
            f'<circle cx="{frame.x(confidence):.1f}" cy="{top:.1f}" r="4" '
            f'fill="{COLOURS[0]}"><title>{title}</title></circle>'
        )
    parts.append(frame.diagonal(0, 1))
    return _svg(parts, "accuracy by confidence")


def matrix(counts: Any, names: Sequence[str]) -> Markup:
    """Return a confusion matrix as an HTML table, darker where more of a row's answers are."""
    rows = []
    for name, row in zip(names, counts.tolist(), strict=True):
        total = max(1, sum(row))
        rows.append((name, [(count, count / total) for count in row]))
    return Markup(pages.render("matrix.html", names=names, rows=rows))


def _drawable(points: Points, log: str) -> Points:
    """Return the points that have a logarithm wherever an axis needs one."""
    return [
        (x, y)
        for x, y in points
        if (x > 0 or "x" not in log) and (y > 0 or "y" not in log)
    ]


def powers(low: float, high: float) -> list[float]:
    """Return powers of ten from ``low`` to ``high``, both above 0; the two where there is none."""
    first = math.ceil(math.log10(low) - 1e-9)
    last = math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)] or [low, high]


class _Frame:
    """The plot area: data coordinates to pixels."""

    def __init__(
        self, left: float, right: float, low: float, high: float, log: str = ""
    ) -> None:
        self.left = left
        self.right = right
        self.low = low
        self.high = high
        self.log = log

    def x(self, value: float) -> float:
        fraction = _fraction(value, self.left, self.right, "x" in self.log)
        return LEFT + fraction * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        fraction = _fraction(value, self.low, self.high, "y" in self.log)
        return HEIGHT - BOTTOM - fraction * (HEIGHT - TOP - BOTTOM)

    def curve(self, points: Points, colour: str) -> list[str]:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        parts = [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            'stroke-linejoin="round"/>'
        ]
        if len(points) <= MARKED:
            parts += [
                f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{colour}">'
                f"<title>{label(x)}: {y:.4g}</title></circle>"
                for x, y in points
            ]
        return parts

    def diagonal(self, low: float, high: float) -> str:
        return (
            f'<line x1="{self.x(low):.1f}" y1="{self.y(low):.1f}" x2="{self.x(high):.1f}" '
            f'y2="{self.y(high):.1f}" {DIAGONAL}/>'
        )

    def axes(self, across: str, up: str) -> list[str]:
        parts = []
        upwards = powers if "y" in self.log else ticks
        for value in upwards(self.low, self.high):
            y = self.y(value)
            parts.append(
                f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" {GRID}/>'
            )
            parts.append(
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>'
            )
        marks = ticks(self.left, self.right, 6)
        for value in powers(self.left, self.right) if "x" in self.log else marks:
            x = self.x(value)
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                f"{label(value)}</text>"
            )
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle" '
            f'class="axis">{escaped(across)}</text>'
        )
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text x="14" y="{middle}" text-anchor="middle" class="axis" '
            f'transform="rotate(-90 14 {middle})">{escaped(up)}</text>'
        )
        return parts


def _fraction(value: float, start: float, end: float, log: bool) -> float:
    """Return how far a value stands from ``start`` to ``end``; a single point in the middle."""
    if log:
        value, start, end = (math.log10(number) for number in (value, start, end))
    return (value - start) / (end - start) if end != start else 0.5


def _svg(parts: list[str], name: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(name)}">'
        f"{''.join(parts)}</svg>"
    )
