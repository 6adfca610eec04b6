"""``unrolled predict``: rows, files and streams in; one answer a line out and nothing else."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unrolled as package
from conftest import reviews, write_csv, write_jsonl

Call = Callable[..., tuple[str, str]]


def test_one_line_a_row_and_nothing_else(cli: Call, home: SimpleNamespace) -> None:
    rows = [text for text, _ in reviews(5, 3)] + [""]
    out, err = cli("predict", home.runs["classify"], *rows)
    assert out.splitlines() == package.load(home.runs["classify"]).predict(rows)
    assert err == ""


@pytest.mark.parametrize("row", ["7, 6", "7,6", " 7 ,6 ", "7, 6, 42"])
def test_a_row_of_numbers_is_read_as_the_file_writes_it(
    cli: Call, home: SimpleNamespace, row: str
) -> None:
    expected = package.load(home.runs["vectors"]).predict([(7, 6)])
    assert cli("predict", home.runs["vectors"], row)[0].splitlines() == expected


def test_a_row_may_begin_with_a_minus(cli: Call, home: SimpleNamespace) -> None:
    run = home.runs["vectors"]
    expected = package.load(run).predict([(-5, 3), (-0.5, 3), (1, 2)])
    for words in (["-5, 3", "-.5,3", "1,2"], ["--", "-5, 3", "-.5,3", "1,2"]):
        assert cli("predict", run, *words)[0].splitlines() == expected
    out, _ = cli("predict", run, "-5, 3", "--json")
    assert json.loads(out)["input"] == "-5, 3"
    assert cli("predict", home.runs["classify"], "--", "- lovely -")[0] in (
        "good\n",
        "bad\n",
    )
    assert "there is no such run" in cli("predict", "-5, 3", "4", code=1)[1]


def test_json_is_one_object_a_line(cli: Call, home: SimpleNamespace) -> None:
    rows = ['lovely "film"', "별로\tfilm"]
    out, err = cli("predict", home.runs["classify"], "--json", *rows)
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["input"] for answer in answers] == rows
    for answer in answers:
        assert set(answer) == {"input", "answer", "probability", "probabilities"}
        assert answer["probabilities"][answer["answer"]] == answer["probability"]
    assert "별로" in out
    assert err == ""
    (tags,) = map(
        json.loads,
        cli("predict", home.runs["tag"], "the cat", "--json")[0].splitlines(),
    )
    assert tags["tags"] == ["D", "N"]


@pytest.mark.parametrize("header", [("id", "text", "label"), ("id", "text"), ()])
def test_a_file_gives_its_answers_on_stdout(
    cli: Call, home: SimpleNamespace, tmp_path: Path, header: tuple[str, ...]
) -> None:
    rows = reviews(300, 14)  # more than are answered together
    if header:
        table: list[Any] = [(n, *row)[: len(header)] for n, row in enumerate(rows)]
    else:
        table = rows  # a file without header shares the positions of the training file
    path = write_csv(tmp_path / "new.csv", table, header)
    out, err = cli("predict", home.runs["classify"], "--file", path)
    expected = package.load(home.runs["classify"]).predict([text for text, _ in rows])
    assert out.splitlines() == expected
    assert err == ""


def test_json_of_a_file_keeps_its_columns(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(
        tmp_path / "n.csv", [("x", "lovely", "b")], ("answer", "text", "probability")
    )
    (answer,) = map(
        json.loads,
        cli("predict", home.runs["classify"], "--file", path, "--json")[0].splitlines(),
    )
    assert (answer["answer"], answer["text"], answer["probability"]) == (
        "x",
        "lovely",
        "b",
    )
    assert answer["answer_"] in ("good", "bad")
    assert 0 <= answer["probability_"] <= 1


def test_csv_keeps_the_columns_and_adds_two(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [
        (n, text, 'a "quote", and\nmore') for n, (text, _) in enumerate(reviews(30, 14))
    ]
    path = write_csv(tmp_path / "new.csv", rows, ("id", "text", "note"))
    out, err = cli(
        "predict", home.runs["classify"], "--file", path, "-o", tmp_path / "a/b.csv"
    )
    assert (out, err) == ("", "")
    with (tmp_path / "a/b.csv").open(newline="", encoding="utf-8") as handle:
        header, *body = csv.reader(handle)
    assert header == ["id", "text", "note", "answer", "probability"]
    assert [row[:3] for row in body] == [[str(n), text, note] for n, text, note in rows]
    answers = package.load(home.runs["classify"]).answers([text for _, text, _ in rows])
    assert [row[3] for row in body] == [answer.text for answer in answers]
    for row, answer in zip(body, answers, strict=True):
        assert float(row[4]) == pytest.approx(answer.probability, abs=1e-5)


def test_jsonl_keeps_the_columns_and_adds_the_answer(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [{"nr": 1, "words": ["the", "cat"]}, {"nr": 2, "words": ["dog"]}]
    path = write_jsonl(tmp_path / "n.jsonl", rows)
    output = tmp_path / "o.jsonl"
    assert cli("predict", home.runs["tag"], "--file", path, "-o", output) == ("", "")
    answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [
        (answer["nr"], answer["words"], answer["answer"]) for answer in answers
    ] == [
        (1, ["the", "cat"], "D N"),
        (2, ["dog"], "N"),
    ]
    assert cli(
        "predict", home.runs["tag"], "--file", path, "-o", tmp_path / "o.csv"
    ) == ("", "")
    with (tmp_path / "o.csv").open(newline="") as handle:
        assert next(csv.DictReader(handle))["words"] == '["the", "cat"]'


def test_a_faulty_row_is_named_and_what_stands_before_it_is_answered(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "n.csv"
    path.write_text("".join(f"{n % 9},{n % 7}\n" for n in range(300)) + "3,what\n")
    output = tmp_path / "o.jsonl"
    _, err = cli("predict", home.runs["vectors"], "--file", path, "-o", output, code=1)
    assert (
        f"{path}:301: column 'column2' holds 'what' where a number is expected" in err
    )
    assert not output.exists()
    kept = tmp_path / "o.partial.jsonl"
    assert f"what was answered before (300 rows) is in {kept}" in err
    assert len(kept.read_text().splitlines()) == 300


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("o.xlsx", 2, "end the name in .csv, .jsonl, .txt"),
        ("rows.csv", 2, "is the file that is read; choose another name"),
        ("rows.csv/o.csv", 1, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_is_refused(
    cli: Call, home: SimpleNamespace, tmp_path: Path, name: str, code: int, message: str
) -> None:
    path = write_csv(tmp_path / "rows.csv", [("a film",)], ("text",))
    before = path.read_bytes()
    _, err = cli(
        "predict",
        home.runs["classify"],
        "--file",
        path,
        "-o",
        tmp_path / name,
        code=code,
    )
    assert message in err
    assert path.read_bytes() == before


def test_a_file_without_the_column_is_refused(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "rows.csv", [("a film", 3)] * 4, ("opinion", "nr"))
    _, err = cli("predict", home.runs["classify"], "--file", path, code=1)
    assert "there is no column 'text'" in err
    assert (
        "no such file"
        in cli("predict", home.runs["classify"], "--file", "no.csv", code=1)[1]
    )


def test_rows_that_were_skipped_are_told_beside_the_answers(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    from conftest import SMALL

    run = package.train(
        home.files["vectors"],
        out=tmp_path / "r",
        quiet=True,
        say=lambda text: None,
        **SMALL | {"data.on_error": "skip", "training.max_steps": 1},
    )
    path = tmp_path / "n.csv"
    path.write_text("1,2\n" * 5 + "1,2,3,4\n" + "4,5\n")
    out, err = cli("predict", run.folder, "--file", path)
    assert [bool(line) for line in out.splitlines()] == [True] * 5 + [False, True]
    assert f"unrolled: skipped 1 faulty row; the first: {path}:6: " in err


@pytest.mark.parametrize("kind", ["regress", "vectors"])
def test_a_number_is_answered_without_a_probability(
    cli: Call, home: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    answer = json.loads(cli("predict", home.runs[kind], "3, 21", "--json")[0])
    assert set(answer) == {"input", "answer", "value"}
    path = tmp_path / "n.csv"
    output = tmp_path / "o.csv"
    path.write_text(("rooms,area\n" if kind == "regress" else "") + "3,21\n4,22\n")
    cli("predict", home.runs[kind], "--file", path, "-o", output)
    body = output.read_text().splitlines()
    assert body[0].endswith(",answer")
    assert body[1] == f"3,21,{answer['answer']}"


def test_a_language_model_is_told_to_generate(cli: Call, home: SimpleNamespace) -> None:
    _, err = cli("predict", home.runs["language"], "row", code=2)
    assert "use `unrolled generate RUN --prompt TEXT`" in err


def test_a_language_model_answers_no_lines(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("row\n", encoding="utf-8")
    for words in (["--live"], ["row"], ["--file", rows]):
        out, err = cli("predict", home.runs["language"], *words, code=2)
        assert out == ""
        assert "use `unrolled generate RUN --prompt TEXT`" in err


def live(run: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "unrolled", "predict", str(run), "--live", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        # an empty PYTHONUNBUFFERED leaves the output buffered, whatever the shell of the tests says
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict", "PYTHONUNBUFFERED": ""},
    )


@pytest.mark.timeout(60)
def test_live_answers_each_line_before_the_next_is_written(
    home: SimpleNamespace,
) -> None:
    rows = [
        "great film number 3 lovely",
        "boring film number 4 별로",
        "",
        'a "quote, 한국',
    ]
    process = live(home.runs["classify"])
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    answers = []
    for row in rows:  # a program that waits for more input would stop here for good
        process.stdin.write(row.encode() + b"\n")
        answers.append(process.stdout.readline().decode().rstrip("\n"))
    assert answers == package.load(home.runs["classify"]).predict(rows)
    process.stdin.write(b"\xff\xfe broken bytes\n")
    assert process.stdout.readline() in (b"good\n", b"bad\n")
    process.stdin.write(b"the last line has no end")
    process.stdin.close()
    assert process.stdout.readline() in (b"good\n", b"bad\n")
    assert process.stdout.read() == b""
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    process.stderr.close()


@pytest.mark.timeout(60)
def test_a_live_line_that_cannot_be_answered_keeps_the_count(
    home: SimpleNamespace,
) -> None:
    process = live(home.runs["vectors"], "--json")
    out, err = process.communicate(b"7, 6\nseven, 6\n\n-3, 4\n", timeout=60)
    answers = [json.loads(line) for line in out.decode().splitlines()]
    assert [answer["input"] for answer in answers] == ["7, 6", "seven, 6", "", "-3, 4"]
    assert [bool(answer["answer"]) for answer in answers] == [True, False, False, True]
    messages = err.decode().splitlines()
    assert [line.split(": ")[:2] for line in messages] == [
        ["unrolled", "line 2"],
        ["unrolled", "line 3"],
    ]
    assert process.returncode == 0


def test_a_file_may_lack_the_label_in_some_rows(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [{"nr": 1, "words": ["the"], "tags": ["D"]}, {"words": ["dog"]}, {"nr": 3}]
    path = write_jsonl(tmp_path / "n.jsonl", rows[:2])
    output = tmp_path / "o.jsonl"
    assert cli("predict", home.runs["tag"], "--file", path, "-o", output) == ("", "")
    answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [answer["answer"] for answer in answers] == ["D", "N"]
    assert answers[1]["tags"] is None
    _, err = cli("predict", home.runs["tag"], "--file", write_jsonl(path, rows), code=1)
    assert "n.jsonl:3: the key 'words'" in err


def test_an_answered_row_is_json_whatever_it_held(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "n.jsonl"
    output = tmp_path / "o.jsonl"
    path.write_text('{"nr": 1e999, "words": ["dog"]}\n')
    cli("predict", home.runs["tag"], "--file", path, "-o", output)
    assert "Infinity" not in output.read_text()
    assert json.loads(output.read_text())["nr"] is None


def test_the_columns_of_another_file_can_be_named(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [(text, n) for n, (text, _) in enumerate(reviews(30, 4))]
    write_csv(tmp_path / "other.csv", rows, ("said", "number"))
    run = home.runs["classify"]
    assert (
        "data.text" in cli("predict", run, "--file", tmp_path / "other.csv", code=1)[1]
    )
    out, _ = cli("predict", run, "--file", tmp_path / "other.csv", "data.text=said")
    assert out.splitlines() == package.load(run).predict([text for text, _ in rows])


def test_a_faulty_cell_is_named_or_skipped_with_an_empty_answer(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("3,4\nmany,4\n5,6\n")
    run = home.runs["vectors"]
    _, err = cli("predict", run, "--file", tmp_path / "rows.csv", code=1)
    assert "rows.csv:2: " in err
    out, err = cli(
        "predict", run, "--file", tmp_path / "rows.csv", "data.on_error=skip"
    )
    assert [bool(line) for line in out.splitlines()] == [True, False, True]
    assert "skipped 1 faulty row" in err


@pytest.mark.parametrize("name", ["path", "self", "changes"])
def test_a_key_of_a_file_is_no_argument(
    home: SimpleNamespace, cli: Call, tmp_path: Path, name: str
) -> None:
    path = write_csv(tmp_path / "new.csv", [("a good film",)], ("text",))
    run = str(home.runs["classify"])
    _, err = cli("predict", run, "--file", str(path), f"{name}=x", code=2)
    assert f"{name} cannot change in a trained run" in err
