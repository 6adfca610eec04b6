"""Charts as inline SVG with real text, each with the table of what it draws.

They need no library and no network, and print sharp at any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from markupsafe import Markup

from unrolled.insight import pages, plot
from unrolled.insight.plot import Points
from unrolled.insight.tables import TextTable
from unrolled.insight.words import Phrase, both, t
from unrolled.scores.classes import Calibration

DOTS = 2000  # of a scatter chart, at most
ROWS = 100  # of the table of a chart; of more points, so many evenly spaced


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the table that says the same."""

    svg: Markup
    table: TextTable


def figure(caption: object, chart: Chart) -> Markup:
    """Return a chart with its caption, in a box that scrolls where it is narrow, and its table."""
    return Markup(pages.render("figure.html", caption=both(caption), chart=chart))


def lines(
    series: Mapping[Any, Points],
    across: object,
    up: object,
    *,
    log: str = "",
) -> Chart:
    """Return a line chart.

    Args:
        series: points (x, y) by the name in the legend, text or a phrase.
        across: what x is.
        up: what y is.
        log: the axes on a logarithmic scale: "", "x", "y" or "xy"; what is not above 0 there is
            left out.

    Raises:
        UserError: there is no point at all.
    """
    shown = {name: _drawable(points, log) for name, points in series.items()}
    series = plot.not_empty(shown)
    xs, ys = zip(*chain.from_iterable(series.values()), strict=True)
    low = min(ys)
    high = max(ys)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ends = (low - margin, high + margin)
    if "y" in log:
        ends = (low / 1.2, high * 1.2)
    legend = plot.legend(list(series))
    frame = plot.Frame(
        min(xs),
        max(xs),
        *ends,
        legend.height,
        log,
    )
    parts = frame.axes(across, up) + legend.parts
    parts += [
        frame.curve(points, number, len(series))
        for number, points in enumerate(series.values())
    ]
    name = t("chart.by", up=up, across=across)
    svg = Markup(plot.drawing(parts, name, frame.height))
    return Chart(svg, _table_of_lines(series, across, up))


def _drawable(points: Points, log: str) -> Points:
    """Return the points that a logarithmic axis has."""
    return [
        (x, y)
        for x, y in points
        if (x > 0 or "x" not in log) and (y > 0 or "y" not in log)
    ]


def _table_of_lines(
    series: Mapping[Any, Points],
    across: object,
    up: object,
) -> TextTable:
    """Return the values by x, a column a series."""
    columns = [dict(points) for points in series.values()]
    xs = sorted(set(chain.from_iterable(columns)))
    rows = []
    for x in _thinned(xs):
        cells = [f"{column[x]:.4g}" if x in column else "" for column in columns]
        rows.append([plot.label(x), *cells])
    names = list(series) if len(series) > 1 else [up]
    head = [both(name) for name in (across, *names)]
    return TextTable(head, rows, caption=_shown(len(rows), len(xs)))


def _thinned(values: Sequence[Any]) -> list[Any]:
    """Return at most ``ROWS`` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= ROWS:
        return list(values)
    last = len(values) - 1
    return [values[n * last // (ROWS - 1)] for n in range(ROWS)]


def _shown(rows: int, total: int) -> Phrase | str:
    if rows == total:
        return ""
    return t("chart.some", rows=f"{rows:,}", total=f"{total:,}")


def scatter(points: Points, across: object, up: object) -> Chart:
    """Return a scatter chart with the diagonal on which prediction equals truth."""
    coordinates = list(chain.from_iterable(points))
    low = min(coordinates)
    high = max(coordinates)
    margin = 0.03 * (high - low) or 1.0
    low -= margin
    high += margin
    frame = plot.Frame(low, high, low, high)
    parts = frame.axes(across, up)
    parts.append(frame.diagonal(low + margin, high - margin))
    dots = "".join(
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.6" '
        'fill="currentColor" fill-opacity="0.5"/>'
        for x, y in points[:DOTS]
    )
    parts.append(f'<g class="s1">{dots}</g>')
    shown = _thinned(sorted(points))
    rows = [[f"{x:.6g}", f"{y:.6g}"] for x, y in shown]
    head = [both(across), both(up)]
    table = TextTable(head, rows, caption=_shown(len(rows), len(points)))
    name = t("chart.by", up=up, across=across)
    return Chart(Markup(plot.drawing(parts, name)), table)


def reliability(bins: Calibration) -> Chart:
    """Return a reliability diagram: accuracy by confidence, beside the diagonal of no error."""
    frame = plot.Frame(0, 1, 0, 1)
    total = len(bins.counts)
    across = t("chart.confidence")
    up = t("chart.accuracy")
    parts = frame.axes(across, up)
    rows = []
    columns = (bins.counts.tolist(), bins.confidence, bins.accuracy)
    for number, values in enumerate(zip(*columns, strict=True)):
        count, confidence, accuracy = values
        if not count:
            continue
        limits = f"{number / total:g}–{(number + 1) / total:g}"
        rows.append(
            [
                limits,
                f"{count:,}",
                f"{confidence:.3f}",
                f"{accuracy:.3f}",
            ]
        )
        left = frame.x(number / total)
        right = frame.x((number + 1) / total)
        top = frame.y(accuracy)
        title = f"{limits}: {confidence:.3f}, {accuracy:.3f} (n = {count:,})"
        bar = (
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{frame.y(0) - top:.1f}" fill="currentColor" fill-opacity="0.28">'
            f"<title>{title}</title></rect>"
        )
        dot = plot.mark(0, frame.x(confidence), top, title, size=4)
        parts.append(f'<g class="s1">{bar}{dot}</g>')
    parts.append(frame.diagonal(0, 1))
    head = [
        across,
        t("chart.answers"),
        t("chart.mean_confidence"),
        up,
    ]
    svg = Markup(plot.drawing(parts, t("chart.by", up=up, across=across)))
    return Chart(svg, TextTable(head, rows))


def matrix(counts: Any, names: Sequence[str]) -> Markup:
    """Return a confusion matrix as an HTML table, darker where more of a row's answers are."""
    rows = []
    for name, row in zip(names, counts.tolist(), strict=True):
        total = max(1, sum(row))
        shares = [(count, count / total) for count in row]
        rows.append((name, shares))
    return Markup(pages.render("matrix.html", names=names, rows=rows))
