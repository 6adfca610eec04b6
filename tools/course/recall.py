"""How far back each layer remembers, and what it costs: drawn from a study of `unrolled recall`.

A study in runs/recall is drawn where there is one, else the one of thirty minutes whose numbers are
kept under benchmarks/results.
"""

from __future__ import annotations

import json
import math
from typing import Any

from figures import COLOURS, SOFT, Picture, Plot

from runs import ROOT

OWN = ROOT / "runs" / "recall" / "recall.json"
KEPT = ROOT / "benchmarks" / "results" / "recall-2026-11-29.json"


def results() -> dict[str, Any]:
    """Return the numbers of a study."""
    path = OWN if OWN.exists() else KEPT
    return json.loads(path.read_text("utf-8"))


def recall() -> Picture:
    """Accuracy by delay, a panel a task."""
    study = results()
    sheet = Picture(
        720,
        600,
        "How far back does it remember?",
        "share of right answers by the steps between reading and answering; dashed: a blind guess",
    )
    _legend(sheet, study)
    for number, task in enumerate(study["chance"]):
        left = 70 + 345 * (number % 2)
        top = 120 + 240 * (number // 2)
        sheet.text(left, top - 10, task, size=13, weight=600)
        plot = Plot(
            sheet,
            (left, top, 265, 165),
            (*_ends(study), ""),
            (0, 1.02, ""),
        )
        _steps(sheet, plot, study, left, top + 165)
        chance = study["chance"][task]
        low, high = _ends(study)
        plot.line([(low, chance), (high, chance)], SOFT, 1.2, "4 4")
        for layer in study["layers"]:
            points = [
                (math.log10(row["delay"]), row["accuracy"])
                for row in study["rows"]
                if (row["layer"], row["task"]) == (layer, task)
            ]
            plot.line(points, COLOURS[layer], 2.2)
            plot.dots(points, COLOURS[layer], 2.8, 1.0)
    return sheet


PANELS = {
    "state_bytes": ("state, bytes", 1.0, (100, 1e6)),
    "step_seconds": ("one more step, µs", 1e6, (10, 3000)),
    "training_seconds": ("update of 8 sequences, ms", 1e3, (0.1, 5000)),
}


def parallel() -> Picture:
    """State, step and update by length."""
    study = results()
    sheet = Picture(
        720,
        340,
        "What memory costs, by length",
        "models of equal size on one thread of a processor; none has no state",
    )
    _legend(sheet, study)
    for number, (cost, (name, scale, ends)) in enumerate(PANELS.items()):
        left = 60 + 230 * number
        sheet.text(left, 112, name, size=12.5, weight=600)
        plot = Plot(
            sheet, (left, 122, 175, 165), (*_ends(study), ""), (*ends, ""), True
        )
        _steps(sheet, plot, study, left, 287)
        for layer in study["layers"]:
            points = [
                (math.log10(row["length"]), scale * row[cost])
                for row in study["speed"]
                if row["layer"] == layer and row[cost] > 0
            ]
            if points:
                plot.line(points, COLOURS[layer], 2.2)
                plot.dots(points, COLOURS[layer], 2.8, 1.0)
    return sheet


def _ends(study: dict[str, Any]) -> tuple[float, float]:
    delays = study["delays"]
    return math.log10(delays[0]), math.log10(delays[-1])


def _legend(sheet: Picture, study: dict[str, Any]) -> None:
    """Name the layers, side by side."""
    for number, layer in enumerate(study["layers"]):
        sheet.legend(24 + 105 * number, 82, {layer: COLOURS[layer]})


def _steps(
    sheet: Picture, plot: Plot, study: dict[str, Any], left: float, bottom: float
) -> None:
    """Name the lengths below a panel."""
    for delay in study["delays"]:
        x = plot.x(math.log10(delay))
        sheet.text(x, bottom + 17, f"{delay:,}", size=11, colour=SOFT, anchor="middle")
    sheet.text(left, bottom + 34, "steps", size=11, colour=SOFT)
