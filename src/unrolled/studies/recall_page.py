"""The results of a recall study as tables and curves: for a terminal and for a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unrolled.insight import charts, pages

Points = list[tuple[int, float]]
TITLE = "How far back does it remember?"


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table: a caption, the names of its columns, and rows whose first cell names them."""

    caption: str
    head: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """Return the table as lines of text in columns."""
        table = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [self.caption]
        for first, *rest in table:
            cells = [first.ljust(widths[0])]
            cells += [
                cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        return lines


@dataclass(frozen=True, slots=True)
class Curves:
    """What was measured of every layer at growing lengths.

    Attributes:
        caption: what a table of it is called.
        across, up: what its axes are called.
        log: which of them count in powers of ten.
        form: how a number of it is written.
        series: its points (length, number) by layer.
        chance: what who knows nothing reaches, where there is such a thing.
    """

    caption: str
    across: str
    up: str
    log: str
    form: str
    series: dict[str, Points]
    chance: float | None = None

    def table(self) -> ResultTable:
        """Return the numbers: a row a layer, a column a length."""
        lengths: list[str] = []
        rows: list[list[str]] = []
        for layer, points in self.series.items():
            lengths = [str(length) for length, _ in points]
            cells = [format(value, self.form) for _, value in points]
            rows.append([layer, *cells])
        if self.chance is not None:
            cells = [format(self.chance, self.form)] * len(lengths)
            rows.append(["chance", *cells])
        return ResultTable(self.caption, ["steps", *lengths], rows)

    def chart(self) -> Markup:
        """Return the curves; nothing where a logarithmic axis has no number above 0."""
        series = dict(self.series)
        if "y" in self.log and not any(map(_has_number, series.values())):
            return Markup("")
        return charts.lines(series, self.across, self.up, self.log)


def _has_number(points: Points) -> bool:
    return any(value > 0 for _, value in points)


def accuracies(results: dict[str, Any], task: str) -> Curves:
    """Return the accuracy of a task by delay."""
    series: dict[str, Points] = {layer: [] for layer in results["layers"]}
    for row in results["rows"]:
        if row["task"] == task:
            layer = row["layer"]
            series[layer].append((row["delay"], row["accuracy"]))
    return Curves(
        caption=f"{task}: {results['tasks'][task]}",
        across="steps between reading and answering",
        up=f"accuracy, {task}",
        log="x",
        form=".3f",
        series=series,
        chance=results["chance"][task],
    )


# what it is, its unit, how many of these a second or a byte is, and how it is written
COSTS = {
    "state_bytes": ("state after so many steps", "bytes", 1, ",.0f"),
    "step_seconds": ("one more step", "microseconds", 1e6, ",.0f"),
    "training_seconds": ("update of 8 sequences", "milliseconds", 1e3, ",.1f"),
}


def costs(results: dict[str, Any], cost: str) -> Curves:
    """Return a cost by length."""
    what, unit, scale, form = COSTS[cost]
    series: dict[str, Points] = {layer: [] for layer in results["layers"]}
    for row in results["speed"]:
        layer = row["layer"]
        series[layer].append((row["length"], scale * row[cost]))
    return Curves(
        caption=f"{what}, {unit}",
        across="steps read",
        up=f"{unit}, {what}",
        log="xy",
        form=form,
        series=series,
    )


def curves(results: dict[str, Any]) -> list[Curves]:
    """Return all that was measured: a task after another, then the costs."""
    learnt = [accuracies(results, task) for task in results["chance"]]
    return learnt + [costs(results, cost) for cost in COSTS]


def notes(results: dict[str, Any]) -> list[str]:
    """Return sentences that say how the numbers were made."""
    sizes = [row["parameters"] for row in results["rows"]]
    ends = [row["stopped"] for row in results["rows"]]
    return [
        f"Every model has at most as many weights as the others, {min(sizes):,} to "
        f"{max(sizes):,}: the width of its layer is the largest multiple of 4 that allows it.",
        "A training begins with the weights that learnt the delay before it (a curriculum: Bengio "
        "et al. 2009) and ends when the task is solved or its share of the time is used up.",
        f"Accuracy is that on {results['scored']} fresh sequences, which no training saw.",
        f"{ends.count('solved')} of {len(ends)} trainings solved their task; "
        f"{ends.count('time')} were ended by the time and {ends.count('updates')} by the number of "
        "updates.",
        f"seed {results['seed']}, threads: {results['threads']}, {results['seconds'] / 60:.1f} "
        "minutes in all.",
    ]


def page(results: dict[str, Any]) -> str:
    """Return the page of a study."""
    figures = [(measured.chart(), measured.table()) for measured in curves(results)]
    return pages.render(
        "recall.html", title=TITLE, notes=notes(results), figures=figures
    )
