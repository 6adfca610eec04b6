"""Classify and regress: scores recomputed with scikit-learn from single answers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics

import unrolled
from conftest import reviews, write_csv
from unrolled.core.errors import DataError, UserError
from unrolled.tasks import classify


def test_the_scores_of_a_classifier_are_those_of_its_answers(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["classify"])
    rows = reviews(150, 77, wrong=0.3)
    scores = run.evaluate(write_csv(tmp_path / "test.csv", rows, ("text", "label")))
    answers = run.answers([text for text, _ in rows])
    truth = [label for _, label in rows]
    predicted = [answer.text for answer in answers]
    assert 0.5 < scores["accuracy"] < 1
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(truth, predicted, average="macro")
    )
    shares = [
        [answer.details["probabilities"][k] for k in ("bad", "good")]
        for answer in answers
    ]
    assert scores["loss"] == pytest.approx(
        metrics.log_loss(truth, shares, labels=["bad", "good"]), rel=1e-5
    )


def test_an_answer_is_the_likeliest_label_with_its_probability(
    home: SimpleNamespace,
) -> None:
    run = unrolled.load(home.runs["classify"])
    for answer in run.answers(["lovely film", "awful film", "", "unseen 글자"]):
        shares = answer.details["probabilities"]
        assert sum(shares.values()) == pytest.approx(1)
        assert answer.probability == max(shares.values()) == shares[answer.text]
    assert run.predict(["great film number 3 lovely", "boring film number 4 별로"]) == [
        "good",
        "bad",
    ]


def test_a_row_is_answered_alike_alone_and_among_others(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["classify"])
    rows = [text for text, _ in reviews(40, 5)] + ["a" * 90, ""]
    together = [answer.probability for answer in run.answers(rows)]
    alone = [run.answers([row])[0].probability for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("kind", ["regress", "vectors"])
def test_the_scores_of_a_regression_are_those_of_its_answers(
    home: SimpleNamespace, kind: str
) -> None:
    run = unrolled.load(home.runs[kind])
    path = home.files[kind]
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))[1 if kind == "regress" else 0 :]
    truth = [float(row[-1]) for row in rows]
    predicted = [
        answer.details["value"] for answer in run.answers([row[:-1] for row in rows])
    ]
    scores = run.evaluate(path)
    assert scores["mae"] == pytest.approx(
        metrics.mean_absolute_error(truth, predicted), rel=1e-5
    )
    assert scores["rmse"] == pytest.approx(
        metrics.root_mean_squared_error(truth, predicted), rel=1e-5
    )
    assert scores["rmse"] < np.std(truth)


def test_whole_numbers_are_answered_whole_and_others_not(home: SimpleNamespace) -> None:
    whole = unrolled.load(home.runs["vectors"]).answers([(7, 6)])[0]
    assert whole.text == str(round(whole.details["value"]))
    other = unrolled.load(home.runs["regress"]).answers([(3, 21)])[0]
    assert float(other.text) == pytest.approx(other.details["value"], rel=1e-5)
    assert "." in other.text


def test_a_file_of_other_columns_is_refused_until_they_are_named(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["classify"])
    rows = reviews(30, 8)
    path = write_csv(
        tmp_path / "t.csv",
        [(n, label, text) for n, (text, label) in enumerate(rows)],
        ("nr", "verdict", "opinion"),
    )
    with pytest.raises(
        DataError, match=r"t\.csv:1: there is no column 'text'.*data\.text="
    ):
        run.evaluate(path)
    named = run.evaluate(path, **{"data.text": "opinion", "data.label": "verdict"})
    plain = run.evaluate(write_csv(tmp_path / "u.csv", rows, ("text", "label")))
    assert named == plain


def test_a_file_without_header_is_read_by_position(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["classify"])
    rows = reviews(30, 8)
    bare = run.evaluate(write_csv(tmp_path / "t.csv", rows))
    assert bare == run.evaluate(write_csv(tmp_path / "u.csv", rows, ("text", "label")))


def test_how_much_was_trained_on_does_not_bound_what_is_scored(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    from conftest import SMALL

    rows = reviews(90, 8, wrong=0.5)
    path = write_csv(tmp_path / "t.csv", rows, ("text", "label"))
    run = unrolled.train(
        home.files["classify"],
        out=tmp_path / "r",
        quiet=True,
        say=lambda text: None,
        **SMALL | {"data.limit": 40, "training.max_steps": 2},
    )
    right = [
        a == label
        for a, (_, label) in zip(run.predict([t for t, _ in rows]), rows, strict=True)
    ]
    assert run.evaluate(path)["accuracy"] == pytest.approx(np.mean(right))
    first = run.evaluate(path, **{"data.limit": 10})
    assert first["accuracy"] == pytest.approx(np.mean(right[:10]))


def test_skipped_rows_of_a_scored_file_are_told(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["classify"])
    rows = reviews(9, 8)
    path = write_csv(tmp_path / "t.csv", [*rows, ("x", "neutral")], ("text", "label"))
    notices: list[str] = []
    with pytest.raises(DataError, match=r"t\.csv:11: label 'neutral' was not seen"):
        run.evaluate(path)
    run.evaluate(path, notice=notices.append, **{"data.on_error": "skip"})
    (line,) = notices
    assert line.startswith(
        f"skipped 1 faulty row; the first: {path}:11: label 'neutral'"
    )


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("vectors", "7", "'7' has 1 cell; expected 2: column1, column2"),
        ("vectors", "7, x", "column 'column2' holds ' x' where a number is expected"),
        ("vectors", "1, 2, 3, 4", "has 4 fields, but the data has 3 columns"),
        ("vectors", (1, 2, 3), "has 3 cells; expected column1, column2"),
        ("regress", {"rooms": 3}, "has no 'area'; expected rooms, area"),
    ],
)
def test_a_row_that_does_not_fit_says_what_is_expected(
    home: SimpleNamespace, kind: str, row: object, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        unrolled.load(home.runs[kind]).predict([row])
    assert message in str(caught.value)


def test_every_way_to_write_a_row_gives_the_same_answer(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["vectors"])
    rows = ["7, 6", "7,6", (7, 6), {"column1": 7, "column2": "6"}, "7, 6, 42"]
    assert len({json.dumps(a.details) for a in run.answers(rows)}) == 1
    assert run.predict([]) == []


def test_ngrams_learn_what_a_layer_without_memory_for_order_cannot(
    tmp_path: Path,
) -> None:
    # the label is whether "ab" stands in the row; every letter occurs as often under both labels
    rows = [
        ("".join(p), "yes" if "ab" in "".join(p) else "no")
        for p in permutations("abcde")
    ]
    path = write_csv(tmp_path / "order.csv", rows, ("text", "label"))
    changes = {
        "layer": "none",
        "data.tokenizer": "chars",
        "data.dev": str(path),
        "model.hidden": 8,
        "model.bidirectional": False,
        "model.ngram_dropout": 0.0,
        "training.max_steps": 150,
        "training.threads": 1,
        "training.precision": "fp32",
        "training.learning_rate": 0.05,
    }
    scores = {}
    for longest in (0, 2):
        out = tmp_path / str(longest)
        run = unrolled.train(
            path, out=out, quiet=True, **changes, **{"model.ngrams": longest}
        )
        scores[longest] = run.result["scores"]["accuracy"]
        assert run.evaluate(path)["accuracy"] == scores[longest]
    # without order nothing but the larger label can be answered
    majority = sum(label == "no" for _, label in rows) / len(rows)
    assert scores == {0: pytest.approx(majority), 2: 1.0}


@pytest.mark.parametrize("scores", [1, 3, 10**9])
def test_scores_are_the_same_whatever_is_looked_at_together(
    home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    run = unrolled.load(home.runs["classify"])
    path = write_csv(tmp_path / "t.csv", reviews(50, 77, wrong=0.3), ("text", "label"))
    whole = run.evaluate(path)
    monkeypatch.setattr(classify, "SIDE_BY_SIDE", scores)
    # sums of 50 float64 numbers, in another order
    assert run.evaluate(path) == pytest.approx(whole, rel=1e-14)


def test_many_labels_take_no_memory_by_their_square(tmp_path: Path) -> None:
    rows = [(f"w{n} a", f"l{n}") for n in range(6000)] * 2
    path = write_csv(tmp_path / "t.csv", rows, ("text", "label"))
    code = (
        "import re, sys, unrolled\n"
        "unrolled.train(sys.argv[1], out=sys.argv[2], quiet=True, say=lambda text: None,\n"
        "    training={'max_steps': 1, 'threads': 1}, model={'hidden': 4, 'embedding': 4})\n"
        # not ru_maxrss, which begins with that of the process that made this one
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, path, out],
        capture_output=True,
        text=True,
        check=True,
    )
    # 0.6 GB on Linux, most of them libraries; a regression over the labels took 2.2 GB
    assert int(done.stdout.split()[-1]) < 1_200_000
