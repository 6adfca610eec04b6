"""Scores by the values of a column: those of evaluating the rows of each value by themselves."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import reviews, sentences, write_csv, write_jsonl
from unrolled.run import load
from unrolled.runs import breakdown

Call = Callable[..., tuple[str, str]]


def parts_of(rows: list[tuple[Any, ...]], values: list[Any]) -> dict[Any, list[Any]]:
    parts: dict[Any, list[Any]] = {}
    for row, value in zip(rows, values, strict=True):
        parts.setdefault(value, []).append(row)
    return parts


def test_labels_by_a_text_column(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = reviews(60, 9, 0.2)
    shops = [random.Random(i).choice(["서울", "Busan", ""]) for i in range(len(rows))]
    together = [(*row, shop) for row, shop in zip(rows, shops, strict=True)]
    path = write_csv(tmp_path / "all.csv", together, ("text", "label", "shop"))
    out, _ = cli("evaluate", home.runs["classify"], path, "data.by=shop", "--json")
    document = json.loads(out)
    assert list(document["by_shop"]) == ["Busan", "서울", "(empty)"]
    for shop, part in parts_of(rows, shops).items():
        alone = write_csv(tmp_path / "part.csv", part, ("text", "label"))
        out, _ = cli("evaluate", home.runs["classify"], alone, "--json")
        scores = dict(document["by_shop"][shop or "(empty)"])
        assert scores.pop("rows") == len(part)
        assert scores == pytest.approx(json.loads(out), rel=1e-6)
    whole = sum(s["rows"] * s["accuracy"] for s in document["by_shop"].values())
    assert whole / len(rows) == pytest.approx(document["accuracy"])
    out, _ = cli("evaluate", home.runs["classify"], path, "data.by=shop")
    assert "\nby_shop\nBusan    accuracy " in out
    assert f"({shops.count('Busan')} rows)" in out
    result = load(home.runs["classify"]).evaluate(path, **{"data.by": "shop"})
    assert result == document


def test_values_by_a_column_of_many_numbers(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [
        (rooms, 20 + n % 8, 10 * rooms + n, n) for n, rooms in enumerate([3, 5] * 35)
    ]
    path = write_csv(tmp_path / "h.csv", rows, ("rooms", "area", "price", "days"))
    out, _ = cli("evaluate", home.runs["regress"], path, "data.by=days", "--json")
    by = json.loads(out)["by_days"]
    assert list(by) == [f"{n} to {n + 9}" for n in range(0, 70, 10)]
    assert {scores["rows"] for scores in by.values()} == {10}
    part = write_csv(
        tmp_path / "p.csv", rows[20:30], ("rooms", "area", "price", "days")
    )
    out, _ = cli("evaluate", home.runs["regress"], part, "--json")
    assert by["20 to 29"]["mae"] == pytest.approx(json.loads(out)["mae"], rel=1e-5)


def test_tags_by_a_column(cli: Call, home: SimpleNamespace, tmp_path: Path) -> None:
    rows = sentences(20, 5)
    for number, row in enumerate(rows):
        row["source"] = number % 3  # type: ignore[assignment]
    path = write_jsonl(tmp_path / "tags.jsonl", rows)
    out, _ = cli("evaluate", home.runs["tag"], path, "data.by=source", "--json")
    by = json.loads(out)["by_source"]
    assert list(by) == ["0", "1", "2"]
    part = write_jsonl(tmp_path / "part.jsonl", rows[1::3])
    out, _ = cli("evaluate", home.runs["tag"], part, "--json")
    assert by["1"]["loss"] == pytest.approx(json.loads(out)["loss"], rel=1e-5)
    assert by["1"]["rows"] == len(rows[1::3])


def test_a_column_that_is_not_there(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "all.csv", reviews(5, 9), ("text", "label"))
    run = home.runs["classify"]
    _, err = cli("evaluate", run, path, "data.by=labels", code=1)
    assert "there is no column 'labels'; did you mean 'label'?" in err


def test_a_file_of_running_text_has_no_columns(
    cli: Call, home: SimpleNamespace
) -> None:
    run = home.runs["language"]
    file = home.files["language"]
    _, err = cli("evaluate", run, file, "data.by=x", code=2)
    assert "data.by=x is for labels, tags and values of rows" in err


def test_too_many_texts(cli: Call, home: SimpleNamespace, tmp_path: Path) -> None:
    rows = [(*row, f"who {n}") for n, row in enumerate(reviews(60, 9))]
    path = write_csv(tmp_path / "all.csv", rows, ("text", "label", "who"))
    _, err = cli("evaluate", home.runs["classify"], path, "data.by=who", code=2)
    assert "data.by=who: the column holds 60 values, 60 of them no numbers" in err


def test_a_recipe_may_name_it_and_a_file_may_lack_it(
    cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import SMALL

    monkeypatch.chdir(tmp_path)
    rows = [(*row, n % 2) for n, row in enumerate(reviews(60, 9))]
    write_csv(tmp_path / "all.csv", rows, ("text", "label", "part"))
    keys = [f"{key}={value}" for key, value in SMALL.items()]
    words = ("data.text=text", "data.by=part", "training.max_steps=3", "--out", "run")
    out, _ = cli("train", "all.csv", *keys, *words)
    assert "left out: part" not in out
    out, _ = cli("evaluate", "run", "all.csv", "--json")
    assert list(json.loads(out)["by_part"]) == ["0", "1"]
    write_csv(tmp_path / "less.csv", reviews(10, 9), ("text", "label"))
    out, _ = cli("evaluate", "run", "less.csv", "--json")
    assert "by_part" not in json.loads(out)
    _, err = cli("train", "all.csv", *keys, "data.by=parts", "--out", "no", code=2)
    assert "did you mean 'part'?" in err


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"2", "10", "1"}, {"1": "1", "2": "2", "10": "10"}),
        ({"b", "10", "9", ""}, {"10": "10", "9": "9", "b": "b", "": "(empty)"}),
        ({"NA", "3"}, {"3": "3", "NA": "NA"}),
    ],
)
def test_few_values_stand_by_themselves(keys: set[str], names: dict[str, str]) -> None:
    result = breakdown._names("c", keys, ".")
    assert result == names
    assert list(result) == list(names)


@pytest.mark.parametrize(
    "numbers",
    [
        [*range(61)],
        [n / 7 for n in range(-50, 40)],
        [1.5e9 + n for n in range(30)],
        [n * n for n in range(100)],
    ],
)
def test_bins_hold_every_number_once_and_in_order(numbers: list[float]) -> None:
    keys = [str(number) for number in numbers]
    names = breakdown._names("c", set(keys), ".")
    assert names.keys() == set(keys)
    groups: dict[str, list[float]] = {}
    for key, name in names.items():
        groups.setdefault(name, []).append(float(key))
    assert 3 <= len(groups) <= 11
    flat = [number for group in groups.values() for number in group]
    assert flat == sorted(map(float, numbers))


def test_one_number_in_many_writings_is_one_bin() -> None:
    keys = {f"1.{'0' * count}" for count in range(1, 30)}
    assert set(breakdown._names("c", keys, ".").values()) == {"1.0"}


def test_examples_are_read_by_line_where_rows_were_skipped(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [(*row, n % 2) for n, row in enumerate(reviews(10, 4))]
    rows[3] = (rows[3][0], "neither", 1)
    path = tmp_path / "all.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label", "part"), *rows])
    words = ("data.by=part", "data.on_error=skip", "--json")
    out, _ = cli("evaluate", home.runs["classify"], path, *words)
    by = json.loads(out)["by_part"]
    assert (by["0"]["rows"], by["1"]["rows"]) == (5, 4)
