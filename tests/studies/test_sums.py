"""Sums of numbers of one to three digits."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
from collections import Counter
from pathlib import Path

import pytest

from unrolled.studies import sums

SHIPPED = importlib.resources.files("unrolled") / "recipes" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sums")
    assert sums.main([str(path)]) == 0
    return path


def rows_of(path: Path) -> list[tuple[int, int, int]]:
    """Return both numbers of each sum and what is written for it."""
    rows: list[tuple[int, int, int]] = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            first, second = row["prompt"].removesuffix("=").split("+")
            rows.append((int(first), int(second), int(row["completion"])))
    return rows


def test_every_sum_is_given_once_and_right(folder: Path) -> None:
    rows = rows_of(folder / sums.RIGHT_FILE)
    digits: Counter[tuple[int, int]] = Counter()
    for first, second, total in rows:
        assert first + second == total
        digits[len(str(first)), len(str(second))] += 1
    assert digits == sums.COUNTS
    assert len({row[:2] for row in rows}) == len(rows) == 50_000


def test_mistakes_are_carries_that_were_forgotten(folder: Path) -> None:
    rows = rows_of(folder / sums.MISTAKEN_FILE)
    right = rows_of(folder / sums.RIGHT_FILE)
    assert [row[:2] for row in rows] == [row[:2] for row in right]
    carried = 0
    forgotten = 0
    for first, second, total in rows:
        without = sums.without_carrying(first, second)
        assert total in (first + second, without)
        if without != first + second:
            carried += total != without
            forgotten += total == without
    # three standard deviations of some 40,000 draws
    assert forgotten / (carried + forgotten) == pytest.approx(sums.FORGETS, abs=0.008)


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [(57, 68, 15), (7, 8, 5), (123, 4, 127), (999, 1, 990), (500, 500, 0)],
)
def test_columns_are_added_by_themselves(first: int, second: int, total: int) -> None:
    assert sums.without_carrying(first, second) == total


@pytest.mark.parametrize("name", [sums.RIGHT_FILE, sums.MISTAKEN_FILE])
def test_what_ships_is_what_is_written(folder: Path, name: str) -> None:
    # packed bytes may differ between versions of zlib
    written = gzip.decompress((folder / name).read_bytes())
    assert written == gzip.decompress((SHIPPED / name).read_bytes())


def test_a_disk_that_refuses_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert sums.main([str(tmp_path / "file")]) != 0
    assert capsys.readouterr().err.startswith("unrolled: ")
