"""The model card: ``README.md`` of a run folder."""

from __future__ import annotations

import re
from typing import Any

from unrolled.core.terminal import clean
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import Recipe
from unrolled.training.progress import duration


def scored_on(result: dict[str, Any]) -> str:
    """Say what the scores are of: ``held out, 300 rows``, or ``held out, 9 rows, 300 labels``."""
    what = "held out" if result["held_out"] else "the training data itself"
    rows = result["scored_rows"]
    answers = result["scored_answers"]
    told = f"{what}, {rows:,} {'tokens' if result['task'] == 'language' else 'rows'}"
    return told if answers == rows else f"{told}, {answers:,} labels"


def size(megabytes: float) -> str:
    """Return 0.25 as ``250 kB``."""
    return f"{megabytes:.1f} MB" if megabytes >= 1 else f"{1000 * megabytes:.0f} kB"


def speed(result: dict[str, Any]) -> list[str]:
    """Say how fast the model answers, and how that was measured."""
    if not result.get("milliseconds_an_answer"):
        return []
    each = f"{result['milliseconds_an_answer']:.3g} ms"
    if result["task"] == "language":
        fast = f"It writes a token in {each}"
    else:
        many = f"{result['answers_a_second']:,.0f}"
        fast = (
            f"It answers a row by itself in {each}, and {many} rows a second in batches"
        )
    return [f"{fast} ({result['timed']}).", ""]


def plain(text: str) -> str:
    """Return text of the data as one line of Markdown that shows it letter by letter."""
    one = clean(" ".join(text.split()))
    return re.sub(r"[\\`*<>|~&\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", one)


def render(recipe: Recipe, task: Task, result: dict[str, Any]) -> str:
    """Return the card as Markdown: what the model is, how good, how it was made, how to use it."""
    names = list(result["scores"])
    rows = [("this model", result["scores"])] + [
        (b["name"], b["scores"]) for b in result["baselines"]
    ]
    table = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, scores in rows:
        cells = (f"{scores[key]:.4f}" if key in scores else "" for key in names)
        table.append(f"| {name} | {' | '.join(cells)} |")
    use = (
        'run.generate("...", temperature=0.8)'
        if task.name == "language"
        else f"run.predict([{'...' if task.schema.text else '[...]'!r}])"
    )
    return "\n".join(
        [
            f"# {plain(recipe.name)}",
            "",
            f"A `{recipe.layer}` model ({task.pattern}, {task.name}) with "
            f"{result['parameters']:,} parameters, {size(result['megabytes'])} on disk.",
            "",
            *speed(result),
            f"## Scores ({scored_on(result)})",
            "",
            *table,
            "",
            *(line for note in result.get("notes", []) for line in (plain(note), "")),
            f"Training took {duration(result['seconds'])} and {result['steps']:,} steps "
            f"on {result['device']} ({result['precision']}, {result['threads']} threads); the "
            f"weights are those of step {result['best_step']:,}.",
            "",
            "## Data",
            "",
            *(f"- {plain(line)}" for line in result["found"]),
            "",
            "## Use",
            "",
            "```python",
            "import unrolled",
            "",
            f"run = unrolled.load({str(recipe.name)!r})  # the path of this folder",
            use,
            "```",
            "",
            "Settings: `config.yaml`. Learning curves: `metrics.jsonl` and `report.html`.",
            "",
        ]
    )
