"""``compare.html``: one table, one chart, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from unrolled.core.files import write_json, write_text
from unrolled.insight import charts, pages
from unrolled.insight.intervals import DotRow, dots
from unrolled.insight.tables import TextTable
from unrolled.insight.words import Phrase, t
from unrolled.studies import phrases
from unrolled.studies.findings import Findings
from unrolled.studies.summary import Row, names_of, with_score

JSON_FILE = "compare.json"
PAGE_FILE = "compare.html"
LOG_RANGE = 20  # times the least that the largest is where a scale is logarithmic


def write(findings: Findings, folder: Path, lang: str = "auto") -> None:
    """Write page and JSON into a folder."""
    write_json(folder / JSON_FILE, findings.to_json())
    write_text(folder / PAGE_FILE, render(findings, lang))


def render(findings: Findings, lang: str = "auto") -> str:
    """Return the page of a comparison."""
    return pages.page(
        "compare.html",
        lang=lang,
        name=str(findings.made.get("name", "")),
        chips=_chips(findings),
        making=phrases.of_making(findings.made),
        sentences=findings.sentences(),
        table=_summary(findings),
        rows=_rows(findings),
        figure=_figure(findings),
        notes=[*findings.made.get("notes", [])],
    )


def _chips(findings: Findings) -> list[Phrase]:
    layers = {row["layer"] for row in findings.rows}
    seeds = {row["seed"] for row in findings.rows}
    return [
        t("compare.runs", count=len(findings.rows)),
        t("compare.layers", count=len(layers)),
        t("compare.seed_count", count=len(seeds)),
    ]


def _summary(findings: Findings) -> TextTable:
    keys = findings.varied
    head = [
        t("compare.layer"),
        *keys,
        findings.metric,
        t("compare.interval"),
        t("compare.sampling"),
        t("compare.parameters"),
        t("compare.seconds"),
        t("compare.memory"),
    ]
    rows = []
    for entry in findings.summary:
        score, interval, *rest = phrases.cells(entry)
        rows.append(
            [
                *phrases.names(entry, ["layer", *keys]),
                score,
                interval,
                phrases.interval(entry["sampling"]),
                *rest,
            ]
        )
    blank = [""] * len(keys)
    for baseline in findings.baselines:
        score = f"{baseline['score']:.4f}"
        empty = [""] * (len(head) - len(keys) - 2)
        rows.append([baseline["name"], *blank, score, *empty])
    return TextTable(head, rows, "numbers")


def _rows(findings: Findings) -> TextTable:
    head = [
        t("compare.layer"),
        *findings.varied,
        t("compare.seed"),
        findings.metric,
        t("compare.parameters"),
        t("compare.seconds"),
        t("compare.memory"),
    ]
    rows = []
    for row in findings.rows:
        score, _, *rest = phrases.cells({**row, "interval": None})
        rows.append(
            [
                *phrases.names(row, ["layer", *findings.varied, "seed"]),
                score,
                *rest,
            ]
        )
    return TextTable(head, rows, "numbers")


def _figure(findings: Findings) -> Markup:
    """Return the chart: curves over one varied number, else a row a layer."""
    scored = with_score(findings.summary)
    if len(findings.varied) == 1:
        (key,) = findings.varied
        if all(_is_number(entry[key]) for entry in scored):
            return _curves(findings, scored, key)
    return _dots(findings, scored)


def _curves(findings: Findings, scored: list[Row], key: str) -> Markup:
    """Return the means over a varied number, a curve a layer."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in scored:
        point = (float(entry[key]), entry["score"])
        curves.setdefault(entry["layer"], []).append(point)
    for points in curves.values():
        points.sort()
    values = [float(entry[key]) for entry in scored]
    least = min(values)
    chart = charts.lines(
        curves,
        key,
        findings.metric,
        log="x" if least > 0 and max(values) >= LOG_RANGE * least else "",
    )
    caption = t("compare.curves", metric=findings.metric, over=key)
    return charts.figure(caption, chart)


def _dots(findings: Findings, scored: list[Row]) -> Markup:
    """Return the scores of all seeds, a row a layer and varied values, the best first."""
    scores: dict[str, list[float]] = {}
    for entry in scored:
        scores[names_of(entry, findings.varied)] = []
    for run in with_score(findings.rows):
        scores[names_of(run, findings.varied)].append(run["score"])
    rows = [DotRow(name, values) for name, values in scores.items()]
    rows.sort(key=_mean, reverse=findings.higher)
    metric = findings.metric
    chart = dots(rows, metric, _near(rows, findings.baselines))
    return charts.figure(t("compare.dots", metric=metric), chart)


def _mean(row: DotRow) -> float:
    return row.mean


def _near(rows: list[DotRow], baselines: list[Row]) -> list[tuple[str, float]]:
    """Return the baselines that leave the dots apart: one far away would press them together."""
    low = min(min(row.values) for row in rows)
    high = max(max(row.values) for row in rows)
    room = (high - low) or abs(high)
    lines = [(baseline["name"], baseline["score"]) for baseline in baselines]
    return [
        (name, score) for name, score in lines if low - room <= score <= high + room
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
