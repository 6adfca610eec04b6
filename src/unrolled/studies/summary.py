"""What the runs of a comparison say together: means, intervals, and the order of the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unrolled.scores.intervals import CONFIDENCE, wilson
from unrolled.studies.growth import next_rows
from unrolled.studies.trials import LIMIT

# scores that are counts of right answers over all answers
SHARES = ("accuracy", "exact_match")
DIGITS = 4  # to which two scores are equal
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScoreOrder:
    """The layers from best to worst, with equal varied values.

    Attributes:
        varied: those values.
        by_seed: the order of each seed, layers of equal score joined by ``=``.
        same: whether all seeds have the same one; None with a single seed.
    """

    varied: dict[str, Any]
    by_seed: dict[str, list[str]]
    same: bool | None


def summarise(
    rows: Sequence[Row],
    varied: Sequence[str],
    metric: str,
) -> list[Row]:
    """Return a row of means for each layer and varied values.

    Args:
        rows: those of the runs, with a score or an error.
        varied: the keys that are varied.
        metric: what the score is.
    """
    keys = ("layer", *varied)
    summary = []
    for group in _groups(rows, keys):
        first = group[0]
        names = {key: first[key] for key in keys}
        means = _means(group, metric)
        summary.append({**names, **means})
    return summary


def _means(group: Sequence[Row], metric: str) -> Row:
    """Return means and intervals of the runs that differ by their seed alone."""
    scored = with_score(group)
    entry: Row = {
        "runs": len(scored),
        "failed": len(group) - len(scored),
        "score": None,
        "interval": None,
        "sampling": None,
        "parameters": None,
        "seconds": None,
        "memory": None,
    }
    if not scored:
        return entry
    scores = [row["score"] for row in scored]
    entry["score"] = mean(scores)
    entry["interval"] = t_interval(scores)
    if entry["interval"] and metric in SHARES:
        low, high = entry["interval"]
        entry["interval"] = [max(0.0, low), min(1.0, high)]
    if metric in SHARES and all(map(_is_drawn_apart, scored)):
        answers = min(row["scored_answers"] for row in scored)
        entry["sampling"] = wilson(entry["score"], answers)
    entry["parameters"] = scored[0]["parameters"]
    entry["seconds"] = mean([row["seconds"] for row in scored])
    measured = [row["memory"] for row in scored if row["memory"] is not None]
    entry["memory"] = max(measured, default=None)
    return entry


def with_score(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of runs that did not fail."""
    return [row for row in rows if row["score"] is not None]


def mean(values: Sequence[float]) -> float:
    """Return the mean of values."""
    return math.fsum(values) / len(values)


def _is_drawn_apart(row: Row) -> bool:
    """Whether answers are of rows by themselves: the words of a sentence depend on each other."""
    return bool(row["scored_answers"] == row["scored_rows"])


def t_interval(scores: Sequence[float]) -> list[float] | None:
    """Return the 95% interval of a mean by Student's t; None of fewer than two scores."""
    count = len(scores)
    if count < 2:
        return None
    from scipy.stats import t

    middle = mean(scores)
    squares = math.fsum((score - middle) ** 2 for score in scores)
    error = math.sqrt(squares / (count - 1) / count)
    quantile = t.ppf((1 + CONFIDENCE) / 2, count - 1)
    half = float(quantile) * error
    return [middle - half, middle + half]


def orders(
    rows: Sequence[Row],
    varied: Sequence[str],
    higher: bool,
) -> list[ScoreOrder]:
    """Return the order of the layers for each combination of varied values."""
    result = []
    for group in _groups(rows, varied):
        scored = with_score(group)
        layers = {row["layer"] for row in scored}
        if len(layers) < 2:
            continue
        by_seed = {}
        for seed in dict.fromkeys(row["seed"] for row in scored):
            # an order without some of the layers says nothing of theirs
            if {row["layer"] for row in scored if row["seed"] == seed} == layers:
                by_seed[str(seed)] = _order(scored, seed, higher)
        if not by_seed:
            continue
        different = {tuple(order) for order in by_seed.values()}
        same = None
        if len(by_seed) > 1:
            same = len(different) == 1
        values = {key: group[0][key] for key in varied}
        result.append(ScoreOrder(values, by_seed, same))
    return result


def _order(rows: Sequence[Row], seed: int, higher: bool) -> list[str]:
    """Return the layers of a seed from best to worst."""
    layers: dict[float, list[str]] = {}
    for row in rows:
        if row["seed"] == seed:
            score = round(row["score"], DIGITS)
            layers.setdefault(score, []).append(row["layer"])
    ranked = sorted(layers, reverse=higher)
    return ["=".join(layers[score]) for score in ranked]


def growths(
    rows: Sequence[Row],
    varied: Sequence[str],
    higher: bool,
) -> list[Row]:
    """Return what more rows would bring, by the layer and the other varied values."""
    if LIMIT not in varied:
        return []
    others = [key for key in varied if key != LIMIT]
    keys = ["layer", *others]
    result = []
    for group in _groups(rows, keys):
        scored = with_score(group)
        if not scored:
            continue
        sizes = [row[LIMIT] for row in scored]
        scores = [row["score"] for row in scored]
        estimate = next_rows(sizes, scores, higher)
        names = {key: group[0][key] for key in keys}
        result.append(
            {
                **names,
                **asdict(estimate),
                "is_clear": estimate.is_clear,
            }
        )
    return result


def _groups(rows: Sequence[Row], keys: Sequence[str]) -> list[list[Row]]:
    """Return the rows of equal values together, in the order in which each came first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        values = [row[key] for key in keys]
        groups.setdefault(repr(values), []).append(row)
    return list(groups.values())


def names_of(entry: Mapping[str, Any], varied: Sequence[str]) -> str:
    """Return what a row of the summary is called: ``lstm, data.limit=100``."""
    values = [f"{key}={entry[key]}" for key in varied]
    return ", ".join([entry["layer"], *values])
