"""``report.html``: one file that opens offline from the run folder.

The words and the order of the page stand in ``templates/report.html`` and ``answers.html``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from unrolled.insight import charts, pages
from unrolled.insight.card import score_rows, size
from unrolled.insight.held_out import Importance
from unrolled.insight.mistakes import Mistake
from unrolled.insight.tables import TextTable
from unrolled.insight.utilization import rate
from unrolled.insight.words import Phrase, escaped, named, t
from unrolled.runs.keys import flat
from unrolled.scores import ConfusionCounts, by_class, calibration, counted
from unrolled.tasks.base import ClassPredictions, Evaluation, Task
from unrolled.tasks.recipe import Recipe
from unrolled.training.progress import duration, read_metrics

INSIDE = "inside.html"  # a look into some held-out rows, beside the report
# what is logged of a model that is aligned, by the names of the curves
ALIGNED = (
    "reward",
    "kl",
    "entropy",
    "length",
    "clipped",
    "informative",
    "preferred",
)
SERIES = 300  # values of a series that are drawn in their order
MATRIX = 40  # labels of the largest confusion matrix that is drawn
PAIRS = 30  # labels mistaken for another that are named where the matrix is not drawn


@dataclass(frozen=True)
class HeldOut:
    """What is shown of held-out rows: the worst answers, right ones, which columns mattered."""

    worst: Sequence[Mistake] = ()
    right: Sequence[Mistake] = ()
    importances: Sequence[Importance] = ()
    has_inside: bool = False


def render(
    folder: Path,
    recipe: Recipe,
    task: Task,
    result: dict[str, Any],
    evaluation: Evaluation,
    held_out: HeldOut = HeldOut(),
) -> str:
    """Return the page: scores, curves, answers, the worst of them, sizes, times, settings."""
    is_written = evaluation.written is not None
    worst = held_out.worst
    return pages.page(
        "report.html",
        name=recipe.name,
        task=task.name,
        pattern=named("pattern", task.pattern),
        layer=recipe.layer,
        cards=_cards(result, task, chosen_metric(recipe, task)),
        scored_on=scored_on(result, task),
        scores=_scores(result),
        bold=_bold,
        curves=_curves(folder, task, chosen_metric(recipe, task)),
        texts=worst if is_written else (),
        mistakes=None if is_written else _mistakes(task, result, worst),
        right=held_out.right,
        importances=_importances(task, held_out.importances),
        inside=INSIDE if held_out.has_inside else "",
        settings=_settings(recipe),
        result=result,
        **_answers(task, evaluation),
    )


def scored_on(result: dict[str, Any], task: Task) -> Phrase:
    """Say what the scores are of: ``held out, 300 rows``, or ``held out, 9 rows, 300 labels``."""
    part = t("report.held_out" if result["held_out"] else "report.training_data")
    unit = "report.rows" if task.answers_rows else "report.tokens"
    rows = result["scored_rows"]
    answers = result["scored_answers"]
    counted = t(unit, part=part, rows=f"{rows:,}")
    if answers == rows:
        return counted
    return t("report.with_labels", counted=counted, answers=f"{answers:,}")


def _scores(result: dict[str, Any]) -> TextTable:
    ours, *simple = score_rows(result)
    rows: list[Sequence[object]] = [[t("report.this_model"), *ours[1:]]]
    rows += simple
    return TextTable(["", *result["scores"]], rows, "scores")


def _bold(text: object) -> Markup:
    return Markup(f"<b>{escaped(text)}</b>")


def chosen_metric(recipe: Recipe, task: Task) -> str:
    """Return the score by which the best weights were chosen."""
    return recipe.training.metric or task.metric


def _cards(
    result: dict[str, Any], task: Task, metric: str
) -> list[tuple[str, str | Phrase]]:
    """Return what is read first: numbers, each with its unit."""
    is_in_rows = task.answers_rows and not task.schema.text
    speed = t("report.rows_a_second" if is_in_rows else "report.tokens_a_second")
    trained = result["tokens"] / max(1e-9, result["seconds"])
    steps = t("report.training", steps=f"{result['steps']:,}")
    cards: list[tuple[str, str | Phrase]] = [
        (f"{result['scores'][metric]:.4f}", metric),
        (f"{result['parameters']:,}", t("report.parameters")),
        (size(result["megabytes"]), t("report.on_disk")),
        (duration(result["seconds"]), steps),
        (f"{trained:,.0f}", speed),
    ]
    used = result.get("utilization")
    if used:
        peak = rate(result["peak_operations_a_second"])
        cards.append((f"{used:.1%}", t("report.utilization", peak=peak)))
    alone = result.get("milliseconds_an_answer")
    if alone:
        purpose = t("report.alone" if task.answers_rows else "report.a_token")
        cards.append((f"{alone:.3g} ms", purpose))
    in_batches = result.get("answers_a_second")
    if in_batches:
        cards.append((f"{in_batches:,.0f}", t("report.in_batches")))
    return cards


def _curves(folder: Path, task: Task, metric: str) -> list[Markup]:
    """Return a figure of everything that was logged while the model was trained."""
    logged = read_metrics(folder / "metrics.jsonl")
    train = [line for line in logged if line.get("kind") == "train"]
    dev = [line for line in logged if line.get("kind") == "dev"]

    def points(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in lines if key in line]

    losses: dict[Any, Any] = {
        t("report.curve_training"): points(train, "loss"),
        t("report.curve_scored"): points(dev, "loss"),
    }
    figures: list[tuple[Phrase, dict[Any, Any], str | Phrase]] = [
        (t("report.loss_curve", unit=task.loss_unit), losses, t("report.loss"))
    ]
    if metric != "loss":
        greedy = "_greedy" if task.is_generative else ""
        caption = t(f"report.metric_curve{greedy}", metric=metric)
        figures.append((caption, {metric: points(dev, metric)}, metric))
    for name in ALIGNED:
        curve = points(train, name)
        if curve:
            figures.append((t(f"report.logged_{name}"), {name: curve}, name))
    rate = t("report.rate")
    figures.append((rate, {rate: points(train, "learning_rate")}, rate))
    return [
        charts.figure(caption, charts.lines(series, t("chart.step"), up))
        for caption, series, up in figures
        if any(series.values())
    ]


def _answers(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the page shows of the scored answers, of labels or of values."""
    labels = None
    confidence = None
    scatter = None
    series = None
    if evaluation.confusion is not None:
        labels = _labels(evaluation.confusion, task.class_names)
        if evaluation.judged is not None:
            confidence = _confidence(evaluation.judged)
    elif evaluation.pairs is not None:
        points = [(float(truth), float(answer)) for truth, answer in evaluation.pairs]
        chart = charts.scatter(points, t("report.true_value"), t("report.answer"))
        scatter = charts.figure(t("report.scatter"), chart)
        if task.frames is not None:
            series = _series(points)
    return {
        "labels": labels,
        "confidence": confidence,
        "scatter": scatter,
        "series": series,
    }


def _series(points: Sequence[tuple[float, float]]) -> Markup:
    """Return true values and answers in the order of the file."""
    shown = list(enumerate(points[:SERIES], 1))
    curves: dict[Any, Any] = {
        t("report.true_value"): [(step, truth) for step, (truth, _) in shown],
        t("report.answer"): [(step, answer) for step, (_, answer) in shown],
    }
    chart = charts.lines(curves, t("chart.step"), t("report.answer"))
    return charts.figure(t("report.in_order"), chart)


def _importances(task: Task, importances: Sequence[Importance]) -> TextTable | None:
    """Return which columns mattered, the most first."""
    if not importances:
        return None
    rows = [[entry.column, f"{entry.change:+.4f}"] for entry in importances]
    head = [t("report.column"), t("report.worse", metric=task.metric)]
    return TextTable(head, rows)


def _labels(counts: ConfusionCounts, names: Sequence[str]) -> dict[str, Any]:
    """Return the confusion matrix, or the worst pairs of one too large to read, and all scores."""
    scores = by_class(counts)
    rows = []
    columns = (scores.precision, scores.recall, scores.f1)
    supports = scores.support.tolist()
    for name, support, *values in zip(names, supports, *columns, strict=True):
        shares = [_share(value) for value in values]
        rows.append([name, *shares, f"{support:,}"])
    head = [
        t("report.label"),
        t("report.precision"),
        t("report.recall"),
        "F1",
        t("report.support"),
    ]
    is_drawn = len(names) <= MATRIX
    return {
        "matrix": charts.matrix(np.asarray(counts), names) if is_drawn else None,
        "mistaken": None if is_drawn else _mistaken(counts, names),
        "scores": TextTable(head, rows),
    }


def _mistaken(counts: ConfusionCounts, names: Sequence[str]) -> TextTable:
    rows = []
    for true, answered, count in counted(counts).mistaken(PAIRS):
        pair = [names[true], names[answered]]
        rows.append([*pair, f"{count:,}"])
    caption = t("report.mistaken", count=len(names))
    head = [
        t("report.true"),
        t("report.answered"),
        t("report.times"),
    ]
    return TextTable(head, rows, "words", caption)


def _share(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.4f}"


def _confidence(predictions: ClassPredictions) -> dict[str, Any]:
    """Return how often the model is right when it is so sure, as a figure and one error."""
    is_right = predictions.truth == predictions.predicted
    bins = calibration(predictions.confidence, is_right)
    return {
        "error": f"{bins.error:.4f}",
        "figure": charts.figure(
            t("report.confidence_figure"), charts.reliability(bins)
        ),
    }


def _mistakes(
    task: Task, result: dict[str, Any], worst: Sequence[Mistake]
) -> dict[str, Any] | None:
    """Return the title of the worst answers, how they are ordered, and each with its size."""
    if not worst:
        return None
    rows = "held_out" if result["held_out"] else "rows"
    kind = "surest"
    key = "report.sure"
    number_format = "{:.4f}"
    if task.answers_values:
        kind = "largest"
        key = "report.off"
        number_format = "{:.4g}"
    sizes = [t(key, size=number_format.format(mistake.size)) for mistake in worst]
    return {
        "title": t(f"report.{kind}", count=len(worst), unit=task.scored_unit),
        "order": t(f"report.{kind}_{rows}"),
        "rows": list(zip(worst, sizes, strict=True)),
    }


def _settings(recipe: Recipe) -> TextTable:
    rows = [
        [key, str(value)]
        for key, value in flat(recipe.model_dump(mode="json")).items()
        if value is not None
    ]
    head = [t("report.key"), t("report.value")]
    return TextTable(head, rows, "settings")
