"""Texts, numbers, categories and dates of one row together, from the file to the answers."""

from __future__ import annotations

import json
import random
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from conftest import SMALL, Call, write_csv, write_jsonl
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import collate
from unrolled.data.examples import Examples
from unrolled.run import train
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks import baselines
from unrolled.tasks.base import Split
from unrolled.tasks.baselines import measured

HEAD = ("day", "city", "note", "size", "price")
KEYS = SMALL | {
    "training.max_steps": 120,
    "training.learning_rate": 0.02,
    "training.batch_size": 32,
    "model.embedding_dropout": 0.0,
    "model.head_dropout": 0.0,
}
QUICK = KEYS | {"training.max_steps": 2}
ADDED = {"Seoul": 4.0, "Busan": 0.0, "Jeju": -4.0}


def houses(count: int, seed: int, lacking: float = 0.0) -> list[tuple[Any, ...]]:
    """Return rows whose price is told by the word of a note, the city and the size together."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        good = draw.random() < 0.5
        city = draw.choice(sorted(ADDED))
        size = round(draw.uniform(1, 9), 2)
        day = f"2021-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"
        note = f"the {'lovely' if good else 'shabby'} house with number {number}"
        price = round(2 * size + ADDED[city] + 6 * good, 3)
        shown = "NA" if draw.random() < lacking else size
        rows.append((day, city, note, shown, price))
    return rows


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run of a value and one of a label, trained on rows of which some lack a number."""
    at = tmp_path_factory.mktemp("mixed")
    rows = houses(300, 1, lacking=0.05)
    dear = [(*row[:4], "dear" if row[4] > 13 else "cheap") for row in rows]
    files = {
        "value": write_csv(at / "price.csv", rows, HEAD),
        "label": write_csv(at / "dear.csv", dear, HEAD),
        "dev": write_csv(at / "dev.csv", houses(100, 2), HEAD),
    }
    said = {}
    for kind in ("value", "label"):
        lines: list[str] = []
        train(files[kind], out=at / kind, say=lines.append, quiet=True, **KEYS)
        said[kind] = "\n".join(lines)
    return SimpleNamespace(folder=at, files=files, said=said, rows=rows)


def prepared(path: Path, **changes: Any) -> Prepared:
    return prepare(requested(str(path), {**KEYS, **changes}))


# ---------------------------------------------------------------------- training


def test_all_kinds_of_columns_are_read_and_said(mixed: SimpleNamespace) -> None:
    task = unrolled.load(mixed.folder / "value").task
    assert task.schema.text == ("note",)
    assert task.schema.numbers == ("size",)
    assert task.schema.categories == ("city",)
    assert task.schema.dates == ("day",)
    for part in ("note (data.text", "city (data.categories", "day (data.dates"):
        assert part in mixed.said["value"]
    assert "size holds no number in" in mixed.said["value"]


def test_both_together_tell_more_than_either_half(
    mixed: SimpleNamespace, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "price.csv", houses(300, 1), HEAD)
    halves = {
        "text": {"data.text": "note"},
        "columns": {"data.numbers": ["size"], "data.categories": ["city"]},
        "both": {},
    }
    errors = {}
    for name, columns in halves.items():
        keys = KEYS | {"data.dev": str(mixed.files["dev"]), **columns}
        run = train(
            file, out=tmp_path / name, say=lambda line: None, quiet=True, **keys
        )
        errors[name] = run.result["scores"]["rmse"]
    # what the others leave unknown: of the price 2 * size and the city, or 6 for the word
    assert errors["text"] > 3
    assert errors["columns"] > 2.5
    assert errors["both"] < 0.5 * min(errors["text"], errors["columns"])


def test_columns_without_text_are_one_to_one(tmp_path: Path) -> None:
    rows = [(city, size, price) for _, city, _, size, price in houses(60, 1)]
    made = prepared(write_csv(tmp_path / "t.csv", rows, ("city", "size", "price")))
    assert made.task.pattern == "one to one"
    assert made.task.schema.categories == ("city",)
    assert made.train.vectors.shape[1] == 1 + len(ADDED)


# ---------------------------------------------------------------------- one row and many


@pytest.mark.parametrize("kind", ["value", "label"])
def test_a_row_is_answered_alike_alone_and_among_others(
    mixed: SimpleNamespace, kind: str
) -> None:
    run = unrolled.load(mixed.folder / kind)
    rows = [row[:4] for row in houses(40, 5, lacking=0.2)]
    together = run.answers(rows)
    turned = run.answers(rows[::-1])[::-1]
    for row, answer, other in zip(rows, together, turned, strict=True):
        (alone,) = run.answers([row])
        if kind == "label":
            assert alone.text == answer.text == other.text
        else:
            texts = [float(alone.text), float(other.text)]
            assert texts == pytest.approx([float(answer.text)] * 2, rel=1e-5, abs=1e-6)
        key = "value" if kind == "value" else "probabilities"
        numbers = [
            np.array(
                list(a.details[key].values()) if kind == "label" else a.details[key]
            )
            for a in (alone, answer, other)
        ]
        # sums of fp32 in another order; the last digit of a value's text may differ
        np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(numbers[2], numbers[1], rtol=1e-5, atol=1e-6)


def test_padding_reaches_neither_answers_nor_gradients(tmp_path: Path) -> None:
    rows = [
        (day, city, note + " indeed" * (number % 4), size, price)
        for number, (day, city, note, size, price) in enumerate(houses(40, 1))
    ]
    made = prepared(write_csv(tmp_path / "t.csv", rows, HEAD))
    torch.manual_seed(0)
    model = made.task.build(made.recipe).double().eval()
    batch = collate(made.train, np.arange(6))
    features = batch.extra[0].double()
    wide = torch.nn.functional.pad(batch.inputs, (0, 5), value=3)
    outputs = model(batch.inputs, batch.lengths, features)
    padded = model(wide, batch.lengths, features)
    torch.testing.assert_close(padded, outputs, rtol=1e-10, atol=1e-12)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert batch.lengths is not None
    turned = model(batch.inputs[order], batch.lengths[order], features[order])
    torch.testing.assert_close(turned, outputs[order], rtol=1e-10, atol=1e-12)


def test_columns_stand_beside_the_text_before_the_head(tmp_path: Path) -> None:
    made = prepared(write_csv(tmp_path / "t.csv", houses(40, 1), HEAD))
    torch.manual_seed(0)
    model: Any = made.task.build(made.recipe).double().eval()
    batch = collate(made.train, np.arange(6))
    features = batch.extra[0].double()
    steps = model.layer.read(model.embedding(batch.inputs), batch.lengths)
    pooled = model.pooling(steps, batch.lengths)
    said = model.columns.read(features[:, None], None)[:, 0]
    joined = torch.cat([pooled, said, features], 1)
    expected = joined @ model.head.weight.T + model.head.bias
    outputs = model(batch.inputs, batch.lengths, features)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("ngrams", [0, 2])
def test_every_weight_learns(tmp_path: Path, ngrams: int) -> None:
    path = write_csv(tmp_path / "t.csv", houses(40, 1), HEAD)
    made = prepared(path, **{"model.ngrams": ngrams})
    torch.manual_seed(0)
    model = made.task.build(made.recipe)
    batch = collate(made.train, np.arange(16))
    outputs = model(batch.inputs, batch.lengths, *batch.extra)
    assert outputs.shape == (16, 1)
    outputs.square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name


# ---------------------------------------------------------------------- forms of rows


def test_every_form_of_a_row_has_the_same_answer(
    mixed: SimpleNamespace, cli: Call
) -> None:
    folder = mixed.folder / "value"
    run = unrolled.load(folder)
    row = ("2021-03-04", "Seoul", "the lovely house, with number 7", "3.5")
    named = dict(zip(HEAD, row, strict=False))
    typed = '2021-03-04,Seoul,"the lovely house, with number 7",3.5'
    with_answer = f"{typed},12"
    written = json.dumps(named)
    (expected,) = run.predict([named])
    assert run.predict([row, list(row), typed, with_answer, written]) == [expected] * 5
    out, _ = cli("predict", folder, typed, written, with_answer)
    assert out.splitlines() == [expected] * 3


def test_the_row_that_is_proposed_is_answered(
    mixed: SimpleNamespace, cli: Call
) -> None:
    line = mixed.said["value"].split("next:\n")[1].splitlines()[0]
    program, *words = shlex.split(line)
    assert program == "unrolled"
    out, _ = cli(*words)
    float(out)


def test_another_layer_is_proposed_where_a_text_is_read(mixed: SimpleNamespace) -> None:
    line = mixed.said["value"].split("next:\n")[1].splitlines()[2]
    assert "layer=lstm" in line


def test_a_row_that_lacks_a_column_is_refused(mixed: SimpleNamespace) -> None:
    run = unrolled.load(mixed.folder / "value")
    with pytest.raises(UserError, match="has no 'size'; expected"):
        run.predict([{"note": "a", "city": "Seoul", "day": "2021-01-01"}])
    with pytest.raises(UserError, match="has 3 cells; expected"):
        run.predict(["2021-01-01,Seoul,a house"])
    with pytest.raises(UserError, match="'size' holds 'large' where a number is"):
        run.predict([("2021-01-01", "Seoul", "a house", "large")])


def test_the_same_run_comes_back_from_its_folder(
    mixed: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(mixed.folder / "label")
    run.task.save(tmp_path)
    values = json.loads(json.dumps(run.task.to_json()))
    again = type(run.task).from_json(values, tmp_path, run.task.layout)
    assert again.schema == run.task.schema
    rows = [row[:4] for row in houses(20, 5, lacking=0.2)]
    expected = run.predict(rows)
    device = run.predictor.compute_device
    cells = [(row[2], row[3], row[1], row[0]) for row in rows]
    answers = again.predict(run.model, cells, device)
    assert [answer.text for answer in answers] == expected


# ---------------------------------------------------------------------- files with gaps


def test_a_file_with_missing_cells_is_scored_and_answered(
    mixed: SimpleNamespace, tmp_path: Path, cli: Call
) -> None:
    rows = [
        (*row[:3], "" if n % 3 else row[3], row[4])
        for n, row in enumerate(houses(30, 6))
    ]
    rows[4] = ("", "", "", "", rows[4][4])
    rows[7] = (*rows[7][:4], "n/a")
    path = write_csv(tmp_path / "new.csv", rows, HEAD)
    folder = mixed.folder / "value"
    out, err = cli("evaluate", folder, path)
    scores = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()}
    assert "left out 1 row (line 9): column 'price' holds no number" in err
    answers = unrolled.load(folder).answers([row[:4] for row in rows])
    errors = [
        a.details["value"] - row[4]
        for a, row in zip(answers, rows, strict=True)
        if row[4] != "n/a"
    ]
    assert scores["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)
    assert scores["rmse"] == pytest.approx(
        np.sqrt(np.mean(np.square(errors))), rel=1e-3
    )
    out, err = cli("predict", folder, "--file", path)
    assert err == ""
    assert out.splitlines() == [answer.text for answer in answers]


@pytest.mark.parametrize("missing", ["median", "mean", "drop"])
def test_rows_that_lack_something_are_counted_and_said(
    tmp_path: Path, missing: str
) -> None:
    rows = houses(60, 1)
    rows[3] = (*rows[3][:3], "NA", rows[3][4])
    rows[8] = (*rows[8][:4], "")
    path = write_csv(tmp_path / "t.csv", rows, HEAD)
    made = prepared(path, **{"data.missing": missing})
    lines = "\n".join(made.lines)
    left_out = 2 if missing == "drop" else 1
    assert len(made.train) + len(made.dev) == 60 - left_out
    assert "size holds no number in 1 row (line 5)" in lines
    assert f"left out {left_out} row" in lines
    (warning,) = [w for w in made.warnings if w.key == "data.missing"]
    assert warning.line == 5


@pytest.mark.parametrize(("row", "line", "column"), [(3, 5, "size"), (8, 10, "price")])
def test_rows_that_lack_something_are_refused_where_they_are_to_be(
    tmp_path: Path, row: int, line: int, column: str
) -> None:
    rows: list[Any] = houses(60, 1)
    cells = list(rows[row])
    cells[HEAD.index(column)] = "NA"
    rows[row] = tuple(cells)
    path = write_csv(tmp_path / "t.csv", rows, HEAD)
    message = rf"t\.csv:{line}: column '{column}' holds 'NA' where a number is expected"
    with pytest.raises(DataError, match=message):
        prepared(path, **{"data.missing": "error"})


def test_what_stands_in_is_learnt_from_training_rows_alone(tmp_path: Path) -> None:
    rows = [(i % 2, float(i), 3.0 * i) for i in range(40)]
    rows[0] = (0, "NA", 1.0)  # type: ignore[assignment]
    path = write_csv(tmp_path / "t.csv", rows, ("flag", "x", "y"))
    dev = write_csv(
        tmp_path / "d.csv", [(0, 1e6, 5.0), (1, "", 7.0)], ("flag", "x", "y")
    )
    made = prepared(path, **{"data.dev": str(dev)})
    field: Any = made.task.inputs  # type: ignore[attr-defined]
    assert field.features[1].fill == np.median([row[1] for row in rows[1:]])
    assert made.dev.vectors[1, 2] == 1.0


# ---------------------------------------------------------------------- groups, marks, formats


def test_rows_of_one_group_stand_in_one_part(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [(f"c{draw.randrange(25)}", *row[1:]) for row in houses(200, 1)]
    path = write_csv(tmp_path / "t.csv", rows, ("client", *HEAD[1:]))
    made = prepared(path, **{"data.group": "client"})
    parts = [
        {row[0] for row in data.rows}  # type: ignore[union-attr]
        for data in (made.train_data, made.dev_data)
    ]
    assert parts[0] | parts[1] == {row[0] for row in rows}
    assert not parts[0] & parts[1]
    assert "by the hash of client" in "\n".join(made.lines)
    without = prepared(path)
    warned = [warning.key for warning in without.warnings]
    assert any(key.startswith("data.group=client") for key in warned)
    with pytest.raises(UsageError, match="no column 'cleint'; did you mean 'client'"):
        prepared(path, **{"data.group": "cleint"})


def test_a_comma_before_decimals_is_read_as_the_warning_says(tmp_path: Path) -> None:
    rows = [f"{n % 7 + 1},{100 + n};{'ab'[n % 2]}" for n in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("size;label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    made = prepared(path)
    assert any(
        "1,100, read as 1.1 with one mark" in warning.message
        for warning in made.warnings
    )
    assert made.task.inputs.features[0].scale.mean < 8  # type: ignore[attr-defined]
    said = prepared(path, **{"data.decimal": "."})
    assert said.task.inputs.features[0].scale.mean > 1000  # type: ignore[attr-defined]


def test_json_lines_are_read_like_a_table(tmp_path: Path) -> None:
    rows = houses(60, 1, lacking=0.1)
    objects = [dict(zip(HEAD, row, strict=True)) for row in rows]
    for row in objects:
        row["size"] = None if row["size"] == "NA" else row["size"]
    made = prepared(write_jsonl(tmp_path / "t.jsonl", objects))
    table = prepared(write_csv(tmp_path / "t.csv", rows, HEAD))
    assert made.task.schema == table.task.schema
    every = [np.concatenate([p.train.vectors, p.dev.vectors]) for p in (made, table)]
    assert every[0].shape == every[1].shape


# ---------------------------------------------------------------------- simple methods


def test_simple_methods_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from scipy.sparse import csr_matrix, hstack
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    rows = houses(120, 1, lacking=0.05)
    train_file = write_csv(tmp_path / "a.csv", rows[:90], HEAD)
    dev_file = write_csv(tmp_path / "b.csv", rows[90:], HEAD)
    made = prepared(train_file, **{"data.dev": str(dev_file)})
    scores = {b.name: b.scores for b in measured(made.task.baselines(made.split))[0]}
    truth = np.array([row[4] for row in rows[90:]])
    prices = np.array([row[4] for row in rows[:90]])
    trees = HistGradientBoostingRegressor(random_state=0).fit(
        made.train.vectors, prices
    )
    errors = trees.predict(made.dev.vectors) - truth
    expected = pytest.approx(np.abs(errors).mean(), rel=1e-3)
    assert scores["gradient-boosted trees"]["mae"] == expected
    grams = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 4), sublinear_tf=True, dtype=np.float32
    )
    fitted = grams.fit_transform([row[2] for row in rows[:90]])
    scored = grams.transform([row[2] for row in rows[90:]])
    scaled = (prices - prices.mean()) / prices.std()
    joined = hstack([fitted, csr_matrix(made.train.vectors)])
    ridge = Ridge(1.0).fit(joined, scaled)
    predicted = ridge.predict(hstack([scored, csr_matrix(made.dev.vectors)]))
    errors = predicted * prices.std() + prices.mean() - truth
    expected = pytest.approx(np.abs(errors).mean(), rel=1e-2)
    assert scores["n-gram linear regression"]["mae"] == expected


def labelled(targets: list[int]) -> Examples:
    count = len(targets)
    vectors = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    examples = Examples(np.arange(count), vectors=vectors)
    return replace(examples, targets=np.array(targets))


def test_trees_grow_though_a_label_stands_there_once() -> None:
    # from 10,000 rows on some of each label are set apart, to stop early
    targets = [n % 2 for n in range(10_050)]
    targets[7] = 2
    examples = labelled(targets)
    data: Any = None
    split = Split(data, data, examples, examples)
    scores = baselines.boosted(split, lambda labels: {"n": len(labels)}, classes=True)
    assert scores == {"n": 10_050}


@pytest.mark.parametrize("targets", [[0] * 20, list(range(60)) * 2])
def test_trees_leave_out_one_label_and_very_many(targets: list[int]) -> None:
    examples = labelled(targets)
    data: Any = None
    split = Split(data, data, examples, examples)
    assert baselines.boosted(split, lambda labels: {}, classes=True) is None
