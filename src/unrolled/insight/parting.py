"""Where the states of two inputs part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from unrolled.insight import charts
from unrolled.insight.drawings import side_by_side
from unrolled.insight.inside_panels import ALIGNED, CURVES, SMALLEST, Points, curve
from unrolled.insight.trace import Floats, LayerTrace, Trace
from unrolled.insight.words import Phrase, t

PARTED = 0.1  # of the length of a state: from here on two states have parted


@dataclass(frozen=True)
class Parting:
    """What the page says of two inputs."""

    sentence: Phrase
    drawing: Markup | None
    chart: Markup


def parting_of(traces: Sequence[Trace]) -> Parting | None:
    """Return where the states of the first two inputs part; None where there are not two."""
    if len(traces) < 2:
        return None
    pairs = _pairs(traces[0], traces[1])
    if not pairs:
        return None
    series: dict[Any, Points] = {}
    for a, b in pairs[:CURVES]:
        relative = distances(a, b)
        steps = range(1, len(relative) + 1)
        series[a.name] = curve(steps, relative)
    furthest = np.max([distances(a, b) for a, b in pairs], axis=0)
    beyond = np.flatnonzero(furthest > PARTED)
    parted = int(beyond[0]) if len(beyond) else None
    first = traces[0].tokens
    second = traces[1].tokens
    sentence = t("inside.never_part")
    if parted is not None:
        sentence = t(
            "inside.part",
            step=parted + 1,
            first=first[parted],
            second=second[parted],
        )
    drawing = None
    if len(furthest) <= ALIGNED:
        drawing = side_by_side(first, second, furthest.tolist(), parted)
    chart = charts.lines(series, t("inside.step"), t("inside.distance"))
    figure = charts.figure(t("inside.distance_of"), chart)
    return Parting(sentence, drawing, figure)


def _pairs(first: Trace, second: Trace) -> list[tuple[LayerTrace, LayerTrace]]:
    """Return the layers of both traces that read the input forward, and show the same units."""
    pairs: list[tuple[LayerTrace, LayerTrace]] = []
    for a, b in zip(first.layers, second.layers, strict=False):
        is_forward = a.direction == "forward" and a.over == "input"
        if is_forward and a.units == b.units:
            pairs.append((a, b))
    return pairs


def distances(a: LayerTrace, b: LayerTrace) -> Floats:
    """Return how far two states are apart after each step, as a share of the longer's length."""
    count = min(len(a.norm), len(b.norm))
    between = a.state["h"][:count] - b.state["h"][:count]
    # of the units that are shown, as the distance is
    first = np.linalg.norm(a.state["h"][:count], axis=1)
    second = np.linalg.norm(b.state["h"][:count], axis=1)
    lengths = np.maximum(first, second)
    relative = np.linalg.norm(between, axis=1) / np.maximum(lengths, SMALLEST)
    result: Floats = relative.astype(np.float32)
    return result
