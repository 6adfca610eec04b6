"""``report.html``: one file that opens offline from the run folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.insight import charts
from unrolled.insight.card import scored_on, size
from unrolled.insight.charts import escaped
from unrolled.insight.mistakes import Mistake
from unrolled.runs.keys import flat
from unrolled.scores import ConfusionCounts, by_class, calibration, counted
from unrolled.tasks.base import ClassPredictions, Evaluation, Task
from unrolled.tasks.labelled import Classify
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.tag import Tag
from unrolled.training.progress import duration, read_metrics

MATRIX = 40  # labels of the largest confusion matrix that is drawn
STYLE = """
:root{color-scheme:light dark;--ink:#0f172a;--soft:#475569;--page:#f8fafc;--card:#fff;
--edge:#e2e8f0;--head:#f1f5f9;--mark:#fde68a}
@media(prefers-color-scheme:dark){:root{--ink:#e2e8f0;--soft:#a3b1c6;--page:#0b1120;
--card:#131c2e;--edge:#2a3850;--head:#1b2740;--mark:#854d0e}}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans KR","Noto Sans CJK KR",sans-serif;
color:var(--ink);background:var(--page);margin:0}
main{max-width:980px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:36px 0 10px}
.lead,.note{color:var(--soft);margin:0 0 20px}.note{margin:0 0 12px;max-width:70ch}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(210px,44%),1fr));gap:12px;margin-bottom:12px}
.card,figure,pre,.rows li{background:var(--card);border:1px solid var(--edge);border-radius:10px}
.card{padding:12px 16px}
.card b{display:block;font-size:20px;white-space:nowrap}.card span{color:var(--soft);font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px;
align-items:start}
figure{margin:0;max-width:620px;padding:10px}
figcaption{font-size:14px;color:var(--soft);padding:0 6px 4px}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--soft)}
svg .axis{font-size:12.5px}
table{border-collapse:collapse;background:var(--card);font-variant-numeric:tabular-nums}
caption{text-align:left;font-size:14px;color:var(--soft);padding:0 0 6px}
th,td{border:1px solid var(--edge);padding:5px 12px;text-align:right}
th:first-child,td:first-child{text-align:left}th{background:var(--head);font-weight:600}
tbody th{background:var(--card);font-weight:400}.scores tr:first-child>*{font-weight:600}
.matrix tbody th{background:var(--head);white-space:nowrap}
.settings{font-size:14px}.settings td{text-align:left;overflow-wrap:anywhere}
.settings th,.settings td{padding:3px 12px}
.scroll{overflow:auto;max-height:760px}.scroll th:first-child{position:sticky;left:0}
.scroll+.note{margin-top:12px}
pre{padding:14px;white-space:pre-wrap;word-break:break-word;margin:0 0 12px}
.rows{list-style:none;padding:0;margin:0;display:grid;gap:10px}.rows li{padding:10px 14px}
.rows p{margin:0}.rows p+p{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate}
.rows .note{font-size:14px}.rows b{color:var(--ink)}mark{background:var(--mark);color:inherit}
ul{padding-left:20px;margin:0;overflow-wrap:anywhere}summary{cursor:pointer;color:var(--soft)}
@media(max-width:600px){th,td{padding:4px 7px;font-size:14px}main{padding:20px 12px 48px}}
"""


def render(
    folder: Path,
    recipe: Recipe,
    task: Task,
    result: dict[str, Any],
    evaluation: Evaluation,
    worst: Sequence[Mistake] = (),
) -> str:
    """Return the page: scores, curves, answers, the worst of them, sizes, times, settings."""
    parts = [
        f"<h1>{escaped(recipe.name)}</h1>",
        f'<p class="lead">{escaped(task.name)} · {escaped(task.pattern)} · '
        f"layer {escaped(recipe.layer)}</p>",
        _cards(result, task),
        f"<h2>Scores: {scored_on(result)}</h2>",
        _scores(result),
        *(f'<p class="note">{escaped(note)}</p>' for note in result.get("notes", [])),
        "<h2>Learning curves</h2>",
        _curves(folder, task),
        *_answers(task, evaluation),
        *(_texts(result, worst) if evaluation.written else _worst(task, result, worst)),
        *_samples(result["samples"]),
        "<h2>Data</h2>",
        f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in result['found'])}</ul>",
        "<h2>Settings</h2>",
        _settings(recipe),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(recipe.name)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], css: str = "", caption: str = ""
) -> str:
    """Return a table of text; the first cell names the row."""
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escaped(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{escaped(first)}</th>{cells}</tr>'
    top = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    named = f"<caption>{escaped(caption)}</caption>" if caption else ""
    rows = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    table = f'<table class="{css}">{named}{rows}</table>'
    return _scroll(table, caption or " ".join(head))


def _scroll(table: str, name: str) -> str:
    """Return a table in a region that scrolls, also by the keyboard."""
    label = escaped(name.strip())
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{table}</div>'


def _cards(result: dict[str, Any], task: Task) -> str:
    trained = result["tokens"] / max(1e-9, result["seconds"])
    language = task.name == "language"
    shown = [
        (f"{result['scores'][task.metric]:.4f}", task.metric),
        (f"{result['parameters']:,}", "parameters"),
        (size(result["megabytes"]), "on disk"),
        (duration(result["seconds"]), f"training, {result['steps']:,} steps"),
        (
            f"{trained:,.0f}",
            f"{'tokens' if language or task.schema.text else 'rows'} a second in training",
        ),
    ]
    if result.get("milliseconds_an_answer"):
        what = "to write a token" if language else "to answer a row by itself"
        shown.append((f"{result['milliseconds_an_answer']:.3g} ms", what))
    if result.get("answers_a_second"):
        shown.append(
            (f"{result['answers_a_second']:,.0f}", "rows answered a second, in batches")
        )
    cells = "".join(
        f'<div class="card"><b>{b}</b><span>{s}</span></div>' for b, s in shown
    )
    how = f'<p class="note">Answers were timed on {escaped(result["timed"])}.</p>'
    return f'<div class="cards">{cells}</div>' + (how if result.get("timed") else "")


def _scores(result: dict[str, Any]) -> str:
    names = list(result["scores"])
    scored = [("this model", result["scores"])]
    scored += [(b["name"], b["scores"]) for b in result["baselines"]]
    rows = [
        [name, *(f"{scores[key]:.4f}" if key in scores else "" for key in names)]
        for name, scores in scored
    ]
    return _table(["", *names], rows, "scores")


def _curves(folder: Path, task: Task) -> str:
    metric = task.metric
    unit = "scaled squares" if task.name == "regress" else "nats"
    logged = read_metrics(folder / "metrics.jsonl")
    train = [line for line in logged if line.get("kind") == "train"]
    dev = [line for line in logged if line.get("kind") == "dev"]

    def points(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in lines if key in line]

    losses = {"training": points(train, "loss"), "scored": points(dev, "loss")}
    figures = [
        (f"loss in {unit}: training, and scored at each evaluation", losses, "loss")
    ]
    if metric != "loss":
        greedy = ", written without a search" if task.writes else ""
        caption = f"{metric} at each evaluation{greedy}"
        figures.append((caption, {metric: points(dev, metric)}, metric))
    figures.append(
        ("learning rate", {"rate": points(train, "learning_rate")}, "learning rate")
    )
    shown = [
        f"<figure><figcaption>{escaped(caption)}</figcaption>"
        f"{charts.lines(series, 'step', up)}</figure>"
        for caption, series, up in figures
        if any(series.values())
    ]
    return f'<div class="charts">{"".join(shown)}</div>'


def _answers(task: Task, evaluation: Evaluation) -> list[str]:
    if evaluation.confusion is not None and isinstance(task, Classify | Tag):
        names = task.output.names
        parts = ["<h2>Confusion matrix</h2>"]
        if len(names) <= MATRIX:
            table = charts.matrix(np.asarray(evaluation.confusion), names)
            parts.append(_scroll(table, "confusion matrix"))
        else:
            parts.append(_confused(evaluation.confusion, names))
        parts += ["<h2>Scores of each label</h2>", _labels(evaluation.confusion, names)]
        return parts + (
            _calibration(evaluation.judged) if evaluation.judged is not None else []
        )
    if evaluation.pairs is not None:
        points = [(float(truth), float(found)) for truth, found in evaluation.pairs]
        return [
            "<h2>Answers</h2>",
            f"<figure>{charts.scatter(points, 'true value', 'answer')}</figure>",
        ]
    return []


def _confused(counts: ConfusionCounts, names: Sequence[str]) -> str:
    """Return the pairs of labels that are mistaken most often, for a matrix too large to read."""
    rows = [
        [names[i], names[j], f"{count:,}"]
        for i, j, count in counted(counts).mistaken(30)
    ]
    caption = f"{len(names)} labels: the pairs that are mistaken most often"
    return _table(["true", "answered", "times"], rows, "words", caption)


def _labels(counts: ConfusionCounts, names: Sequence[str]) -> str:
    found = by_class(counts)
    rows = [
        [name, *map(_share, shares), f"{support:,}"]
        for name, *shares, support in zip(
            names,
            found.precision,
            found.recall,
            found.f1,
            found.support.tolist(),
            strict=True,
        )
    ]
    return _table(["label", "precision", "recall", "F1", "support"], rows)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _calibration(judged: ClassPredictions) -> list[str]:
    found = calibration(judged.confidence, judged.truth == judged.found)
    bins = len(found.counts)
    rows = [
        [
            f"{b / bins:g} to {(b + 1) / bins:g}",
            f"{count:,}",
            f"{sure:.3f}",
            f"{hits:.3f}",
        ]
        for b, (count, sure, hits) in enumerate(
            zip(found.counts.tolist(), found.confidence, found.accuracy, strict=True)
        )
        if count
    ]
    return [
        "<h2>Confidence</h2>",
        '<p class="note">How often the model is right when it is so sure. Bars below the dashed '
        "line: it is surer than it should be. Expected calibration error: "
        f"<b>{found.error:.4f}</b> (0 is perfect).</p>",
        f'<div class="charts"><figure>{charts.reliability(found)}</figure>',
        _table(["confidence", "answers", "mean confidence", "accuracy"], rows)
        + "</div>",
    ]


def _worst(task: Task, result: dict[str, Any], worst: Sequence[Mistake]) -> list[str]:
    """Return the list of the worst answers; what stands in the data may be wrong, not the model."""
    if not worst:
        return []
    values = task.name == "regress"
    words = "steps" if task.schema.frames else "words"
    what = words if task.name == "tag" else "rows"
    title = (
        f"Largest errors: {len(worst)} {what}"
        if values
        else f"Surest mistakes: {len(worst)} {what}"
    )
    where = "held-out rows" if result["held_out"] else "rows"
    told = (
        f"The {where} whose answers are furthest off."
        if values
        else f"Of the {where}, what the model gets most confidently wrong."
    )
    items = ""
    for each in worst:
        before, word, after = map(escaped, each.text)
        text = before + (f"<mark>{word}</mark>" if word else "") + after
        by = f"off by {each.size:.4g}" if values else f"confidence {each.size:.4f}"
        items += (
            f'<li><p class="note"><b>{escaped(Path(each.path).name)}:{each.line}</b> says '
            f"<b>{escaped(each.truth)}</b>, the model <b>{escaped(each.answer)}</b> "
            f'({by})</p><p dir="auto">{text or "(empty)"}</p></li>'
        )
    return [
        f"<h2>{title}</h2>",
        f'<p class="note">{told} Often these are mislabelled: check them first. '
        "(report.samples=false leaves them out of this page.)</p>",
        f'<ol class="rows">{items}</ol>',
    ]


def _texts(result: dict[str, Any], some: Sequence[Mistake]) -> list[str]:
    """Return texts that the model wrote, beside the right ones."""
    if not some:
        return []
    items = "".join(
        f'<li><p class="note"><b>{escaped(Path(each.path).name)}:{each.line}</b></p>'
        f'<p dir="auto">{escaped(each.text[0])}</p><p dir="auto" class="note">right: '
        f'{escaped(each.truth)}</p><p dir="auto"><b>{escaped(each.answer)}</b></p></li>'
        for each in some
    )
    return [
        f"<h2>What it writes: {len(some)} of {result['scored_rows']:,} rows</h2>",
        '<p class="note">Evenly spaced, whether right or wrong. (report.samples=false leaves them '
        "out of this page.)</p>",
        f'<ol class="rows">{items}</ol>',
    ]


def _samples(samples: list[str]) -> list[str]:
    if not samples:
        return []
    shown = "".join(f"<pre>{escaped(text)}</pre>" for text in samples)
    return ["<h2>Samples (temperature 0.8)</h2>", shown]


def _settings(recipe: Recipe) -> str:
    rows = [
        [key, str(value)]
        for key, value in flat(recipe.model_dump(mode="json")).items()
        if value is not None
    ]
    table = _table(["key", "value"], rows, "settings")
    return f"<details open><summary>config.yaml</summary>{table}</details>"
