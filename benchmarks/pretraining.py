"""What unlabelled text is worth: accuracy against labels, with pre-training and without it.

``python -m benchmarks pretraining RUN [--seeds=3] [--labels=100,1000,10000,all] [--minutes=20]``: a
classifier of film reviews (NSMC) is trained on so many labels, once begun with RUN and once with
drawn weights of the same layer and sizes, with the recipe ``nsmc-from-lm`` and each seed. All are
scored on the same 10,000 held-out rows, those of the recipe ``nsmc``. The smaller training parts
stand in the larger ones. A table is printed, and a chart written beside the results.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import unrolled
from unrolled.data.schema import Schema
from unrolled.insight import charts, pages
from unrolled.runs.prepare import prepare
from unrolled.runs.pretrained import PUBLISHED, Pretrained
from unrolled.runs.recipes import requested
from unrolled.tasks.base import Data, need_table

RECIPE = "nsmc-from-lm"
LABELS = "100,1000,10000,all"
OPTIONS = ("seeds", "labels", "minutes")
USAGE = (
    "usage: python -m benchmarks pretraining RUN [--seeds=3] "
    f"[--labels={LABELS}] [--minutes=20]"
)
COLUMNS = ("document", "label")
STEPS = 600  # of the smaller parts at least: few labels are read often
WITH = "with pre-training"
WITHOUT = "without"
CHART = Path(__file__).parent / "results" / "pretraining.html"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured.

    Attributes:
        run: what trainings begin with.
        seeds: of each point.
        labels: how many there are; None for all.
        minutes: the most of a training; None as the recipe has it.
    """

    run: str
    seeds: int
    labels: tuple[int | None, ...]
    minutes: float | None

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Setting:
        """Read the words of the command line; what cannot be read ends in the line of usage."""
        words = [word for word in arguments if word.startswith("--")]
        names = [word for word in arguments if not word.startswith("--")]
        pairs = [word.removeprefix("--").partition("=") for word in words]
        options = {key: value for key, _, value in pairs}
        if len(names) != 1 or not options.keys() <= set(OPTIONS):
            raise SystemExit(USAGE)
        counts = options.get("labels", LABELS).split(",")
        minutes = options.get("minutes")
        try:
            setting = cls(
                names[0],
                int(options.get("seeds", "3")),
                tuple(None if count == "all" else int(count) for count in counts),
                None if minutes is None else float(minutes),
            )
        except ValueError:
            raise SystemExit(USAGE) from None
        sizes = [count for count in setting.labels if count is not None]
        longest = 1.0 if setting.minutes is None else setting.minutes
        if min(setting.seeds, *sizes, 1) < 1 or not longest > 0:
            raise SystemExit(USAGE)
        return setting


def rows_of(data: Data) -> list[tuple[Any, ...]]:
    """Return text and label of each row of a part of NSMC."""
    table = need_table(data)
    indices = [table.columns.index(name) for name in COLUMNS]
    return [tuple(row[index] for index in indices) for row in table.rows]


def write(path: Path, rows: Sequence[tuple[Any, ...]]) -> Path:
    """Write rows as JSON lines, which no text can break."""
    lines = [
        json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False)
        for row in rows
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def drawn(run: str, schema: Schema) -> dict[str, Any]:
    """Return the keys with which a training draws the weights anew that it would take of a run.

    They are all that it would take over, those among them that are as they are by default: what a
    recipe does not name a task may choose otherwise.

    Args:
        run: as ``model.init`` names it.
        schema: the task and columns of the training.
    """
    plain = requested(RECIPE, {"model.init": run})
    shaped = Pretrained.open(run).shaping(plain, schema)
    if shaped.data.tokenizer == PUBLISHED:
        raise SystemExit(
            f"{run} brings a tokenizer that nothing else can learn: there is nothing to compare "
            "it with; name a run"
        )
    changes = {
        "layer": shaped.layer,
        "model.init": None,
        "training.layer_decay": 1.0,
    }
    parts = {"model": (plain.model, shaped.model), "data": (plain.data, shaped.data)}
    for part, (before, after) in parts.items():
        for key in sorted(after.model_fields_set - before.model_fields_set):
            changes[f"{part}.{key}"] = getattr(after, key)
    return changes


def limits(count: int | None, minutes: float | None) -> dict[str, Any]:
    """Return the keys that bound a training on so many labels; those of the recipe for none.

    A limit takes the place of all that the recipe has, so that all which hold are named.
    """
    bounds: dict[str, Any] = {}
    if count is not None and count < 50_000:
        # epochs of few labels end before anything is learnt
        batch = min(256, max(8, count // 10))
        bounds = {
            "training.max_steps": max(STEPS, 5 * count // batch),
            "training.batch_size": batch,
            "training.warmup_steps": 50,
            "training.evaluate_every": 100,
        }
    elif minutes is not None:
        epochs = requested(RECIPE, {}).training.max_epochs
        bounds["training.max_epochs"] = epochs
    if minutes is not None:
        bounds["training.max_minutes"] = minutes
    return bounds


def train(
    files: tuple[Path, Path],
    changes: dict[str, Any],
    count: int | None,
    seed: int,
    minutes: float | None,
) -> float:
    """Train on a file, and return the accuracy on the held-out rows of another."""
    with tempfile.TemporaryDirectory() as scratch:
        run = unrolled.train(
            RECIPE,
            out=Path(scratch) / "run",
            seed=seed,
            quiet=True,
            say=lambda line: None,
            **{
                "data.train": str(files[0]),
                "data.dev": str(files[1]),
                "report.inside": False,
                **limits(count, minutes),
                **changes,
            },
        )
    return float(run.result["scores"]["accuracy"])


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure every point, print a line of each as it is known, and draw the chart."""
    setting = Setting.read(arguments)
    # which rows are held out does not hang on how they are cut, and characters are quickly known
    split = prepare(requested("nsmc", {"data.tokenizer": "chars"}))
    rows = rows_of(split.train_data)
    random.Random(0).shuffle(rows)
    held_out = rows_of(split.dev_data)
    kinds = {
        WITH: {"model.init": setting.run},
        WITHOUT: drawn(setting.run, split.task.schema),
    }
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        dev = write(Path(scratch) / "held_out.jsonl", held_out)
        for count in setting.labels:
            train_file = write(Path(scratch) / "train.jsonl", rows[:count])
            for kind, changes in kinds.items():
                accuracies = [
                    train((train_file, dev), changes, count, seed, setting.minutes)
                    for seed in range(setting.seeds)
                ]
                points.append(point(kind, count or len(rows), accuracies))
                print(line(points[-1]), flush=True)
    draw(points)
    return {"run": setting.run, "held_out": len(held_out), "points": points}


def point(kind: str, labels: int, accuracies: list[float]) -> dict[str, Any]:
    """Return what was measured at so many labels."""
    several = len(accuracies) > 1
    return {
        "kind": kind,
        "labels": labels,
        "accuracy": statistics.fmean(accuracies),
        "deviation": statistics.stdev(accuracies) if several else None,
        "accuracies": accuracies,
    }


def line(measured: dict[str, Any]) -> str:
    """Return a row of the table."""
    deviation = measured["deviation"]
    interval = "" if deviation is None else f"  +- {deviation:.4f}"
    return (
        f"{measured['labels']:>8,} labels  {measured['kind']:<18} "
        f"{measured['accuracy']:.4f}{interval}"
    )


def draw(points: list[dict[str, Any]]) -> None:
    """Write the chart, with the table of what it draws."""
    series = {
        kind: [
            (point["labels"], point["accuracy"])
            for point in points
            if point["kind"] == kind
        ]
        for kind in (WITH, WITHOUT)
    }
    chart = charts.lines(series, "labels", "accuracy", log="x")
    CHART.parent.mkdir(exist_ok=True)
    style = (pages.TEMPLATES / "page.css").read_text("utf-8")
    figure = charts.figure("What unlabelled text is worth", chart)
    page = f'<!doctype html><html lang="en"><style>{style}</style>{figure}</html>'
    CHART.write_text(page, "utf-8")
    print(f"chart: {CHART}")
