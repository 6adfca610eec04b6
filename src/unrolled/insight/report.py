"""``report.html``: one file that opens offline from the run folder."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from unrolled.insight import charts
from unrolled.insight.card import scored_on
from unrolled.tasks.base import Evaluation, Task
from unrolled.tasks.labelled import Labelled
from unrolled.tasks.recipe import Recipe, flat
from unrolled.tasks.tag import Tag
from unrolled.training.progress import duration, read_metrics

STYLE = """
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans KR","Noto Sans CJK KR",sans-serif;
color:#0f172a;background:#f8fafc;margin:0}
main{max-width:980px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 10px}
.lead{color:#475569;margin:0 0 20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.card{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:12px 16px}
.card b{display:block;font-size:20px;white-space:nowrap}.card span{color:#64748b;font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
figure{margin:0;max-width:620px;background:#fff;border:1px solid #e2e8f0;border-radius:10px;
padding:10px}
figcaption{font-size:14px;color:#475569;padding:0 6px 4px}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:#475569}
svg .axis{font-size:12.5px}
table{border-collapse:collapse;background:#fff;font-variant-numeric:tabular-nums}
th,td{border:1px solid #e2e8f0;padding:5px 12px;text-align:right}
th:first-child,td:first-child{text-align:left}th{background:#f1f5f9;font-weight:600}
tr.ours td{font-weight:600}
table.matrix th:first-child{white-space:nowrap}
table.settings{font-size:14px}table.settings td{text-align:left;padding:3px 12px;
overflow-wrap:anywhere}
.scroll{overflow-x:auto}
pre{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:14px;
white-space:pre-wrap;word-break:break-word;margin:0 0 12px}
ul{padding-left:20px;margin:0}details{margin-top:8px}summary{cursor:pointer;color:#475569}
"""


def render(
    folder: Path, recipe: Recipe, task: Task, result: dict[str, Any], evaluation: Evaluation
) -> str:
    """Return the page: scores, curves, confusion matrix or samples, sizes, time, settings."""
    parts = [
        f"<h1>{html.escape(recipe.name)}</h1>",
        f'<p class="lead">{html.escape(task.name)} · {html.escape(task.pattern)} · '
        f"layer {html.escape(recipe.layer)}</p>",
        _cards(result, task),
        f"<h2>Scores: {scored_on(result)}</h2>",
        _scores(result),
        "<h2>Learning curves</h2>",
        _curves(folder, task),
        *_answers(task, evaluation),
        *_samples(result["samples"]),
        "<h2>Data</h2>",
        f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in result['found'])}</ul>",
        "<h2>Settings</h2>",
        _settings(recipe),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(recipe.name)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _cards(result: dict[str, Any], task: Task) -> str:
    speed = result["tokens"] / max(1e-9, result["seconds"])
    language = task.name == "language"
    shown = [
        (f"{result['scores'][task.metric]:.4f}", task.metric),
        (f"{result['parameters']:,}", "parameters"),
        (_size(result["megabytes"]), "on disk"),
        (duration(result["seconds"]), f"training, {result['steps']:,} steps"),
        (f"{speed:,.0f}", "tokens a second" if language or task.schema.text else "rows a second"),
        (
            f"{result['milliseconds_an_answer']:.3g} ms",
            "to write a token" if language else "to answer a row by itself",
        ),
    ]
    cells = "".join(f'<div class="card"><b>{b}</b><span>{s}</span></div>' for b, s in shown)
    return f'<div class="cards">{cells}</div>'


def _scores(result: dict[str, Any]) -> str:
    names = list(result["scores"])
    rows = [("this model", result["scores"])] + [
        (b["name"], b["scores"]) for b in result["baselines"]
    ]
    body = ""
    for number, (name, scores) in enumerate(rows):
        cells = "".join(f"<td>{scores[k]:.4f}</td>" if k in scores else "<td></td>" for k in names)
        body += f"<tr{'' if number else ' class=ours'}><td>{html.escape(name)}</td>{cells}</tr>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _size(megabytes: float) -> str:
    return f"{megabytes:.1f} MB" if megabytes >= 1 else f"{1000 * megabytes:.0f} kB"


def _curves(folder: Path, task: Task) -> str:
    metric, unit = task.metric, "scaled squares" if task.name == "regress" else "nats"
    logged = read_metrics(folder / "metrics.jsonl")
    train = [line for line in logged if line.get("kind") == "train"]
    dev = [line for line in logged if line.get("kind") == "dev"]

    def points(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in lines if key in line]

    losses = {"training": points(train, "loss"), "scored": points(dev, "loss")}
    figures = [(f"loss in {unit}: training, and scored at each evaluation", losses, "loss")]
    if metric != "loss":
        figures.append((f"{metric} at each evaluation", {metric: points(dev, metric)}, metric))
    figures.append(("learning rate", {"rate": points(train, "learning_rate")}, "learning rate"))
    shown = [
        f"<figure><figcaption>{html.escape(caption)}</figcaption>"
        f"{charts.lines(series, 'step', up)}</figure>"
        for caption, series, up in figures
        if any(series.values())
    ]
    return f'<div class="charts">{"".join(shown)}</div>'


def _answers(task: Task, evaluation: Evaluation) -> list[str]:
    if evaluation.confusion is not None and isinstance(task, Labelled | Tag):
        names = getattr(task.output, "names", ())
        table = charts.matrix(evaluation.confusion, names)
        return ["<h2>Confusion matrix</h2>", f'<div class="scroll">{table}</div>']
    if evaluation.pairs is not None:
        points = [(float(truth), float(found)) for truth, found in evaluation.pairs]
        return [
            "<h2>Answers</h2>",
            f"<figure>{charts.scatter(points, 'true value', 'answer')}</figure>",
        ]
    return []


def _samples(samples: list[str]) -> list[str]:
    if not samples:
        return []
    shown = "".join(f"<pre>{html.escape(text)}</pre>" for text in samples)
    return ["<h2>Samples (temperature 0.8)</h2>", shown]


def _settings(recipe: Recipe) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in flat(recipe.model_dump(mode="json")).items()
        if value is not None
    )
    table = f'<table class="settings">{rows}</table>'
    return f"<details open><summary>config.yaml</summary>{table}</details>"
