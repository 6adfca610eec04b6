"""How a file is understood, as people read it and as programs do; rows and streams as typed."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unrolled
from conftest import SMALL, SONG, Call, reviews, write_csv, write_jsonl

KEYS = [f"{key}={value}" for key, value in SMALL.items()]
FACTS = {
    "file",
    "format",
    "rows",
    "reads",
    "predicts",
    "task",
    "labels",
    "label_names",
    "leaves_out",
    "units",
    "warnings",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def facts(cli: Call, path: Path | str, *words: str) -> dict[str, Any]:
    out, err = cli("train", path, *KEYS, *words, "--dry-run", "--json")
    assert err == ""
    known = json.loads(out)
    assert known.keys() == FACTS
    return dict(known)


# ---------------------------------------------------------------------- train --dry-run --json


def test_a_table_of_several_kinds_of_columns(cli: Call, tmp_path: Path) -> None:
    rows = [
        (n, f"{n} is the number of the house", n % 7, "ab"[n % 2], 3 * n + 0.5)
        for n in range(60)
    ]
    rows[4] = (4, *rows[4][1:2], "?", *rows[4][3:])  # type: ignore[assignment]
    path = write_csv(tmp_path / "t.csv", rows, ("id", "note", "rooms", "kind", "price"))
    known = facts(cli, path)
    assert known["rows"] == 60
    assert known["reads"] == ["note", "rooms", "kind"]
    assert (known["predicts"], known["task"]) == ("price", "regress")
    assert (known["labels"], known["label_names"]) == (None, None)
    assert known["leaves_out"] == ["id"]
    (warning,) = known["warnings"]
    assert (warning["key"], warning["line"]) == ("data.missing", 6)
    assert "rooms holds no number in 1 row (line 6)" in warning["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_labels_are_counted_and_named(cli: Call, tmp_path: Path) -> None:
    rows = [
        (text, label.upper() if n == 9 else label)
        for n, (text, label) in enumerate(reviews(80, 3))
    ]
    known = facts(cli, write_csv(tmp_path / "t.csv", rows, ("text", "label")))
    assert known["labels"] == 3
    assert set(known["label_names"]) >= {"good", "bad"}
    (warning,) = known["warnings"]
    assert "labels that differ by case alone are 2 labels" in warning["message"]


@pytest.mark.parametrize("kind", ["classify", "regress", "vectors", "tag", "language"])
def test_what_is_said_is_what_is_trained(
    cli: Call, home: SimpleNamespace, kind: str
) -> None:
    known = facts(cli, home.files[kind])
    task = unrolled.load(home.runs[kind]).task
    assert known["task"] == task.name
    assert sorted(known["reads"]) == sorted(task.schema.inputs)
    assert known["predicts"] == task.schema.answer
    assert known["label_names"] == (list(task.class_names) or None)
    assert known["warnings"] == []


def test_a_running_text_is_one_row(cli: Call, tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text(SONG * 30, encoding="utf-8")
    known = facts(cli, "song.txt")
    assert (known["rows"], known["reads"], known["predicts"]) == (1, [], None)


def test_steps_are_counted_and_not_sequences(cli: Call, tmp_path: Path) -> None:
    rows = [(f"2021-01-{n + 1:02}", n % 5) for n in range(31)]
    path = write_csv(tmp_path / "t.csv", rows, ("day", "level"))
    known = facts(cli, path, "data.window=3")
    assert (known["rows"], known["reads"]) == (31, ["day", "level"])
    assert known["leaves_out"] == []


def test_json_is_for_a_dry_run_alone(cli: Call, home: SimpleNamespace) -> None:
    err = cli("train", home.files["classify"], "--json", code=2)[1]
    assert "--json is for --dry-run" in err


def test_a_file_that_cannot_be_read_says_so_and_prints_nothing(cli: Call) -> None:
    out, err = cli("train", "nowhere.csv", "--dry-run", "--json", code=2)
    assert out == ""
    assert "nowhere.csv" in err


# ---------------------------------------------------------------------- predict --probabilities

ROWS = [text for text, _ in reviews(12, 8)]


def probabilities(home: SimpleNamespace) -> list[dict[str, float]]:
    answers = unrolled.load(home.runs["classify"]).answers(ROWS)
    return [answer.details["probabilities"] for answer in answers]


def test_each_line_has_the_probability_of_each_label(
    cli: Call, home: SimpleNamespace
) -> None:
    out, _ = cli("predict", home.runs["classify"], "--probabilities", *ROWS)
    for line, known in zip(out.splitlines(), probabilities(home), strict=True):
        answer, bad, good = line.split("\t")
        assert float(bad) == pytest.approx(known["bad"], abs=1e-6)
        assert float(good) == pytest.approx(known["good"], abs=1e-6)
        assert float(bad) + float(good) == pytest.approx(1, abs=2e-6)
        assert answer == max(known, key=known.__getitem__)


def test_every_format_has_the_probability_of_each_label(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "new.csv", [(row,) for row in ROWS], ("text",))
    words = ("predict", home.runs["classify"], "--file", path, "--probabilities")
    known = probabilities(home)
    for ending in ("csv", "jsonl", "txt"):
        assert cli(*words, "-o", f"a.{ending}") == ("", "")
    with Path("a.csv").open(newline="", encoding="utf-8") as handle:
        table = list(csv.DictReader(handle))
    assert list(table[0]) == [
        "text",
        "answer",
        "probability",
        "probability_bad",
        "probability_good",
    ]
    lines = Path("a.txt").read_text("utf-8").splitlines()
    printed = cli(*words)[0].splitlines()
    assert printed == lines
    objects = map(json.loads, Path("a.jsonl").read_text("utf-8").splitlines())
    for row, line, value, truth in zip(table, lines, objects, known, strict=True):
        assert line.split("\t")[1:] == [row["probability_bad"], row["probability_good"]]
        assert float(row["probability_good"]) == pytest.approx(truth["good"], abs=1e-6)
        assert value["probabilities"] == pytest.approx(truth, abs=1e-6)
        assert row["probability"] == row[f"probability_{row['answer']}"]


def test_a_column_of_that_name_is_kept(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "n.csv", [("lovely", "x")], ("text", "probability_bad"))
    cli(
        "predict",
        home.runs["classify"],
        "--file",
        path,
        "--probabilities",
        "-o",
        "a.csv",
    )
    with Path("a.csv").open(newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert row["probability_bad"] == "x"
    assert 0 <= float(row["probability_bad_"]) <= 1


def test_a_faulty_row_has_empty_probabilities(
    cli: Call, home: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("lovely\n" + "a" * 2_000_000 + "\n"))
    out, err = cli("predict", home.runs["classify"], "--live", "--probabilities")
    first, second = out.splitlines()
    assert len(first.split("\t")) == 3
    assert second == "\t\t"
    assert "line 2: " in err


@pytest.mark.parametrize(("kind", "row"), [("vectors", "3, 4"), ("tag", "the cat")])
def test_what_has_no_labels_of_a_row_has_no_probabilities(
    cli: Call, home: SimpleNamespace, kind: str, row: str
) -> None:
    err = cli("predict", home.runs[kind], "--probabilities", row, code=2)[1]
    assert (
        "--probabilities is for runs that answer a row with one of some labels" in err
    )


def test_a_value_has_no_column_of_probabilities(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "n.csv", [(3, 4), (5, 6)])
    cli("predict", home.runs["vectors"], "--file", path, "-o", "a.csv")
    head = Path("a.csv").read_text("utf-8").splitlines()[0]
    assert head.endswith(",answer")


# ---------------------------------------------------------------------- predict --file -


def from_stdin(
    cli: Call, monkeypatch: pytest.MonkeyPatch, content: str, *words: Any, code: int = 0
) -> tuple[str, str]:
    stream = io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    return cli("predict", *words, code=code)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "tsv"])
def test_standard_input_is_read_like_a_file(
    cli: Call, home: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = Path(f"new.{ending}")
    if ending == "jsonl":
        write_jsonl(path, [{"nr": n, "text": row} for n, row in enumerate(ROWS)])
    else:
        mark = "\t" if ending == "tsv" else ","
        lines = [f"{n}{mark}{row}" for n, row in enumerate(ROWS)]
        path.write_text("\n".join([f"nr{mark}text", *lines]) + "\n", encoding="utf-8")
    folder = home.runs["classify"]
    expected = cli("predict", folder, "--file", path, "--probabilities")
    content = path.read_text("utf-8")
    words = (folder, "--file", "-", "--probabilities")
    assert from_stdin(cli, monkeypatch, content, *words) == expected
    from_stdin(cli, monkeypatch, content, folder, "--file", "-", "-o", "a.csv")
    cli("predict", folder, "--file", path, "-o", "b.csv")
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


@pytest.mark.parametrize("name", ["-", "new.txt", "new.csv"])
@pytest.mark.parametrize("head", ["text", '"text"', ""])
def test_a_header_of_one_column_is_no_row(
    cli: Call,
    home: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    head: str,
) -> None:
    content = "\n".join([*([head] if head else []), *ROWS]) + "\n"
    Path("new.txt").write_text(content, encoding="utf-8")
    Path("new.csv").write_text(content, encoding="utf-8")
    folder = home.runs["classify"]
    out, err = from_stdin(cli, monkeypatch, content, folder, "--file", name)
    assert out.splitlines() == unrolled.load(folder).predict(ROWS)
    assert err == ""


def test_an_error_in_standard_input_says_the_line_and_no_copy(
    cli: Call, home: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "rooms,area\n3,20\n4,x\n"
    words = (home.runs["regress"], "--file", "-")
    err = from_stdin(cli, monkeypatch, content, *words, code=1)[1]
    assert "unrolled: standard input:3: column 'area' holds 'x'" in err
    skipping = (*words, "data.on_error=skip")
    out, err = from_stdin(cli, monkeypatch, content, *skipping)
    assert len(out.splitlines()) == 2
    assert "the first: standard input:3: column 'area' holds 'x'" in err
    err = from_stdin(cli, monkeypatch, "a,b\n1,2\n", *words, code=1)[1]
    assert err.startswith("unrolled: standard input:1: there is no column 'rooms'")


# ---------------------------------------------------------------------- rows as typed


def test_cells_are_typed_in_the_order_of_the_file(
    cli: Call, home: SimpleNamespace
) -> None:
    folder = home.runs["regress"]
    run = unrolled.load(folder)
    (expected,) = run.predict([{"area": 22, "rooms": 3}])
    typed = [
        "3,22",
        "3,22,99",
        '{"area": 22, "rooms": "3"}',
        '{"rooms": 3, "area": 22}',
    ]
    assert cli("predict", folder, *typed)[0].splitlines() == [expected] * 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"rooms": 3}', "has no 'area'; expected rooms, area"),
        ('{"rooms": 3, "area": "x"}', "column 'area' holds 'x'"),
        ("3", "has 1 cell; expected 2: rooms, area"),
        ('{"rooms": 3, ', ""),
    ],
)
def test_what_is_wrong_with_a_typed_row_is_one_line(
    cli: Call, home: SimpleNamespace, row: str, message: str
) -> None:
    assert message in cli("predict", home.runs["regress"], row, code=1)[1]


def test_a_text_may_look_like_an_object(cli: Call, home: SimpleNamespace) -> None:
    row = '{"text": "lovely"}'
    expected = unrolled.load(home.runs["classify"]).predict([(row,)])
    assert cli("predict", home.runs["classify"], row)[0].splitlines() == expected
