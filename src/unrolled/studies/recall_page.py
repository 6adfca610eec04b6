"""The results of a recall study as tables and curves: for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unrolled.insight import charts, pages
from unrolled.insight.tables import TextTable
from unrolled.insight.words import Phrase, t

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Curves:
    """What was measured of every layer at growing lengths.

    Attributes:
        caption: what it is called.
        across, up: what its axes are called.
        log: which of them count in powers of ten.
        form: how a number of it is written.
        series: its points (length, number) by layer.
        chance: what who knows nothing reaches, where there is such a thing.
    """

    caption: Phrase
    across: Phrase
    up: Phrase
    log: str
    form: str
    series: dict[str, Points]
    chance: float | None = None

    def table(self) -> TextTable:
        """Return the numbers: a row a layer, a column a length."""
        lengths: list[str] = []
        rows: list[list[object]] = []
        for layer, points in self.series.items():
            lengths = [str(length) for length, _ in points]
            cells = [format(value, self.form) for _, value in points]
            rows.append([layer, *cells])
        if self.chance is not None:
            cells = [format(self.chance, self.form)] * len(lengths)
            rows.append([t("recall.chance"), *cells])
        head = [t("chart.step"), *lengths]
        return TextTable(head, rows, caption=self.caption)

    def figure(self) -> Markup:
        """Return the curves with their table, or that alone where nothing can be drawn."""
        drawn = {
            layer: points
            for layer, points in self.series.items()
            if "y" not in self.log or any(value > 0 for _, value in points)
        }
        if not any(drawn.values()):
            return Markup("")
        chart = charts.lines(
            drawn,
            self.across,
            self.up,
            log=self.log,
        )
        return charts.figure(self.caption, charts.Chart(chart.svg, self.table()))


def text_lines(table: TextTable) -> list[str]:
    """Return a table as lines of text in columns."""
    rows = [list(map(str, row)) for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [str(table.caption)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def accuracies(results: dict[str, Any], task: str) -> Curves:
    """Return the accuracy of a task by delay."""
    series: dict[str, Points] = {layer: [] for layer in results["layers"]}
    for row in results["rows"]:
        if row["task"] == task:
            layer = row["layer"]
            series[layer].append((row["delay"], row["accuracy"]))
    return Curves(
        caption=t("recall.task", task=task, what=t(f"recall.{task}")),
        across=t("recall.across"),
        up=t("recall.accuracy"),
        log="x",
        form=".3f",
        series=series,
        chance=results["chance"][task],
    )


# its unit as so many a second or a byte, and how it is written
COSTS = {
    "state_bytes": (1, ",.0f"),
    "step_seconds": (1e6, ",.0f"),
    "training_seconds": (1e3, ",.1f"),
}


def costs(results: dict[str, Any], cost: str) -> Curves:
    """Return a cost by length."""
    scale, form = COSTS[cost]
    series: dict[str, Points] = {layer: [] for layer in results["layers"]}
    for row in results["speed"]:
        layer = row["layer"]
        series[layer].append((row["length"], scale * row[cost]))
    name = t(f"recall.{cost}")
    return Curves(
        caption=name,
        across=t("recall.steps_read"),
        up=name,
        log="xy",
        form=form,
        series=series,
    )


def curves(results: dict[str, Any]) -> list[Curves]:
    """Return all that was measured: a task after another, then the costs."""
    learnt = [accuracies(results, task) for task in results["chance"]]
    return learnt + [costs(results, cost) for cost in COSTS]


def notes(results: dict[str, Any]) -> list[Phrase]:
    """Return sentences that say how the numbers were made."""
    sizes = [row["parameters"] for row in results["rows"]]
    ends = [row["stopped"] for row in results["rows"]]
    return [
        t("recall.sizes", low=f"{min(sizes):,}", high=f"{max(sizes):,}"),
        t("recall.curriculum"),
        t("recall.fresh", count=results["scored"]),
        t(
            "recall.ends",
            solved=ends.count("solved"),
            total=len(ends),
            time=ends.count("time"),
            updates=ends.count("updates"),
        ),
        t(
            "recall.setting",
            seed=results["seed"],
            threads=results["threads"],
            minutes=f"{results['seconds'] / 60:.1f}",
        ),
    ]


def page(results: dict[str, Any], language: str = "auto") -> str:
    """Return the page of a study."""
    tasks = [accuracies(results, task).figure() for task in results["chance"]]
    parts: list[tuple[Phrase, Sequence[Markup]]] = [(t("recall.learnt"), tasks)]
    if results["speed"]:
        spent = [costs(results, cost).figure() for cost in COSTS]
        parts.append((t("recall.costs"), spent))
    return pages.page(
        "recall.html",
        lang=language,
        notes=notes(results),
        parts=parts,
    )
