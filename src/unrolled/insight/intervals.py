"""Scores of several things side by side: a dot a run, a bar at the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unrolled.insight import plot
from unrolled.insight.charts import Chart
from unrolled.insight.tables import TextTable
from unrolled.insight.words import Phrase, t

ROW = 34
TOP = 30
BOTTOM = 46
RIGHT = 70  # where the mean is written
WIDEST = 230  # of the names
ROOM = 0.08  # beside the outermost dots


@dataclass(frozen=True, slots=True)
class DotRow:
    """A row of the chart: its name, its values, and their mean."""

    name: str
    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return sum(self.values) / len(self.values)


def dots(
    rows: Sequence[DotRow],
    across: object,
    lines: Sequence[tuple[str, float]] = (),
) -> Chart:
    """Return a chart of a row a thing.

    Args:
        rows: with one value or more each.
        across: what the values are.
        lines: names and values of what is drawn as a dashed line through all rows.
    """
    left = min(WIDEST, 16 + max(plot.width_of(row.name) for row in rows))
    values = [value for _, value in lines]
    for row in rows:
        values += row.values
    low = min(values)
    high = max(values)
    margin = ROOM * (high - low) or 0.05 * abs(high) or 1.0
    top = TOP + plot.ROW * len(lines)
    height = top + ROW * len(rows) + BOTTOM
    right = plot.WIDTH - RIGHT
    width = right - left
    start = low - margin
    span = high - low + 2 * margin

    def x(value: float) -> float:
        return left + width * (value - start) / span

    bottom = height - BOTTOM
    parts = _axis(x, plot.ticks(start, start + span, 5), top, bottom)
    middle = (left + right) / 2
    parts.append(plot.text(middle, height - 6, across, 'text-anchor="middle"'))
    for number, (name, value) in enumerate(lines):
        parts += _line(x(value), f"{name} {value:.4f}", number, top, bottom, middle)
    for number, row in enumerate(rows):
        parts += _row(row, x, left, top + ROW * (number + 0.5))
    svg = plot.drawing(parts, across, height)
    return Chart(Markup(svg), _table(rows, across, lines))


def _axis(x: Any, values: Sequence[float], top: float, bottom: float) -> list[str]:
    parts = []
    for value in values:
        at = x(value)
        parts.append(
            f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}" {plot.GRID}/>'
        )
        parts.append(
            plot.text(at, bottom + 19, plot.label(value), 'text-anchor="middle"')
        )
    return parts


def _line(
    at: float, name: str, number: int, top: float, bottom: float, middle: float
) -> list[str]:
    y = 14 + plot.ROW * number
    anchor = "end" if at > middle else "start"
    beside = at - 6 if at > middle else at + 6
    return [
        f'<line x1="{at:.1f}" y1="{y - 8}" x2="{at:.1f}" y2="{bottom}" {plot.DIAGONAL}/>',
        plot.text(beside, y, name, f'text-anchor="{anchor}"'),
    ]


def _row(row: DotRow, x: Any, left: float, y: float) -> list[str]:
    low = x(min(row.values))
    high = x(max(row.values))
    mean = x(row.mean)
    marks = "".join(
        plot.mark(5, x(value), y, f"{row.name}: {value:.4f}", size=4)
        for value in row.values
    )
    drawn = (
        f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="currentColor" stroke-width="1.5"/>'
        f"{marks}"
        f'<path d="M{mean:.1f} {y - 9:.1f}v18" stroke="currentColor" stroke-width="3"/>'
    )
    return [
        plot.text(left - 12, y + 4, row.name, 'text-anchor="end"'),
        f'<g class="s1">{drawn}</g>',
        plot.text(plot.WIDTH - RIGHT + 14, y + 4, f"{row.mean:.4f}"),
    ]


def _table(
    rows: Sequence[DotRow], across: object, lines: Sequence[tuple[str, float]]
) -> TextTable:
    head: list[Any] = [t("chart.name"), t("chart.mean", of=across), t("chart.all")]
    cells: list[list[str | Phrase]] = []
    for row in rows:
        every = ", ".join(f"{value:.4f}" for value in row.values)
        cells.append([row.name, f"{row.mean:.4f}", every])
    for name, value in lines:
        cells.append([name, f"{value:.4f}", ""])
    return TextTable(head, cells)
