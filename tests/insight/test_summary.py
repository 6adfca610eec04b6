"""What closes a training: its result file, and honest words about the baselines."""

from __future__ import annotations

import json
import math
import shlex
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unrolled
from conftest import SMALL
from unrolled import load
from unrolled.insight.summary import seconds_for_baselines, summary
from unrolled.runs.keys import parse
from unrolled.runs.recipes import requested
from unrolled.tasks.baselines import measured


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
        inputs=("text",), text=("text",), numbers=numbers, frames=False, clips=False
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
        training=SimpleNamespace(pretrain_epochs=0, metric=None),
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


def closing(
    loss: float, blind: float | None, left_out: list[str] | None = None
) -> list[str]:
    made = plan()
    made.folder = Path("runs/x")
    made.prepared.task.blind_loss = blind
    made.recipe.training.learning_rate = 300.0
    result = {
        "seconds": 3.0,
        "steps": 5,
        "best_step": 4,
        "stopped": "limit",
        "scored_rows": 7,
        "scored_answers": 7,
        "held_out": True,
        "task": "classify",
        "scores": {"m": 0.5, "loss": loss},
        "baselines": [],
        "baselines_left_out": left_out or [],
    }
    return summary(made, result)


@pytest.mark.parametrize(
    ("loss", "blind", "astray"),
    [
        (10827.0, 0.693, True),
        (2.08, 0.693, True),
        (2.07, 0.693, False),
        (0.5, 0.693, False),
        (10827.0, None, False),
        (float("nan"), 0.693, True),
    ],
)
def test_a_loss_far_above_a_blind_guess_is_said(
    loss: float, blind: float | None, astray: bool
) -> None:
    lines = [line for line in closing(loss, blind) if line.startswith("The loss is")]
    assert len(lines) == astray
    if astray:
        assert "training.learning_rate=300; try 30, and training.clip" in lines[0]


@pytest.mark.parametrize(
    ("kind", "blind"),
    [
        ("classify", math.log(2)),
        ("regress", 0.5),
        ("tag", math.log(3)),
        ("language", None),
    ],
)
def test_a_blind_guess_has_the_loss_of_knowing_nothing(
    home: SimpleNamespace, kind: str, blind: float | None
) -> None:
    task: Any = unrolled.load(home.runs[kind]).task
    expected = math.log(task.tokenizer.size) if blind is None else blind
    assert task.blind_loss == pytest.approx(expected)
    assert "The loss is" not in home.said[kind]


def test_simple_methods_that_were_left_out_are_named() -> None:
    lines = closing(0.5, None, ["n-gram logistic regression", "trees"])
    (line,) = [line for line in lines if "left out for time" in line]
    assert line.startswith("  left out for time: n-gram logistic regression, trees (")
    assert not any("left out for time" in line for line in closing(0.5, None))


@pytest.mark.parametrize(
    ("minutes", "seconds"), [(None, math.inf), (3, 45.0), (0.1, 20.0), (60, 900.0)]
)
def test_simple_methods_have_a_quarter_of_the_time_of_training(
    minutes: float | None, seconds: float
) -> None:
    made = plan()
    made.recipe.training.max_minutes = minutes
    assert seconds_for_baselines(made) == seconds


def test_methods_after_a_slow_one_are_left_out() -> None:
    def slow() -> dict[str, float]:
        time.sleep(0.03)
        return {"m": 1.0}

    methods = [("a", slow), ("b", slow), ("c", slow)]
    done, left_out = measured(methods, 0.01)
    assert [baseline.name for baseline in done] == ["a"]
    assert left_out == ["b", "c"]
    assert measured(methods)[1] == []
