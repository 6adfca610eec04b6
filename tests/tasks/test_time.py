"""Series with dates: put in order, their gaps said, and windows that lack an answer left out."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unrolled
from conftest import SMALL, Call, write_csv
from unrolled.core.errors import DataError, UsageError
from unrolled.run import train
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested

T = 80
WINDOW = 5
LEVELS = np.sin(np.arange(T) / 4).round(4)
KEYS = SMALL | {"training.max_steps": 8, "data.window": WINDOW}
HEAD = ("day", "level")
ORDERS = {
    "rising": np.arange(T),
    "falling": np.arange(T)[::-1],
    "shuffled": np.random.default_rng(4).permutation(T),
}


def day(step: int) -> str:
    return str(date(2021, 1, 1) + timedelta(days=step))


def rows_of(lacking: tuple[int, ...] = ()) -> list[tuple[Any, ...]]:
    return [(day(t), "NA" if t in lacking else LEVELS[t]) for t in range(T)]


def write(folder: Path, order: str, lacking: tuple[int, ...] = ()) -> Path:
    rows = rows_of(lacking)
    chosen = [rows[t] for t in ORDERS[order]]
    return write_csv(folder / f"{order}.csv", chosen, HEAD)


def prepared(path: Path, **changes: Any) -> Prepared:
    return prepare(requested(str(path), {**KEYS, **changes}))


def warned(made: Prepared) -> str:
    return "\n".join(map(str, made.warnings))


# ---------------------------------------------------------------------- order


@pytest.mark.parametrize("order", ["falling", "shuffled"])
def test_the_order_of_the_file_changes_no_window(tmp_path: Path, order: str) -> None:
    rising = prepared(write(tmp_path, "rising"))
    other = prepared(write(tmp_path, order))
    for name in ("train", "dev"):
        ours = getattr(rising, name)
        theirs = getattr(other, name)
        np.testing.assert_array_equal(ours.targets, theirs.targets)
        every = np.arange(len(ours))
        windows = [part.frames.take(every)[0] for part in (ours, theirs)]
        np.testing.assert_array_equal(*windows)
        # an answer has the line on which it stands in its own file
        steps = [int(line) - 2 for line in ours.lines]
        assert [int(ORDERS[order][line - 2]) for line in theirs.lines] == steps
    assert "day runs backwards" in warned(other)
    assert "runs backwards" not in warned(rising)
    assert "in the order of day" in "\n".join(other.lines)


def test_the_latest_steps_are_held_out_whatever_stands_first(tmp_path: Path) -> None:
    made = prepared(write(tmp_path, "falling"))
    assert sorted(made.dev.lines) == list(range(2, 2 + T // 10))


@pytest.mark.parametrize("order", ["falling", "shuffled"])
def test_rows_are_answered_at_their_own_line(
    tmp_path: Path, order: str, cli: Call
) -> None:
    out = tmp_path / "run"
    train(write(tmp_path, "rising"), out=out, say=lambda line: None, quiet=True, **KEYS)
    answers = {}
    scores = []
    for name in ("rising", order):
        path = write(tmp_path, name)
        output = tmp_path / f"{name}-answers.csv"
        cli("predict", out, "--file", path, "-o", output)
        with output.open(newline="", encoding="utf-8") as handle:
            answers[name] = {
                row["day"]: row["answer"] for row in csv.DictReader(handle)
            }
        scores.append(cli("evaluate", out, path)[0])
    assert answers["rising"] == answers[order]
    assert scores[0] == scores[1]
    empty = [day for day, answer in answers[order].items() if not answer]
    assert sorted(empty) == [day(t) for t in range(WINDOW - 1)]


def test_numbers_put_steps_in_order_where_they_are_named(tmp_path: Path) -> None:
    rows = [(T - t, level) for t, level in enumerate(LEVELS)]
    path = write_csv(tmp_path / "t.csv", rows, ("tick", "level"))
    made = prepared(path, **{"data.time": "tick"})
    # it is neither read nor the answer
    assert made.task.schema.numbers == ("level",)
    assert made.task.schema.answer == "level"
    # the last row of this file is its first step
    expected = LEVELS[::-1][WINDOW : T - T // 10]
    scaled = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(made.train.targets, scaled, rtol=1e-4, atol=1e-5)
    assert sorted(made.dev.lines) == list(range(2, 2 + T // 10))
    assert "tick runs backwards in 79 rows" in warned(made)


def test_a_column_of_time_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'dya'; did you mean 'day'"):
        prepared(write(tmp_path, "rising"), **{"data.time": "dya"})


def test_a_date_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    rows = rows_of()
    rows[7] = ("soon", 1.0)
    path = write_csv(tmp_path / "t.csv", rows, HEAD)
    with pytest.raises(DataError, match=r"t\.csv:9: column 'day' holds 'soon' where a"):
        prepared(path)


# ---------------------------------------------------------------------- what is said


def test_steps_that_are_missing_are_said(tmp_path: Path) -> None:
    rows = rows_of()
    del rows[30:33]
    del rows[60]
    made = prepared(write_csv(tmp_path / "t.csv", rows, HEAD))
    assert "day goes on by 1 day a step, and by more in 2 places (line 32" in warned(
        made
    )


@pytest.mark.parametrize("kind", ["months", "years", "hours"])
def test_steps_of_a_calendar_lack_nothing(tmp_path: Path, kind: str) -> None:
    stamps = {
        "months": [f"{2000 + t // 12}-{t % 12 + 1:02}-01" for t in range(T)],
        "years": [f"{1900 + t}-12-31" for t in range(T)],
        "hours": [f"2021-01-{t // 24 + 1:02} {t % 24:02}:00" for t in range(T)],
    }
    rows = list(zip(stamps[kind], LEVELS.tolist(), strict=True))
    assert not prepared(write_csv(tmp_path / "t.csv", rows, HEAD)).warnings


def test_times_that_repeat_propose_what_tells_sequences_apart(tmp_path: Path) -> None:
    rows = [(day(t // 2), "ab"[t % 2], LEVELS[t]) for t in range(T)]
    path = write_csv(tmp_path / "t.csv", rows, ("day", "site", "level"))
    made = prepared(path)
    (warning,) = made.warnings
    assert "day stands there more than once in 40 rows (line 3" in warning.message
    assert warning.key == "data.sequence=site"
    apart = prepared(path, **{"data.sequence": "site"})
    assert not apart.warnings
    # windows of either site alone
    assert len(apart.train) + len(apart.dev) == 2 * (T // 2 - WINDOW)


def test_files_of_a_folder_may_share_their_times(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    for name in ("one", "two"):
        write_csv(tmp_path / "sites" / f"{name}.csv", rows_of(), HEAD)
    made = prepared(tmp_path / "sites")
    assert not made.warnings
    assert len(made.train) + len(made.dev) == 2 * (T - WINDOW)


def test_a_table_of_dates_and_values_proposes_a_window(tmp_path: Path) -> None:
    made = prepared(write(tmp_path, "rising"), **{"data.window": None})
    (warning,) = [w for w in made.warnings if w.key.startswith("data.window")]
    assert warning.key == "data.window=24"
    assert "to forecast level from the steps before" in warning.message


# ---------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("missing", ["median", "mean"])
def test_windows_without_an_answer_are_left_out(tmp_path: Path, missing: str) -> None:
    lacking = (10, 11, 40)
    path = write(tmp_path, "rising", lacking)
    made = prepared(path, **{"data.missing": missing})
    answered = [t for t in range(WINDOW, T) if t not in lacking]
    lines = [*made.train.lines, *made.dev.lines]
    assert [line - 2 for line in lines] == answered
    assert "left out 3 rows (lines 12, 13, 42)" in "\n".join(made.lines)
    assert "level holds no number in 3 rows (lines 12, 13, 42)" in warned(made)
    # a window reads the number that stands in, and a flag beside it
    train_levels = np.array([LEVELS[t] for t in range(72) if t not in lacking])
    fill = np.median(train_levels) if missing == "median" else train_levels.mean()
    filled = np.where(np.isin(np.arange(T), lacking), fill, LEVELS)
    scaled = (filled - train_levels.mean()) / train_levels.std()
    windows, _ = made.train.frames.take(np.arange(len(made.train)))
    for window, step in zip(windows.numpy(), answered, strict=False):
        before = np.arange(step - WINDOW, step)
        np.testing.assert_allclose(window[:, 0], scaled[before], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(window[:, 1], np.isin(before, lacking))


def test_a_row_that_is_dropped_is_spanned_by_no_window(tmp_path: Path) -> None:
    made = prepared(write(tmp_path, "rising", (40,)), **{"data.missing": "drop"})
    lines = [*made.train.lines, *made.dev.lines]
    expected = [*range(WINDOW, 40), *range(41 + WINDOW, T)]
    assert [line - 2 for line in lines] == expected
    assert "left out 1 row (line 42)" in "\n".join(made.lines)


def test_a_missing_number_is_refused_where_it_is_to_be(tmp_path: Path) -> None:
    path = write(tmp_path, "rising", (40,))
    with pytest.raises(DataError, match=r"rising\.csv:42: column 'level' holds 'NA'"):
        prepared(path, **{"data.missing": "error"})


def test_changes_from_or_to_a_missing_number_are_left_out(tmp_path: Path) -> None:
    made = prepared(write(tmp_path, "rising", (40,)), **{"data.difference": True})
    lines = [*made.train.lines, *made.dev.lines]
    assert [line - 2 for line in lines] == [
        t for t in range(WINDOW, T) if t not in (40, 41)
    ]


def test_a_series_with_gaps_is_scored_as_it_is_answered(
    tmp_path: Path, cli: Call
) -> None:
    out = tmp_path / "run"
    lacking = (10, 40, 41)
    path = write(tmp_path, "rising", lacking)
    run = train(path, out=out, say=lambda line: None, quiet=True, **KEYS)
    printed, _ = cli("evaluate", out, path)
    scores = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines()}
    answers = cli("predict", out, "--file", path)[0].splitlines()
    assert len(answers) == T
    errors = [
        float(answers[t - 1]) - LEVELS[t] for t in range(WINDOW, T) if t not in lacking
    ]
    assert scores["mae"] == pytest.approx(np.abs(errors).mean(), abs=1e-3)
    assert scores["rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), abs=1e-3)
    # a window as a person types it, with what is missing
    levels: list[float | None] = LEVELS[38:43].tolist()
    levels[2:4] = [None, None]
    cells = [[day(t), level] for t, level in enumerate(levels, 38)]
    assert unrolled.load(out).predict([cells]) == run.predict([cells]) == [answers[42]]


def test_steps_without_a_label_end_their_sequence(tmp_path: Path) -> None:
    rows = [(t, LEVELS[t], "" if t == 33 else "ab"[t % 2]) for t in range(T)]
    path = write_csv(tmp_path / "t.csv", rows, ("t", "level", "phase"))
    keys = {"data.window": None, "data.rows": "steps", "data.numbers": ["level"]}
    made = prepared(path, **keys)
    assert "left out 1 row (line 35)" in "\n".join(made.lines)
    with pytest.raises(DataError, match=r"t\.csv:35: "):
        prepared(path, **keys, **{"data.missing": "error"})


def test_steps_are_not_grouped_by_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", rows_of(), HEAD)
    with pytest.raises(UsageError, match=r"data\.group=day is for rows by themselves"):
        prepared(path, **{"data.group": "day"})
