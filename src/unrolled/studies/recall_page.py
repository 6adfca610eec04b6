"""The results of a recall study as tables and curves: for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unrolled.insight import charts, pages

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


def accuracy_table(results: dict[str, Any], task: str) -> ResultTable:
    """Return the accuracy of a task: a row a layer, a column a delay, and chance below."""
    delays = results["delays"]
    shares = _by(results["rows"], task)
    rows = []
    for layer in results["layers"]:
        cells = [f"{shares[layer, delay]:.3f}" for delay in delays]
        rows.append([layer, *cells])
    rows.append(["chance", *[f"{results['chance'][task]:.3f}"] * len(delays)])
    return ResultTable(
        f"{task}: {results['tasks'][task]}", ["delay", *map(str, delays)], rows
    )


def _by(rows: Sequence[dict[str, Any]], task: str) -> dict[tuple[str, int], float]:
    return {
        (row["layer"], row["delay"]): row["accuracy"]
        for row in rows
        if row["task"] == task
    }


COSTS = {
    "state_bytes": ("size of the state after so many steps, bytes", 1.0, ",.0f"),
    "step_seconds": ("time of one more step, microseconds", 1e6, ",.0f"),
    "training_seconds": ("time of an update of 8 sequences, milliseconds", 1e3, ",.1f"),
}


def cost_table(results: dict[str, Any], cost: str) -> ResultTable:
    """Return a cost by length: a row a layer."""
    caption, unit, form = COSTS[cost]
    by = {(row["layer"], row["length"]): row[cost] for row in results["speed"]}
    lengths = results["delays"]
    rows = []
    for layer in results["layers"]:
        cells = [format(unit * by[layer, length], form) for length in lengths]
        rows.append([layer, *cells])
    return ResultTable(caption, ["steps", *map(str, lengths)], rows)


def tables(results: dict[str, Any]) -> list[ResultTable]:
    """Return all tables of a study."""
    accuracies = [accuracy_table(results, task) for task in results["chance"]]
    return accuracies + [cost_table(results, cost) for cost in COSTS]


def accuracy_chart(results: dict[str, Any], task: str) -> Markup:
    """Return the accuracy of each layer by delay, above chance."""
    shares = _by(results["rows"], task)
    delays = results["delays"]
    series: dict[str, list[tuple[float, float]]] = {}
    for layer in results["layers"]:
        series[layer] = [(delay, shares[layer, delay]) for delay in delays]
    across = "steps between reading and answering"
    return charts.lines(series, across, f"accuracy, {task}", "x")


def cost_chart(results: dict[str, Any], cost: str) -> Markup:
    """Return a cost of each layer by length; a state of no bytes has no curve."""
    caption, unit, _ = COSTS[cost]
    series: dict[str, list[tuple[float, float]]] = {
        layer: [] for layer in results["layers"]
    }
    for row in results["speed"]:
        series[row["layer"]].append((row["length"], unit * row[cost]))
    name, _, unit_name = caption.rpartition(", ")
    return charts.lines(
        series, "steps read", f"{unit_name} ({name.split(' of')[0]})", "xy"
    )


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
        f"{ends.count('solved')} of {len(ends)} trainings solved their task, "
        f"{ends.count('time')} were ended by the time; those would go on learning with more.",
        f"seed {results['seed']}, threads: {results['threads']}, {results['seconds'] / 60:.1f} "
        "minutes in all.",
    ]


def page(results: dict[str, Any]) -> str:
    """Return the page of a study."""
    figures = []
    for task in results["chance"]:
        chart = accuracy_chart(results, task)
        figures.append((chart, accuracy_table(results, task)))
    for cost in COSTS:
        figures.append((_chart_or_none(results, cost), cost_table(results, cost)))
    return pages.render(
        "recall.html", title=TITLE, notes=notes(results), figures=figures
    )


def _chart_or_none(results: dict[str, Any], cost: str) -> Markup:
    if not any(row[cost] for row in results["speed"]):
        return Markup("")
    return cost_chart(results, cost)
