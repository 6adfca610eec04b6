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
from unrolled.insight.card import score_rows, scored_on, size
from unrolled.insight.mistakes import Mistake
from unrolled.runs.keys import flat
from unrolled.scores import ConfusionCounts, by_class, calibration, counted
from unrolled.tasks.base import ClassPredictions, Evaluation, Task
from unrolled.tasks.recipe import Recipe
from unrolled.training.progress import duration, read_metrics

MATRIX = 40  # labels of the largest confusion matrix that is drawn
PAIRS = 30  # labels mistaken for another that are named where the matrix is not drawn


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text, for the template's ``table``; the first cell of a row names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    css: str = ""
    caption: str = ""

    @property
    def label(self) -> str:
        """What the table is called where it is not seen."""
        return (self.caption or " ".join(self.head)).strip()


def render(
    folder: Path,
    recipe: Recipe,
    task: Task,
    result: dict[str, Any],
    evaluation: Evaluation,
    worst: Sequence[Mistake] = (),
) -> str:
    """Return the page: scores, curves, answers, the worst of them, sizes, times, settings."""
    is_written = evaluation.written is not None
    return pages.render(
        "report.html",
        name=recipe.name,
        task=task.name,
        pattern=task.pattern,
        layer=recipe.layer,
        cards=_cards(result, task),
        scored_on=scored_on(result, task),
        scores=TextTable(["", *result["scores"]], score_rows(result), "scores"),
        curves=_curves(folder, task),
        texts=worst if is_written else (),
        mistakes=None if is_written else _mistakes(task, result, worst),
        settings=_settings(recipe),
        result=result,
        **_answers(task, evaluation),
    )


def _cards(result: dict[str, Any], task: Task) -> list[tuple[str, str]]:
    """Return what is read first: numbers, each with its unit."""
    unit = "rows" if task.answers_rows and not task.schema.text else "tokens"
    trained = result["tokens"] / max(1e-9, result["seconds"])
    cards = [
        (f"{result['scores'][task.metric]:.4f}", task.metric),
        (f"{result['parameters']:,}", "parameters"),
        (size(result["megabytes"]), "on disk"),
        (duration(result["seconds"]), f"training, {result['steps']:,} steps"),
        (f"{trained:,.0f}", f"{unit} a second in training"),
    ]
    alone = result.get("milliseconds_an_answer")
    if alone:
        answered = "to answer a row by itself"
        purpose = answered if task.answers_rows else "to write a token"
        cards.append((f"{alone:.3g} ms", purpose))
    in_batches = result.get("answers_a_second")
    if in_batches:
        cards.append((f"{in_batches:,.0f}", "rows answered a second, in batches"))
    return cards


def _curves(folder: Path, task: Task) -> list[tuple[str, Markup]]:
    """Return captions and charts of what was logged while the model was trained."""
    metric = task.metric
    unit = task.loss_unit
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
        greedy = ", written without a search" if task.is_generative else ""
        caption = f"{metric} at each evaluation{greedy}"
        figures.append((caption, {metric: points(dev, metric)}, metric))
    figures.append(
        ("learning rate", {"rate": points(train, "learning_rate")}, "learning rate")
    )
    return [
        (caption, charts.lines(series, "step", up))
        for caption, series, up in figures
        if any(series.values())
    ]


def _answers(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the page shows of the scored answers, of labels or of values."""
    labels = None
    confidence = None
    scatter = None
    if evaluation.confusion is not None:
        labels = _labels(evaluation.confusion, task.class_names)
        if evaluation.judged is not None:
            confidence = _confidence(evaluation.judged)
    elif evaluation.pairs is not None:
        points = [(float(truth), float(answer)) for truth, answer in evaluation.pairs]
        scatter = charts.scatter(points, "true value", "answer")
    return {"labels": labels, "confidence": confidence, "scatter": scatter}


def _labels(counts: ConfusionCounts, names: Sequence[str]) -> dict[str, Any]:
    """Return the confusion matrix, or the worst pairs of one too large to read, and all scores."""
    scores = by_class(counts)
    rows = []
    for name, precision, recall, f1, support in zip(
        names,
        scores.precision,
        scores.recall,
        scores.f1,
        scores.support.tolist(),
        strict=True,
    ):
        shares = [_share(score) for score in (precision, recall, f1)]
        rows.append([name, *shares, f"{support:,}"])
    is_drawn = len(names) <= MATRIX
    return {
        "matrix": charts.matrix(np.asarray(counts), names) if is_drawn else None,
        "mistaken": None if is_drawn else _mistaken(counts, names),
        "scores": TextTable(["label", "precision", "recall", "F1", "support"], rows),
    }


def _mistaken(counts: ConfusionCounts, names: Sequence[str]) -> TextTable:
    rows = [
        [names[true], names[answered], f"{count:,}"]
        for true, answered, count in counted(counts).mistaken(PAIRS)
    ]
    caption = f"{len(names)} labels: the pairs that are mistaken most often"
    return TextTable(["true", "answered", "times"], rows, "words", caption)


def _share(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.4f}"


def _confidence(predictions: ClassPredictions) -> dict[str, Any]:
    """Return how often the model is right when it is so sure, as chart, table and one error."""
    is_right = predictions.truth == predictions.predicted
    bins = calibration(predictions.confidence, is_right)
    total = len(bins.counts)
    rows = []
    for number, (count, confidence, accuracy) in enumerate(
        zip(bins.counts.tolist(), bins.confidence, bins.accuracy, strict=True)
    ):
        if count:
            limits = f"{number / total:g} to {(number + 1) / total:g}"
            rows.append([limits, f"{count:,}", f"{confidence:.3f}", f"{accuracy:.3f}"])
    head = ["confidence", "answers", "mean confidence", "accuracy"]
    return {
        "error": f"{bins.error:.4f}",
        "chart": charts.reliability(bins),
        "bins": TextTable(head, rows),
    }


def _mistakes(
    task: Task, result: dict[str, Any], worst: Sequence[Mistake]
) -> dict[str, Any] | None:
    """Return the title of the worst answers, how they are ordered, and each with its size."""
    if not worst:
        return None
    rows = "held-out rows" if result["held_out"] else "rows"
    if task.answers_values:
        title = "Largest errors"
        order = f"The {rows} whose answers are furthest off."
        size_format = "off by {:.4g}"
    else:
        title = "Surest mistakes"
        order = f"Of the {rows}, what the model gets most confidently wrong."
        size_format = "confidence {:.4f}"
    return {
        "title": f"{title}: {len(worst)} {task.scored_unit}",
        "order": order,
        "rows": [(mistake, size_format.format(mistake.size)) for mistake in worst],
    }


def _settings(recipe: Recipe) -> TextTable:
    rows = [
        [key, str(value)]
        for key, value in flat(recipe.model_dump(mode="json")).items()
        if value is not None
    ]
    return TextTable(["key", "value"], rows, "settings")
