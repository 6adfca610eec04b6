"""What closes a training: its result file, and honest words about the baselines."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unrolled
from conftest import SMALL
from unrolled import load
from unrolled.insight.summary import summary
from unrolled.runs.keys import parse
from unrolled.runs.recipes import requested


@pytest.mark.parametrize("kind", ["classify", "regress", "vectors", "tag", "language"])
def test_the_result_tells_what_the_folder_holds(
    home: SimpleNamespace, kind: str
) -> None:
    folder = home.runs[kind]
    result = json.loads((folder / "result.json").read_text("utf-8"))
    run = unrolled.load(folder)
    assert result["parameters"] == sum(p.numel() for p in run.model.parameters())
    assert result["megabytes"] == (folder / "model.safetensors").stat().st_size / 1e6
    assert (result["layer"], result["task"]) == (run.recipe.layer, run.task.name)
    assert result["steps"] == run.recipe.training.max_steps
    assert 0 < result["best_step"] <= result["steps"]
    assert result["seconds"] > 0
    assert len(result["samples"]) == (3 if kind == "language" else 0)


def plan(layer: str = "gru", task: str = "classify", higher: bool = True) -> Any:
    numbers = ("x",) if task == "regress" else ()
    schema = SimpleNamespace(
        inputs=("text",), text=("text",), numbers=numbers, frames=False
    )
    stub = SimpleNamespace(
        is_generative=False,
        answers_rows=task != "language",
        name=task,
        metric="m",
        measures={"m": higher},
        schema=schema,
        columns=["text"],
        reads_sequences=task != "regress",
        blind_loss=None,
    )
    data = SimpleNamespace(columns=["text"], rows=[("a film",)])
    prepared = SimpleNamespace(task=stub, dev_data=data)
    recipe = SimpleNamespace(
        layer=layer,
        model=SimpleNamespace(layers=1),
        training=SimpleNamespace(pretrain_epochs=0),
        data=SimpleNamespace(train="t", train_target=None),
        report=SimpleNamespace(samples=True),
    )
    return SimpleNamespace(
        prepared=prepared,
        recipe=recipe,
        folder=SimpleNamespace,
        request=SimpleNamespace(target="t", changes={}),
    )


def said(ours: float, theirs: float | None, higher: bool) -> str:
    made = plan(higher=higher)
    made.folder = Path("runs/x")
    scores = {} if theirs is None else {"m": theirs}
    result = {
        "seconds": 3.0,
        "steps": 5,
        "best_step": 4,
        "stopped": "limit",
        "scored_rows": 7,
        "scored_answers": 7,
        "held_out": True,
        "task": "classify",
        "scores": {"m": ours},
        "baselines": [{"name": "simple", "scores": scores}],
    }
    return "\n".join(summary(made, result))


@pytest.mark.parametrize(
    ("ours", "theirs", "higher", "verdict"),
    [
        (0.8, 0.9, True, "The baseline wins: simple has m 0.9000, this model 0.8000."),
        (0.9, 0.8, True, None),
        (0.8, 0.9, False, None),
        (0.9, 0.8, False, "The baseline wins: simple has m 0.8000, this model 0.9000."),
        (0.5, 0.5, True, "As good as simple: both have m 0.5000."),
        (0.5, None, True, None),
    ],
)
def test_a_baseline_that_wins_is_said_and_no_other(
    ours: float, theirs: float | None, higher: bool, verdict: str | None
) -> None:
    text = said(ours, theirs, higher)
    assert ("baseline wins" in text or "As good as" in text) == (verdict is not None)
    assert verdict is None or verdict in text


@pytest.mark.parametrize("kind", ["classify", "regress", "vectors", "tag", "language"])
def test_the_command_to_compare_with_trains_something_else(
    home: SimpleNamespace, kind: str
) -> None:
    line = home.said[kind].split("next:\n")[1].splitlines()[2]
    program, train, path, *changes = shlex.split(line)
    assert (program, train, path) == ("unrolled", "train", str(home.files[kind]))
    out = changes[-1]
    changes = changes[: changes.index("--out")]
    assert not Path(out).exists()
    result = json.loads((home.runs[kind] / "result.json").read_text("utf-8"))
    other = requested(path, parse(changes))
    first = load(home.runs[kind]).recipe
    assert (other.layer, other.model.layers) != (first.layer, first.model.layers)
    assert result["layer"] == first.layer
    # what was asked for is repeated
    assert SMALL.keys() <= parse(changes).keys()
    assert other.training.max_steps == first.training.max_steps
