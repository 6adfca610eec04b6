"""Baselines: simple methods with scores that can be worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conftest import write_csv, write_jsonl
from unrolled.data.sources import Table
from unrolled.fields.text import Text
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks import baselines as methods
from unrolled.tasks.baselines import Baseline, measured
from unrolled.tasks.classify import Classify


def baselines(prepared: Prepared) -> list[Baseline]:
    return measured(prepared.task.baselines(prepared.split))[0]


def scored(path: Path, dev: Path, **changes: object) -> dict[str, dict[str, float]]:
    results = baselines(
        prepare(requested(str(path), {"data.dev": str(dev), **changes}))
    )
    assert all(result.seconds >= 0 for result in results)
    return {result.name: result.scores for result in results}


def test_the_majority_class_answers_one_label(tmp_path: Path) -> None:
    train = write_csv(
        tmp_path / "a.csv",
        [(f"good {n}", "g") for n in range(20)]
        + [(f"bad {n}", "b") for n in range(10)],
        ("text", "label"),
    )
    dev = write_csv(
        tmp_path / "b.csv",
        [("good x", "g"), ("bad y", "b"), ("bad z", "b")],
        ("text", "label"),
    )
    scores = scored(train, dev)
    assert scores["majority class"] == {
        "accuracy": pytest.approx(1 / 3),
        "macro_f1": 0.25,
    }
    assert scores["n-gram logistic regression"] == {"accuracy": 1.0, "macro_f1": 1.0}


def test_the_mean_and_a_straight_line(tmp_path: Path) -> None:
    rows = [(x, z, 3 * x - 2 * z + 1) for x in range(6) for z in range(4)]
    train = write_csv(tmp_path / "a.csv", rows, ("x", "z", "y"))
    dev = write_csv(tmp_path / "b.csv", [(10, 0, 31), (0, 10, -19)], ("x", "z", "y"))
    scores = scored(train, dev)
    mean = np.mean([row[-1] for row in rows])
    assert scores["mean"]["mae"] == pytest.approx(
        (abs(31 - mean) + abs(-19 - mean)) / 2
    )
    assert scores["linear regression"]["rmse"] == pytest.approx(0, abs=1e-3)


def test_the_most_frequent_tag_of_a_word(tmp_path: Path) -> None:
    train = write_jsonl(
        tmp_path / "a.jsonl",
        [{"words": ["a", "b", "c"], "tags": ["X", "Y", "Y"]}] * 3
        + [{"words": ["a"], "tags": ["Y"]}] * 2,
    )
    dev = write_jsonl(
        tmp_path / "b.jsonl",
        [{"words": ["a", "b", "new", "a"], "tags": ["X", "Y", "Y", "Y"]}],
    )
    # a is X (3 of 5), b is Y, an unseen word is Y (8 of 11)
    assert scored(train, dev)["most frequent tag of the word"]["accuracy"] == 0.75


def test_bigrams_are_interpolated_counts(tmp_path: Path) -> None:
    train = tmp_path / "a.txt"
    dev = tmp_path / "b.txt"
    train.write_text("abracadabra banana\n" * 3)
    dev.write_text("bandana\n")
    # what stands before a text
    text = train.read_text()
    end = "\0"
    pairs = Counter(zip(end + text, text, strict=False))
    times = Counter((end + text)[:-1])
    kinds = Counter(first for first, _ in pairs)
    size = len(set(text)) + 4
    nats = 0.0
    for first, second in zip(end + dev.read_text(), dev.read_text(), strict=False):
        single = (text.count(second) + 1) / (len(text) + size)
        trust = times[first] / max(1, times[first] + kinds[first])
        probability = (
            trust * pairs[first, second] / max(1, times[first]) + (1 - trust) * single
        )
        nats -= math.log(probability)
    scores = scored(train, dev, task="language")["bigrams"]
    assert scores["loss"] == pytest.approx(nats / 8)
    assert scores["bits_per_byte"] == pytest.approx(nats / 8 / math.log(2))


def spam(path: Path) -> Path:
    rows = [(f"{'good' if n % 2 else 'bad'} {n}", "gb"[n % 2]) for n in range(40)]
    return write_csv(path, rows, ("text", "label"))


def test_n_grams_are_bounded_by_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(requested(str(spam(tmp_path / "a.csv")), {}))
    count = len(prepared.train)
    monkeypatch.setattr(methods, "TEXT", 4)
    monkeypatch.setattr(methods, "CHARACTERS", 60)
    task = prepared.task
    assert isinstance(task, Classify)
    assert isinstance(task.inputs, Text)
    features = methods._features(prepared.split, task.inputs, task.columns)
    assert features is not None
    assert 60 // 4 <= features.train.shape[0] == len(features.targets) < count
    assert features.dev.shape[0] == len(prepared.dev)
    table = prepared.train_data
    assert isinstance(table, Table)
    texts = methods._texts(table, task.inputs, task.columns)
    assert {len(text) for text in texts} == {4}
    # a first text over the limit is still read
    monkeypatch.setattr(methods, "CHARACTERS", 1)
    assert methods._first(["long", "text"]) == ["long"]


def test_a_baseline_without_memory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(methods, "_features", hungry)
    prepared = prepare(requested(str(spam(tmp_path / "a.csv")), {}))
    assert [baseline.name for baseline in baselines(prepared)] == ["majority class"]


def test_a_regression_over_very_many_labels_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        (f"{name} {n}", name) for n in range(20) for name in ("red", "green", "blue")
    ]
    path = write_csv(tmp_path / "a.csv", rows, ("text", "label"))
    prepared = prepare(requested(str(path), {}))
    names = [baseline.name for baseline in baselines(prepared)]
    assert names == ["majority class", "n-gram logistic regression"]
    task = prepared.task
    assert isinstance(task, Classify)
    features = methods._features(prepared.split, task.inputs, task.columns)
    assert features is not None
    # weights of three labels, their gradients, and what the steps before left
    monkeypatch.setattr(methods, "HELD", 3 * 20 * features.train.shape[1])
    assert [baseline.name for baseline in baselines(prepared)] == names[:1]
