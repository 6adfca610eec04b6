"""The study: what is written, resumed, refused and shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unrolled.core.errors import UsageError, UserError
from unrolled.studies import recall
from unrolled.studies.recall import RecallPlan, study
from unrolled.studies.recall_page import curves, page, text_lines

Call = Callable[..., tuple[str, str]]
SMALL = RecallPlan(("none", "gru"), ("delay", "adding"), (2, 4), 5.0, 0, 3, 1)
WORDS = (
    *("--layers", "none,gru", "--tasks", "delay,adding", "--delays", "2,4"),
    *("--minutes", 5, "--updates", 3, "--threads", 1),
)


LONGER = replace(SMALL, updates=30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """The results of a study that nobody stopped."""
    results = study(LONGER, tmp_path_factory.mktemp("whole"), lambda line: None)
    return without_times(results)


def without_times(document: dict[str, object]) -> list[dict[str, object]]:
    rows = document["rows"]
    assert isinstance(rows, list)
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def test_json_page_and_files(cli: Call, tmp_path: Path) -> None:
    out, err = cli("recall", *WORDS, "-o", tmp_path / "study", "--json")
    document = json.loads(out)
    assert json.loads((tmp_path / "study" / "recall.json").read_text()) == document
    keys = {(row["layer"], row["task"], row["delay"]) for row in document["rows"]}
    assert len(keys) == len(document["rows"]) == 8
    for row in document["rows"]:
        assert 0 <= row["accuracy"] <= 1
        assert row["seconds"] > 0
        assert row["updates"] == 3
        assert row["stopped"] == "updates"
        assert row["began_with"] == (2 if row["delay"] == 4 else None)
    timed = {(row["layer"], row["length"]) for row in document["speed"]}
    assert timed == {("none", 2), ("none", 4), ("gru", 2), ("gru", 4)}
    assert document["chance"] == {"delay": 0.125, "adding": 0.0784}
    assert err.count("\n") == 12
    html = (tmp_path / "study" / "recall.html").read_text("utf-8")
    assert html.count('<svg class="chart"') == 5
    assert html.count("<table") == 5
    assert "http:" not in html


def test_a_finished_result_is_not_run_again(cli: Call, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    before, _ = cli("recall", *WORDS, "-o", folder, "--json")
    cell = folder / "cells" / "gru-adding-4.json"
    first = cell.read_bytes()
    cell.unlink()
    after, err = cli("recall", *WORDS, "-o", folder, "--json")
    assert "11 results there, 1 to go" in err
    assert without_times(json.loads(after)) == without_times(json.loads(before))
    assert json.loads(cell.read_text()).keys() == json.loads(first).keys()
    # a layer more is measured beside what is there
    words = ["none,gru,rnn" if word == "none,gru" else word for word in WORDS]
    _, err = cli("recall", *words, "-o", folder)
    assert "12 results there, 6 to go" in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stop_loses_no_result(
    number: int, tmp_path: Path, whole: list[dict[str, object]]
) -> None:
    folder = tmp_path / "study"
    words = [sys.executable, "-m", "unrolled", "recall", *map(str, WORDS)]
    words[words.index("--updates") + 1] = "30"
    process = subprocess.Popen(
        [*words, "-o", str(folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    cells = folder / "cells"
    while len(list(cells.glob("*-2.json"))) < 5 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, err = process.communicate()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert f"what is done stays in {folder}; the same command goes on" in err
        assert "Traceback" not in err
    kept = {path.name: path.read_bytes() for path in cells.glob("*.json")}
    assert all(json.loads(content) for content in kept.values())
    lines: list[str] = []
    resumed = study(LONGER, folder, lines.append)
    assert len(lines) == 13 - len(kept)
    assert {name: (cells / name).read_bytes() for name in kept} == kept
    assert without_times(resumed) == whole


def test_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    study(SMALL, tmp_path, lambda line: None)
    (tmp_path / "cells" / "gru-delay-4.json").unlink()
    (tmp_path / "cells" / "gru-delay-2.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"gru-delay-2.safetensors.*learnt again"):
        study(SMALL, tmp_path, lambda line: None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layers", "ltsm"), "there is no layer 'ltsm'; did you mean 'lstm'?"),
        (("--tasks", "copy"), "there is no task 'copy'; did you mean 'copying'?"),
        (("--tasks", "delay,delay"), "a task stands there twice"),
        (("--layers", ","), "name at least one layer"),
        (("--delays", "0"), "a delay is from 1 to 100,000 steps"),
        (("--delays", "-5"), "a delay is from 1"),
        (("--delays", "ten"), "'ten' is no number of steps"),
        (("--delays", "30,10"), "in ascending order"),
        (("--minutes", "0"), "give a time above 0"),
        (("--minutes", "nan"), "give a time above 0"),
        (("--seed", "-1"), "--seed -1: give a whole number of at least 0"),
        (("--threads", "0"), "--threads 0: give a whole number of at least 1"),
    ],
)
def test_wrong_words(
    cli: Call, tmp_path: Path, words: tuple[str, str], message: str
) -> None:
    _, err = cli("recall", *words, "-o", tmp_path / "study", code=2)
    assert message in err
    assert not (tmp_path / "study").exists()


def test_a_budget_too_small_for_one_update_each(cli: Call, tmp_path: Path) -> None:
    words = ("--layers", "gru", "--delays", "20,50", "--minutes", "0.0001")
    _, err = cli("recall", *words, "-o", tmp_path / "study", code=1)
    assert "0.0001 minutes are too little for one update of each" in err


def test_a_folder_of_another_study_or_of_something_else(tmp_path: Path) -> None:
    study(SMALL, tmp_path / "study", lambda line: None)
    other = RecallPlan(SMALL.layers, SMALL.tasks, SMALL.delays, 5.0, 1, 3, 1)
    with pytest.raises(UsageError, match="a study with seed 0, not 1"):
        study(other, tmp_path / "study", lambda line: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"letter.txt.*no study"):
        study(SMALL, tmp_path / "mine", lambda line: None)
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


def test_time_is_divided_by_the_length_of_what_is_learnt() -> None:
    cells = RecallPlan().cells()
    assert len(cells) == len({cell.name for cell in cells}) == 150
    assert [cell.weight for cell in cells[:30]] == [0.0] * 30
    weights = [cell.weight for cell in cells[30:]]
    assert weights == sorted(weights)


def test_tables_and_page_show_the_numbers(tmp_path: Path) -> None:
    results = study(SMALL, tmp_path, lambda line: None)
    measured = [known.table() for known in curves(results)]
    shown = {str(table.caption).split(":")[0]: table for table in measured}
    row = next(
        row
        for row in results["rows"]
        if (row["layer"], row["task"], row["delay"]) == ("gru", "delay", 4)
    )
    gru = next(cells for cells in shown["delay"].rows if cells[0] == "gru")
    assert gru[2] == f"{row['accuracy']:.3f}"
    last = [str(cell) for cell in shown["delay"].rows[-1]]
    assert last == ["chance", "0.125", "0.125"]
    html = page(results)
    assert f"<td>{gru[2]}</td>" in html
    lines = text_lines(shown["delay"])
    assert len({len(line) for line in lines[1:]}) == 1


def test_defaults_of_the_command_are_those_of_the_plan() -> None:
    from inspect import signature

    from unrolled.cli.recall import recall as verb

    defaults = signature(verb).parameters
    plan = RecallPlan()
    for name in ("minutes", "updates", "seed", "threads"):
        assert defaults[name].default == getattr(plan, name)
    assert recall.DELAYS == (10, 30, 100, 300, 1000)
