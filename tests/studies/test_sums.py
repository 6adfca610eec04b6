"""Sums of numbers of one to three digits."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
from collections import Counter
from pathlib import Path

import pytest

from unrolled.studies import sums

SHIPPED = importlib.resources.files("unrolled") / "recipes" / "data" / "sums.csv.gz"


def test_every_sum_is_given_once_and_right(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv.gz"
    assert sums.main([str(path)]) == 0
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    digits: Counter[tuple[int, int]] = Counter()
    for row in rows:
        first, second = row["prompt"].removesuffix("=").split("+")
        assert int(first) + int(second) == int(row["completion"])
        digits[len(first), len(second)] += 1
    assert digits == sums.COUNTS
    assert len({row["prompt"] for row in rows}) == len(rows) == 50_000


def test_what_ships_is_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv.gz"
    sums.write(path)
    # packed bytes may differ between versions of zlib
    written = gzip.decompress(path.read_bytes())
    assert written == gzip.decompress(SHIPPED.read_bytes())


def test_a_disk_that_refuses_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert sums.main([str(tmp_path / "file" / "sums.csv.gz")]) != 0
    assert capsys.readouterr().err.startswith("unrolled: ")
