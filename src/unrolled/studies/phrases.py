"""What the numbers of a comparison mean, in both languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from unrolled.insight.words import Phrase, t
from unrolled.studies.summary import Row, ScoreOrder
from unrolled.training.progress import duration

BETTER = " > "
SEPARATOR = Markup("; ")


def names(entry: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the cells that name a row."""
    return [str(entry[key]) for key in keys]


def interval(limits: Sequence[float] | None) -> str:
    """Return ``0.8412–0.8533``; nothing where there is no interval."""
    if limits is None:
        return ""
    low, high = limits
    return f"{low:.4f}–{high:.4f}" if low >= 0 else f"{low:.4f} – {high:.4f}"


def cells(entry: Row) -> list[str]:
    """Return score, interval, parameters, seconds and memory of a row of the summary."""
    if entry["score"] is None:
        return ["–", "", "", "", ""]
    memory = entry["memory"]
    return [
        f"{entry['score']:.4f}",
        interval(entry["interval"]),
        f"{entry['parameters']:,}",
        f"{entry['seconds']:.1f}",
        "" if memory is None else f"{memory:,.0f} MB",
    ]


def of_order(orders: Sequence[ScoreOrder], varied: Sequence[str]) -> list[Phrase]:
    """Say whether the order of the layers is the same for all seeds."""
    said = []
    for order in orders:
        where = ", ".join(f"{key}={order.varied[key]}" for key in varied)
        before = f"{where}: " if where else ""
        seeds = list(order.by_seed)
        lists = [BETTER.join(layers) for layers in order.by_seed.values()]
        if order.same is None:
            key = "compare.order_one"
        elif order.same:
            key = "compare.order_same"
        else:
            every = [
                t("compare.order_of_seed", seed=seed, order=names)
                for seed, names in zip(seeds, lists, strict=True)
            ]
            orders_of_all = Phrase(
                SEPARATOR.join(phrase.en for phrase in every),
                SEPARATOR.join(phrase.ko for phrase in every),
            )
            said.append(t("compare.order_differs", where=before, orders=orders_of_all))
            continue
        said.append(t(key, where=before, order=lists[0], count=len(seeds)))
    return said


def of_growth(
    estimates: Sequence[Row], varied: Sequence[str], metric: str
) -> list[Phrase]:
    """Say what the next thousand rows would bring, or why that cannot be said."""
    said = []
    for row in estimates:
        others = [f"{key}={row[key]}" for key in varied if key in row]
        values = {
            "name": ", ".join([row["layer"], *others]),
            "rows": f"{row['rows']:,}",
            "more": f"{row['more']:,}",
            "metric": metric,
        }
        if row["middle"] is None:
            said.append(t("compare.growth_unknown", reason=row["reason"], **values))
            continue
        key = "compare.growth" if row["is_clear"] else "compare.growth_unclear"
        limits = {name: f"{row[name]:+.4f}" for name in ("low", "middle", "high")}
        said.append(t(key, **values, **limits))
    return said


def of_failures(rows: Sequence[Row]) -> list[Phrase]:
    """Say which runs failed, and why."""
    return [
        t("compare.failed", name=row["run"], reason=row["error"])
        for row in rows
        if row.get("error")
    ]


def of_making(made: Mapping[str, Any]) -> list[Phrase]:
    """Say how the runs were made equal, and what a seed draws."""
    said = []
    seconds = made.get("seconds_each")
    if seconds:
        said.append(
            t(
                "compare.equal_time",
                budget=duration(made["budget"]),
                each=duration(seconds),
                beside=duration(made["overhead"]),
                count=made["at_once"],
            )
        )
    if made.get("params"):
        said.append(t("compare.equal_size", parameters=f"{made['params']:,}"))
    if made.get("seeds"):
        said.append(t("compare.seeds", count=made["seeds"]))
    return said
