"""The model card: ``README.md`` of a run folder."""

from __future__ import annotations

from typing import Any

from unrolled.insight import pages
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import Recipe
from unrolled.training.progress import duration


def scored_on(result: dict[str, Any], task: Task) -> str:
    """Say what the scores are of: ``held out, 300 rows``, or ``held out, 9 rows, 300 labels``."""
    part = "held out" if result["held_out"] else "the training data itself"
    unit = "rows" if task.answers_rows else "tokens"
    rows = result["scored_rows"]
    answers = result["scored_answers"]
    counted = f"{part}, {rows:,} {unit}"
    return counted if answers == rows else f"{counted}, {answers:,} labels"


def size(megabytes: float) -> str:
    """Return 0.25 as ``250 kB``."""
    return f"{megabytes:.1f} MB" if megabytes >= 1 else f"{1000 * megabytes:.0f} kB"


def speed(result: dict[str, Any], task: Task) -> str:
    """Say how fast the model answers, and how that was measured; nothing where it was not."""
    if not result.get("milliseconds_an_answer"):
        return ""
    took = f"{result['milliseconds_an_answer']:.3g} ms"
    if not task.answers_rows:
        return f"It writes a token in {took} ({result['timed']})."
    return (
        f"It answers a row by itself in {took}, and {result['answers_a_second']:,.0f} rows "
        f"a second in batches ({result['timed']})."
    )


def score_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the model and each baseline as a row: its name, and the scores of the model."""
    scored = [("this model", result["scores"])]
    scored += [(b["name"], b["scores"]) for b in result["baselines"]]
    names = list(result["scores"])
    rows = []
    for model, scores in scored:
        cells = [f"{scores[name]:.4f}" if name in scores else "" for name in names]
        rows.append([model, *cells])
    return rows


def render(recipe: Recipe, task: Task, result: dict[str, Any]) -> str:
    """Return the card as Markdown: what the model is, how good, how it was made, how to use it."""
    if not task.answers_rows:
        use = 'run.generate("...", temperature=0.8)'
    else:
        row = "..." if task.schema.text else "[...]"
        use = f"run.predict([{row!r}])"
    return pages.render(
        "card.md",
        name=recipe.name,
        layer=recipe.layer,
        pattern=task.pattern,
        task=task.name,
        size=size(result["megabytes"]),
        speed=speed(result, task),
        scored_on=scored_on(result, task),
        scores=score_rows(result),
        duration=duration(result["seconds"]),
        path=repr(str(recipe.name)),
        use=use,
        result=result,
    )
