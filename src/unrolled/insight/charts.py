"""Charts as inline SVG: they need no library, no network, and print sharp at any size."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.core.errors import UserError
from unrolled.core.terminal import clean_text
from unrolled.scores.classes import Calibration

WIDTH = 460
HEIGHT = 250
LEFT = 74
RIGHT = 16
TOP = 26
BOTTOM = 44
COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea")
# the colour of the text around it, so that a chart serves a light page and a dark one
GRID = 'stroke="currentColor" stroke-opacity="0.14"'
DIAGONAL = 'stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="4 4"'

Points = Sequence[tuple[float, float]]


def escaped(text: str) -> str:
    """Return text for HTML; what would ring, hide or turn the direction of writing is spelt out."""
    return html.escape(clean_text(text))


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


def lines(series: Mapping[str, Points], across: str, up: str) -> str:
    """Return a line chart.

    Args:
        series: points (x, y) by the name in the legend.
        across: what x is.
        up: what y is.

    Raises:
        UserError: there is no point at all.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        raise UserError("there is nothing to draw yet")
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    low = min(ys)
    high = max(ys)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    place = _Frame(min(xs), max(xs), low - margin, high + margin)
    parts = place.axes(across, up)
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            'stroke-linejoin="round"/>'
        )
        if len(points) <= 40:
            parts += [
                f'<circle cx="{place.x(x):.1f}" cy="{place.y(y):.1f}" r="3" fill="{colour}">'
                f"<title>{label(x)}: {y:.4g}</title></circle>"
                for x, y in points
            ]
        if len(series) > 1:
            # the legend stands above the plot, where no curve is
            at = LEFT + 110 * number
            parts.append(
                f'<rect x="{at}" y="8" width="14" height="4" fill="{colour}"/>'
            )
            parts.append(f'<text x="{at + 20}" y="14">{escaped(name)}</text>')
    return _svg(parts, f"{up} by {across}")


def scatter(points: Points, across: str, up: str) -> str:
    """Return a scatter chart with the diagonal on which prediction equals truth."""
    values = [v for point in points for v in point]
    low = min(values)
    high = max(values)
    margin = 0.03 * (high - low) or 1.0
    place = _Frame(low - margin, high + margin, low - margin, high + margin)
    parts = place.axes(across, up)
    parts.append(
        f'<line x1="{place.x(low):.1f}" y1="{place.y(low):.1f}" x2="{place.x(high):.1f}" '
        f'y2="{place.y(high):.1f}" {DIAGONAL}/>'
    )
    parts += [
        f'<circle cx="{place.x(x):.1f}" cy="{place.y(y):.1f}" r="2.5" fill="{COLOURS[0]}" '
        'fill-opacity="0.5"/>'
        for x, y in points[:2000]
    ]
    return _svg(parts, f"{up} by {across}")


def reliability(found: Calibration) -> str:
    """Return a reliability diagram: accuracy by confidence, beside the diagonal of no error."""
    place = _Frame(0, 1, 0, 1)
    bins = len(found.counts)
    parts = place.axes("confidence", "accuracy")
    for number, (count, sure, hits) in enumerate(
        zip(found.counts.tolist(), found.confidence, found.accuracy, strict=True)
    ):
        if not count:
            continue
        left = place.x(number / bins)
        right = place.x((number + 1) / bins)
        top = place.y(hits)
        told = f"{count:,} answers: confidence {sure:.3f}, accuracy {hits:.3f}"
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{place.y(0) - top:.1f}" fill="{COLOURS[0]}" fill-opacity="0.35">'
            f"<title>{told}</title></rect>"
        )
        parts.append(
            f'<circle cx="{place.x(sure):.1f}" cy="{top:.1f}" r="4" fill="{COLOURS[0]}">'
            f"<title>{told}</title></circle>"
        )
    parts.append(
        f'<line x1="{place.x(0):.1f}" y1="{place.y(0):.1f}" x2="{place.x(1):.1f}" '
        f'y2="{place.y(1):.1f}" {DIAGONAL}/>'
    )
    return _svg(parts, "accuracy by confidence")


def matrix(counts: Any, names: Sequence[str]) -> str:
    """Return a confusion matrix as an HTML table, darker where a row's share is larger."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    body = []
    for name, row in zip(names, counts.tolist(), strict=True):
        total = max(1, sum(row))
        cells = []
        for value in row:
            share = value / total
            ink = ";color:#fff" if share > 0.55 else ""
            cells.append(
                f'<td style="background:rgba(37,99,235,{share:.3f}){ink}" '
                f'title="{share:.1%} of the row">{value:,}</td>'
            )
        body.append(f'<tr><th scope="row">{escaped(name)}</th>{"".join(cells)}</tr>')
    return (
        '<table class="matrix"><thead><tr><th scope="col">true \\ answered</th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


class _Frame:
    """The plot area: data coordinates to pixels."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left = left
        self.right = right
        self.low = low
        self.high = high

    def x(self, value: float) -> float:
        # a single point stands in the middle
        wide = self.right - self.left
        share = (value - self.left) / wide if wide else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self, across: str, up: str) -> list[str]:
        parts = []
        for value in ticks(self.low, self.high):
            y = self.y(value)
            parts.append(
                f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" {GRID}/>'
            )
            parts.append(
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>'
            )
        for value in ticks(self.left, self.right, 6):
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


def _svg(parts: list[str], name: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(name)}">'
        f"{''.join(parts)}</svg>"
    )
