"""Categories and dates at each step of a sequence, from the file to the answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from conftest import SMALL, Call, write_csv, write_jsonl
from unrolled.core.errors import DataError, UserError
from unrolled.run import train
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks.baselines import measured

HEAD = ("at", "sky", "heat", "sales")
HOURS = 24 * 20
WINDOW = 6
ADDED = {"rain": -3.0, "sun": 3.0, "snow": 0.0}
KEYS: dict[str, Any] = SMALL | {
    "data.window": WINDOW,
    "training.max_steps": 150,
    "training.learning_rate": 0.02,
}
QUICK = KEYS | {"training.max_steps": 2}
START = datetime(2021, 3, 1)
Write = Callable[..., Path]


def shop(seed: int = 0) -> list[tuple[Any, ...]]:
    """Return hours whose sales are told by the sky of the hour before, and by the clock."""
    draw = random.Random(seed)
    rows: list[tuple[Any, ...]] = []
    sky = "sun"
    for number in range(HOURS):
        hour = START + timedelta(hours=number)
        busy = 8.0 * (12 <= hour.hour < 18)
        sales = round(20 + busy + ADDED[sky] + draw.gauss(0, 0.3), 3)
        sky = draw.choice(sorted(ADDED))
        rows.append((f"{hour:%Y-%m-%d %H:%M}", sky, round(draw.gauss(9, 2), 2), sales))
    return rows


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run that forecasts the next hour from all columns."""
    at = tmp_path_factory.mktemp("sales")
    file = write_csv(at / "sales.csv", shop(), HEAD)
    lines: list[str] = []
    run = train(file, out=at / "run", say=lines.append, quiet=True, **KEYS)
    return SimpleNamespace(run=run, file=file, folder=at / "run", said=lines)


def prepared(path: Path, **changes: Any) -> Prepared:
    return prepare(requested(str(path), {**QUICK, **changes}))


def test_all_kinds_of_columns_are_read_and_said(sales: SimpleNamespace) -> None:
    schema = unrolled.load(sales.folder).task.schema
    assert schema.inputs == ("heat", "sales", "sky", "at")
    assert schema.time == "at"
    said = "\n".join(sales.said)
    assert "sky (data.categories=COLUMN), at (data.dates=COLUMN)" in said
    assert "leaves out" not in said


def test_what_other_columns_say_is_learnt(
    sales: SimpleNamespace, tmp_path: Path
) -> None:
    alone = train(
        sales.file,
        out=tmp_path / "run",
        say=lambda line: None,
        quiet=True,
        **KEYS,
        **{"data.categories": [], "data.dates": []},
    )
    assert alone.task.schema.inputs == ("heat", "sales")
    together = sales.run.result["scores"]["rmse"]
    # without the sky its part stays unknown, of a deviation of about 2.4
    assert together < 0.6 * alone.result["scores"]["rmse"]


def test_the_first_steps_are_the_features_of_each_column(
    sales: SimpleNamespace,
) -> None:
    made = prepared(sales.file)
    frames = made.train.frames
    rows = shop()[: len(frames.flat)]
    numbers = np.array([row[2:] for row in rows])
    scaled = (numbers - numbers.mean(0)) / numbers.std(0)
    np.testing.assert_allclose(frames.flat[:, :2], scaled, atol=1e-5)
    for index, kind in enumerate(sorted(ADDED)):
        expected = [float(row[1] == kind) for row in rows]
        np.testing.assert_array_equal(frames.flat[:, 2 + index], expected)
    hours = [datetime.fromisoformat(row[0]) for row in rows]
    days = np.eye(7)[[hour.weekday() for hour in hours]]
    np.testing.assert_array_equal(frames.flat[:, 5:12], days)
    turns = np.array([hour.hour for hour in hours]) / 24 * 2 * np.pi
    np.testing.assert_allclose(frames.flat[:, 12], np.sin(turns), atol=1e-6)
    np.testing.assert_allclose(frames.flat[:, 13], np.cos(turns), atol=1e-6)
    assert not frames.flat[:, 14].any()
    assert frames.flat.shape[1] == 15


def test_the_answers_are_the_same_however_a_window_is_given(
    sales: SimpleNamespace, cli: Call
) -> None:
    answers = cli("predict", sales.folder, "--file", sales.file)[0].splitlines()
    assert len(answers) == HOURS
    rows = shop()[100 : 100 + WINDOW]
    expected = answers[100 + WINDOW - 1]
    run = unrolled.load(sales.folder)
    steps = [list(row) for row in rows]
    columns = {
        name: list(cells)
        for name, cells in zip(HEAD, zip(*rows, strict=True), strict=True)
    }
    given = [steps, columns, json.dumps(steps), json.dumps(columns)]
    assert run.predict(given) == [expected] * 4
    assert run.predict(given[:1]) == [expected]
    assert cli("predict", sales.folder, json.dumps(steps))[0].strip() == expected
    printed, _ = cli("evaluate", sales.folder, sales.file)
    scores = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines()}
    errors = [
        float(answer) - row[3]
        for answer, row in zip(answers[WINDOW - 1 : -1], shop()[WINDOW:], strict=True)
    ]
    assert scores["mae"] == pytest.approx(np.abs(errors).mean(), abs=1e-3)


def test_what_was_never_seen_and_what_is_missing_is_answered(
    sales: SimpleNamespace,
) -> None:
    run = unrolled.load(sales.folder)
    steps = [list(row) for row in shop()[:WINDOW]]
    known = run.predict([steps])
    odd = [[None, "hail", *step[2:]] for step in steps]
    assert run.predict([odd]) != known
    with pytest.raises(UserError, match=r"'at' holds 'soon' .* at step 6"):
        run.predict([[*steps[:-1], ["soon", *steps[-1][1:]]]])
    with pytest.raises(UserError, match="step 1 has 2 cells; expected 4: at, sky, h"):
        run.predict([[step[2:] for step in steps]])
    with pytest.raises(UserError, match="has no 'sky'; expected heat, sales, sky"):
        run.predict(['{"heat": [1], "sales": [2], "at": ["2021-01-01"]}'])


def test_a_file_without_a_column_or_with_a_wrong_date_is_refused(
    sales: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(sales.folder)
    rows = shop()[:30]
    lacking = write_csv(tmp_path / "l.csv", [row[2:] for row in rows], HEAD[2:])
    with pytest.raises(DataError, match=r"l\.csv:1: there is no column 'sky'"):
        list(run.predict_file(lacking))
    rows[7] = ("soon", *rows[7][1:])
    wrong = write_csv(tmp_path / "w.csv", rows, HEAD)
    with pytest.raises(DataError, match=r"w\.csv:9: column 'at' holds 'soon'"):
        list(run.predict_file(wrong))


def test_baselines_read_the_same_columns(sales: SimpleNamespace) -> None:
    made = prepared(sales.file)
    lines, _ = measured(made.task.baselines(made.split))
    scores = {line.name: line.scores["rmse"] for line in lines}
    bare = prepared(sales.file, **{"data.categories": [], "data.dates": []})
    alone, _ = measured(bare.task.baselines(bare.split))
    without = {line.name: line.scores["rmse"] for line in alone}
    assert scores["last value"] == without["last value"]
    assert scores["linear regression"] < 0.8 * without["linear regression"]


def test_a_date_that_never_came_round_is_left_out_or_refused(tmp_path: Path) -> None:
    rows = shop()[:44]  # less than two days are left for training
    path = write_csv(tmp_path / "s.csv", rows, HEAD)
    made = prepared(path)
    assert made.task.schema.inputs == ("heat", "sales", "sky")
    assert made.task.schema.time == "at"
    assert made.recipe.data.dates is None
    named = {"data.numbers": ["sales"], "data.dates": ["at"]}
    with pytest.raises(DataError, match="no part of 'at' comes round twice"):
        prepared(path, **named)


# ---------------------------------------------------------------------- a label a step


def switched(count: int, seed: int) -> list[dict[str, Any]]:
    """Return sequences whose labels hang on the sign of x, and on what k says of it."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        length = draw.randrange(3, 9)
        x = [round(draw.gauss(0, 1), 3) for _ in range(length)]
        k = [draw.choice(["as", "not"]) for _ in x]
        up = [(a > 0) == (b == "as") for a, b in zip(x, k, strict=True)]
        rows.append({"x": x, "k": k, "phase": ["up" if u else "down" for u in up]})
    return rows


@pytest.mark.parametrize("written", ["lists", "rows"])
def test_labels_of_steps_hang_on_other_columns(
    tmp_path: Path, cli: Call, written: str
) -> None:
    data = switched(80, 0)
    path = write_jsonl(tmp_path / "s.jsonl", data)
    keys = KEYS | {"data.window": None, "training.max_steps": 200}
    if written == "rows":
        keys["data.sequence"] = "id"
        cells: list[tuple[Any, ...]] = []
        for number, row in enumerate(data):
            columns = zip(row["k"], row["x"], row["phase"], strict=True)
            cells += [(f"s{number}", *column) for column in columns]
        path = write_csv(tmp_path / "s.csv", cells, ("id", "k", "x", "phase"))
    out = tmp_path / "run"
    run = train(path, out=out, say=lambda line: None, quiet=True, **keys)
    assert run.task.schema.inputs == ("x", "k")
    assert run.result["scores"]["accuracy"] > 0.9
    row = {"x": [1.3, 1.1, -1.2, -1.4], "k": ["as", "not"] * 2}
    steps: list[tuple[Any, ...]] = list(zip(row["k"], row["x"], strict=True))
    if written == "lists":
        steps = [(x, k) for k, x in steps]
    beside = {"x": row["x"], "k": row["k"]}
    (answer, named) = run.predict([[list(step) for step in steps], beside])
    assert answer == named
    assert answer == "up down down up"
    lines = cli("predict", out, "--file", path)[0].splitlines()
    assert len(lines) == (len(data) if written == "lists" else len(cells))


def test_a_step_is_the_full_pass_and_a_batch_of_one_that_of_many(
    tmp_path: Path,
) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", switched(30, 1))
    keys = QUICK | {"data.window": None, "layer": "gru"}
    out = tmp_path / "run"
    run = train(path, out=out, say=lambda line: None, quiet=True, **keys)
    task = run.task
    rows = [(row["x"], row["k"]) for row in switched(6, 2)]
    model: Any = unrolled.load(out).model.double()
    many = task.inputs.examples(
        [task.inputs.check(row) for row in rows], np.arange(len(rows))
    )
    steps, lengths = many.frames.take(np.arange(len(rows)))
    with torch.no_grad():
        together = model(steps.double(), lengths)
        for index, length in enumerate(lengths.tolist()):
            own = steps[index : index + 1, :length].double()
            state = model.layer.initial_state(1)
            for step in range(length):
                y, state = model.layer.step(own[:, step], state)
                alone = model.head(y)[0]
                torch.testing.assert_close(
                    together[index, step], alone, rtol=1e-9, atol=1e-9
                )
    tuples = [(row[0], row[1]) for row in rows]
    assert run.predict(tuples) == [run.predict([row])[0] for row in tuples]


def test_a_sequence_of_kinds_alone_is_classified(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = []
    for _ in range(120):
        k = [draw.choice("ab") for _ in range(draw.randrange(2, 7))]
        rows.append({"k": k, "label": "even" if k.count("a") % 2 == 0 else "odd"})
    path = write_jsonl(tmp_path / "k.jsonl", rows)
    made = prepared(path, **{"data.window": None, "data.categories": ["k"]})
    assert made.task.schema.inputs == ("k",)
    assert made.task.schema.frames
    assert made.train.frames.flat.shape[1] == 2
    lines, _ = measured(made.task.baselines(made.split))
    assert {line.name for line in lines} == {"majority class", "logistic regression"}


def test_columns_of_other_lengths_are_an_error_of_the_row(tmp_path: Path) -> None:
    rows = switched(30, 0)
    rows[3]["k"] = rows[3]["k"][1:]
    path = write_jsonl(tmp_path / "s.jsonl", rows)
    with pytest.raises(DataError, match=r"s\.jsonl:4: column 'k' has \d values? for"):
        prepared(path, **{"data.window": None})
    made = prepared(path, **{"data.window": None, "data.on_error": "skip"})
    assert len(made.train) + len(made.dev) == 29


def test_a_list_in_a_row_that_is_a_step_is_an_error(tmp_path: Path) -> None:
    cells = [dict(zip(HEAD, row, strict=True)) for row in shop()[:60]]
    cells[5]["sky"] = ["sun", "rain"]
    path = write_jsonl(tmp_path / "s.jsonl", cells)
    with pytest.raises(DataError, match=r"s\.jsonl:6: "):
        prepared(path, **{"data.categories": ["sky"], "data.numbers": ["sales"]})


def test_a_resumed_run_reads_the_same_columns(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", shop()[:200], HEAD)
    out = tmp_path / "run"
    first: list[str] = []
    train(path, out=out, say=first.append, quiet=True, **QUICK)
    more: list[str] = []
    keys = {"training.max_steps": 4}
    run = train(str(out), resume=True, say=more.append, quiet=True, **keys)
    assert run.result["steps"] == 4
    assert [line for line in first if line.startswith(("reads", "sequences"))] == [
        line for line in more if line.startswith(("reads", "sequences"))
    ]
