"""``unrolled doctor``, and what a training says of its data before it starts."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import SMALL, reviews, write_csv
from unrolled.cli.main import _run

Call = Callable[..., tuple[str, str]]
KEYS = [f"{key}={value}" for key, value in SMALL.items()]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = reviews(80, 6)
    write_csv(tmp_path / "train.csv", rows, ("text", "label"))
    write_csv(tmp_path / "copied.csv", rows[:20], ("text", "label"))
    write_csv(tmp_path / "dev.csv", reviews(240, 7)[80:], ("text", "label"))


def test_sound_data_and_model(cli: Call, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    out, err = cli("doctor", "train.csv", "data.dev=dev.csv", *KEYS)
    assert err == ""
    assert "train.csv: comma-separated, header, UTF-8, 80 rows" in out
    assert "as drawn, before training" in out
    rows = [line.split()[0] for line in out.splitlines()[3:] if line[:1].strip()]
    assert set(rows[:-1]) == {"ok"}
    assert " 0 warning, 0 problem" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_problem_is_an_exit_code_and_says_where_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unrolled", "doctor", "train.csv", "data.dev=copied.csv", *KEYS]
    monkeypatch.setattr(sys, "argv", words)
    assert _run() == 1
    out, err = capsys.readouterr()
    assert err == ""
    shown = " ".join(out.split())
    assert "problem rows in both parts 20 of 20 scored rows (100.0%)" in shown
    assert "copied.csv:2 = train.csv:2" in shown
    assert "-> take them out of one part" in shown
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    assert _run() == 1
    report = json.loads(capsys.readouterr().out)
    assert report["problem"] == 1
    (problem,) = [check for check in report["checks"] if check["status"] == "problem"]
    assert problem["name"] == "rows in both parts"
    assert problem["where"].startswith("copied.csv:2 = train.csv:2")
    assert problem["advice"]


@pytest.mark.parametrize("kind", ["classify", "vectors", "language"])
def test_a_run_is_checked_with_its_weights(
    cli: Call, home: SimpleNamespace, kind: str
) -> None:
    report = json.loads(cli("doctor", home.runs[kind], "--json")[0])
    assert report["trained"]
    assert report["problem"] == 0
    (first,) = [
        check for check in report["checks"] if check["name"] == "loss against a guess"
    ]
    assert "after training" in first["found"]


def test_what_is_not_there_is_said_as_train_says_it(cli: Call) -> None:
    assert "did you mean 'train.csv'" in cli("doctor", "trian.csv", code=2)[1]
    assert "model.hidden" in cli("doctor", "train.csv", "hidden=3", code=2)[1]


def test_a_training_warns_before_it_starts_and_only_then(
    cli: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["training.max_steps=2", *KEYS]
    out, _ = cli("train", "train.csv", "data.dev=copied.csv", "--out", "a", *quick)
    lines = out.split("\n\n")[0].splitlines()
    assert "problem: 20 of 20 scored rows (100.0%) also stand in training" in lines[-3]
    # the same plan, not the same file alone
    assert lines[-1].startswith(
        "more: unrolled doctor train.csv data.dev=copied.csv training."
    )
    monkeypatch.setattr(sys, "argv", shlex.split(lines[-1].removeprefix("more: ")))
    assert _run() == 1
    assert "20 of 20 scored rows" in " ".join(capsys.readouterr().out.split())
    out, _ = cli("train", "train.csv", "data.dev=dev.csv", "--out", "b", *quick)
    assert "unrolled doctor" not in out
    assert "run: b" in out.split("\n\n")[0].splitlines()[-1]
    out, _ = cli("train", "a", "--resume", "training.max_steps=3")
    assert "unrolled doctor" not in out


def test_in_a_pipe_no_line_is_wrapped(cli: Call, tmp_path: Path) -> None:
    rows = [(f"{text} {'and so on ' * 9}", label) for text, label in reviews(60, 6)]
    write_csv(tmp_path / "a_rather_long_name_of_a_file.csv", rows, ("text", "label"))
    name = "a_rather_long_name_of_a_file.csv"
    words = ("doctor", name, "data.max_tokens=20", "model.embedding=8", *KEYS)
    out, _ = cli(*words)
    report = json.loads(cli(*words, "--json")[0])
    lines = out.splitlines()
    shown = {}
    for check in report["checks"]:
        head = f"{check['status']:<7}  {check['name']:<23}  "
        (line,) = [line for line in lines if line.startswith(head)]
        shown[check["name"]] = line.removeprefix(head)
    (cut,) = [check for check in report["checks"] if check["name"] == "cut texts"]
    assert shown["cut texts"] == cut["found"]
    assert len(cut["found"]) > 60
    assert f"-> {cut['advice']}" in out
    assert all(line[:1].strip() or line.startswith(" ") for line in lines if line)


def test_what_is_doubtful_about_the_reading_is_said(cli: Call, tmp_path: Path) -> None:
    rows = [(n * 7 % 80, n % 5 if n != 9 else "NA", n % 2) for n in range(80)]
    write_csv(tmp_path / "n.csv", rows, ("a", "b", "label"))
    words = ("doctor", "n.csv", *KEYS, "--json")
    report = json.loads(cli(*words)[0])
    (reading,) = [c for c in report["checks"] if c["name"] == "how the data is read"]
    assert reading["status"] == "warning"
    assert "b holds no number in 1 row (line 11)" in reading["found"]
    assert reading["advice"] == "data.missing"
