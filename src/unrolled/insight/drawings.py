"""Drawings of one input: lines of an alignment, labels over time, a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from markupsafe import Markup

from unrolled.insight import charts, plot
from unrolled.insight.charts import Chart
from unrolled.insight.tables import TextTable
from unrolled.insight.trace import Floats, Forecast, Trace
from unrolled.insight.words import escaped, t

WEAK = 0.1  # an attention weight below which no line is drawn
HEIGHT = 150
PAST = 100  # steps before a forecast that are drawn
PIECES = 200  # of a band, whose table lists them


def visible(token: str) -> str:
    """Return a token as people see it: blanks alone and line ends as signs."""
    shown = token.replace(" ", "␣") if token and not token.strip(" ") else token
    return shown.replace("\n", "⏎")


def alignment(source: Sequence[str], written: Sequence[str], weights: Floats) -> Markup:
    """Return two rows of tokens, joined by lines as thick as the attention weights (U, T)."""
    top = _row(source)
    bottom = _row(written)
    width = max(top[-1][1], bottom[-1][1]) + 10
    parts = [_texts(source, top, 18), _texts(written, bottom, HEIGHT - 8)]
    rows: list[list[object]] = []
    for query, row in enumerate(weights.tolist()):
        best = max(range(len(row)), key=row.__getitem__)
        rows.append([written[query], source[best], f"{row[best]:.2f}"])
        for index, weight in enumerate(row):
            if weight < WEAK:
                continue
            x1 = sum(top[index]) / 2
            x2 = sum(bottom[query]) / 2
            name = escaped(f"{written[query]} → {source[index]}: {weight:.2f}")
            parts.append(
                f'<line x1="{x1:.1f}" y1="26" x2="{x2:.1f}" y2="{HEIGHT - 24}" class="s1" '
                f'stroke="currentColor" stroke-width="{0.5 + 4 * weight:.1f}" '
                f'stroke-opacity="{0.25 + 0.75 * weight:.2f}"><title>{name}</title></line>'
            )
    called = t("inside.alignment").attribute("aria-label")
    svg = Markup(
        f'<svg class="chart wide" viewBox="0 0 {width:.0f} {HEIGHT}" role="img" '
        f'style="min-width:{width:.0f}px" {called}>{"".join(parts)}</svg>'
    )
    head = [t("inside.written"), t("inside.looks_at"), t("inside.weight")]
    return charts.figure(
        t("inside.alignment"), Chart(svg, TextTable(head, rows, "words"))
    )


def _row(tokens: Sequence[str]) -> list[tuple[float, float]]:
    """Return where each token begins and ends when they stand side by side."""
    ends: list[tuple[float, float]] = []
    x = 6.0
    for token in tokens:
        width = plot.width_of(visible(token.strip(" ")) or "␣") + 14
        ends.append((x, x + width))
        x += width
    return ends


def _texts(tokens: Sequence[str], row: Sequence[tuple[float, float]], y: float) -> str:
    return "".join(
        plot.text(
            sum(ends) / 2, y, visible(token.strip(" ")) or "␣", 'text-anchor="middle"'
        )
        for token, ends in zip(tokens, row, strict=True)
    )


def band(labels: Sequence[str]) -> Markup:
    """Return labels over time: a bar whose pieces are runs of equal ones, with their names."""
    width = plot.WIDTH
    scale = width / len(labels)
    order = {name: number for number, name in enumerate(dict.fromkeys(labels))}
    parts: list[str] = []
    rows: list[list[object]] = []
    first = 0
    for name, run in groupby(labels):
        end = first + len(list(run))
        rows.append([f"{first + 1}", f"{end}", name])
        x = first * scale
        wide = (end - first) * scale
        number = order[name]
        # neighbours differ in height too, so that they are told apart without colour
        top = 8 + 6 * (number % 3)
        label = escaped(f"{name}: {first + 1}–{end}")
        parts.append(
            f'<rect class="{plot.series_class(number)}" x="{x:.1f}" y="{top}" '
            f'width="{max(1.0, wide - 1):.1f}" height="{46 - top}" fill="currentColor" '
            f'fill-opacity="0.55"><title>{label}</title></rect>'
        )
        if wide > plot.width_of(name) + 6:
            middle = 'text-anchor="middle"'
            parts.append(plot.text(x + wide / 2, 66, name, middle))
        first = end
    called = t("inside.labels").attribute("aria-label")
    svg = Markup(
        f'<svg class="chart" viewBox="0 0 {width} 74" role="img" {called}>{"".join(parts)}</svg>'
    )
    head = [t("inside.from"), t("inside.to"), t("inside.label")]
    return charts.figure(
        t("inside.labels"), Chart(svg, TextTable(head, rows[:PIECES], "words"))
    )


def forecast_chart(trace: Trace, forecast: Forecast) -> Markup:
    """Return the last steps of what is forecast, the value with its interval, and the truth."""
    assert trace.numbers is not None
    series: dict[Any, list[tuple[float, float]]] = {}
    count = len(trace.numbers)
    if forecast.column in trace.columns:
        index = trace.columns.index(forecast.column)
        first = max(0, count - PAST)
        past = trace.numbers[first:, index].tolist()
        series[t("inside.past")] = [
            (float(step), value) for step, value in enumerate(past, first + 1)
        ]
    then = float(count + forecast.ahead)
    series[t("inside.forecast")] = [(then, forecast.value)]
    series[t("inside.interval")] = [(then, forecast.low), (then, forecast.high)]
    if forecast.truth is not None:
        series[t("inside.truth")] = [(then, forecast.truth)]
    chart = charts.lines(series, t("inside.step"), forecast.column)
    return charts.figure(t("inside.forecast_of", column=forecast.column), chart)


def side_by_side(
    first: Sequence[str],
    second: Sequence[str],
    distances: Sequence[float],
    parted: int | None,
) -> Markup:
    """Return the tokens of two inputs, one above the other, with a bar as far as states are apart.

    Args:
        first, second: the tokens.
        distances: of the states after each step that both have, 0 to 1 or more.
        parted: the step at which they part, from 0.
    """
    count = len(distances)
    pairs = list(zip(first[:count], second[:count], strict=True))
    widths = [
        max(plot.width_of(visible(a)), plot.width_of(visible(b)), 16) + 12
        for a, b in pairs
    ]
    parts: list[str] = []
    x = 6.0
    highest = max([1e-9, *distances])
    for step, ((a, b), width) in enumerate(zip(pairs, widths, strict=True)):
        middle = x + width / 2
        centred = 'text-anchor="middle"'
        parts.append(plot.text(middle, 18, visible(a), centred))
        parts.append(plot.text(middle, 42, visible(b), centred))
        height = 44 * distances[step] / highest
        title = escaped(f"{step + 1}: {distances[step]:.3f}")
        parts.append(
            f'<rect class="s1" x="{x + 3:.1f}" y="{100 - height:.1f}" width="{width - 6:.1f}" '
            f'height="{height:.1f}" fill="currentColor" fill-opacity="0.6">'
            f"<title>{title}</title></rect>"
        )
        if step == parted:
            parts.append(
                f'<path d="M{x:.1f} 4V104" stroke="currentColor" stroke-width="2" '
                'stroke-dasharray="4 3"/>'
            )
        x += width
    called = t("inside.together").attribute("aria-label")
    return Markup(
        f'<svg class="chart wide" viewBox="0 0 {x + 6:.0f} 108" role="img" '
        f'style="width:{x + 6:.0f}px;min-width:{x + 6:.0f}px" {called}>{"".join(parts)}</svg>'
    )


def picture(caption: object, address: str, weights: Floats | None) -> Markup:
    """Return an image with a map (P, Q) over it: what tells more shows through more brightly.

    Where a number is negative the patch tells against what is explained, and is drawn in red.

    Args:
        caption: text or a phrase.
        address: of the image.
        weights: of its patches; None draws the image alone.
    """
    patches: list[Markup] = []
    if weights is not None:
        height, width = weights.shape
        most = float(np.abs(weights).max()) or 1.0
        for row in range(height):
            for column in range(width):
                weight = float(weights[row, column]) / most
                patches.append(_patch(row, column, height, width, weight))
    return Markup(
        '<figure><svg class="picture" viewBox="0 0 100 100" aria-hidden="true">'
        '<image href="{}" width="100" height="100" preserveAspectRatio="none"/>{}</svg>'
        '<figcaption dir="auto">{}</figcaption></figure>'
    ).format(address, Markup("").join(patches), escaped(caption))


def _patch(row: int, column: int, height: int, width: int, weight: float) -> Markup:
    """Return the veil over one patch: none where it tells most."""
    against = weight < -WEAK
    opacity = 0.45 * -weight if against else 0.7 * (1 - max(0.0, weight))
    return Markup(
        '<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" fill="{}" '
        'fill-opacity="{:.2f}"/>'
    ).format(
        100 * column / width,
        100 * row / height,
        100 / width,
        100 / height,
        "#b00020" if against else "#000",
        opacity,
    )
