"""The hub: asked only for names that say so, silently, and never for a mistyped file."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.stand_ins import SETTINGS, DataSet, put_hub

import unrolled
from unrolled.core.errors import UsageError, UserError
from unrolled.data import hub
from unrolled.data.sources import Table, read

SMALL = {
    "training.max_steps": 1,
    "training.device": "cpu",
    "model.hidden": 4,
    "model.embedding": 4,
    "data.vocabulary": 40,
}


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A library like ``datasets``, and the calls it got."""
    calls: list[Any] = []
    rows = [
        {"text": "좋다", "label": 1},
        {"text": "싫다", "label": 0},
        {"text": "음", "label": -1},
    ]

    def load_dataset(name: str, config: str | None = None, *, split: str) -> DataSet:
        calls.append((name, config, split, os.environ.get("HF_HUB_DISABLE_TELEMETRY")))
        if name == "own/missing":
            raise FileNotFoundError(
                "Dataset 'own/missing' doesn't exist on the Hub\nmore"
            )
        dataset = DataSet(rows)
        dataset.column_names = ["text", "label"]
        dataset.features = {
            "text": SimpleNamespace(),
            "label": SimpleNamespace(names=["neg", "pos"]),
        }
        if name == "own/images":
            dataset[:] = [{"text": SimpleNamespace(), "label": 1}]
        return dataset

    put_hub(monkeypatch, load_dataset)
    return calls


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was asked")

    class Refused(socket.socket):
        __init__ = refuse

    monkeypatch.setattr(socket, "socket", Refused)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("hub:own/reviews", ("own/reviews", None, "train")),
        ("hub:own/reviews:test", ("own/reviews", None, "test")),
        ("hub:own/reviews/ko:validation", ("own/reviews", "ko", "validation")),
        ("hub:own/reviews/ko", ("own/reviews", "ko", "train")),
    ],
)
def test_names_of_the_hub(
    datasets: list[Any], name: str, call: tuple[Any, ...]
) -> None:
    table = read(name)
    assert isinstance(table, Table)
    assert datasets == [(*call, "1")]
    assert table.rows == [("좋다", "pos"), ("싫다", "neg"), ("음", None)]
    assert table.format.describe() == "data set of the hub"
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_each_language_of_translations_is_a_column(datasets: list[Any]) -> None:
    rows = [
        {"id": 7, "translation": {"de": "ein Haus", "en": "a house"}, "en": 1},
        {"id": 8, "translation": {"de": "drei", "en": None}, "en": 0},
        {"id": 9, "translation": None, "en": 0},
    ]
    dataset = DataSet([])
    dataset[:] = rows
    dataset.column_names = ["id", "translation", "en"]
    pair = SimpleNamespace(_type="Translation", languages=["de", "en"])
    other = SimpleNamespace(_type="Value")
    dataset.features = {"id": other, "translation": pair, "en": other}
    sys.modules["datasets"].load_dataset = lambda *a, **k: dataset  # type: ignore[attr-defined]
    table = read("hub:own/pairs/de-en:train")
    assert isinstance(table, Table)
    # a name that a column has already is not given twice
    assert table.columns == ["id", "de", "translation.en", "en"]
    expected = [(7, "ein Haus", "a house", 1), (8, "drei", None, 0), (9, None, None, 0)]
    assert table.rows == expected


def test_what_the_hub_cannot_give(datasets: list[Any]) -> None:
    with pytest.raises(
        UserError, match=r"hub:own/missing: cannot be had .*doesn't exist"
    ) as error:
        read("hub:own/missing")
    assert "\n" not in str(error.value)
    with pytest.raises(
        UserError, match=r"hub:own/images:1: column 'text' holds SimpleNamespace"
    ):
        read("hub:own/images")
    count = len(datasets)
    for name in ("hub:reviews", "hub:", "hub:a/b/c/d", "hub:../x:y:z", "hub:a b/c"):
        with pytest.raises(UsageError, match="write hub:owner/name"):
            read(name)
    assert len(datasets) == count


def test_without_the_extra_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    hub.loaded.cache_clear()
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
    with pytest.raises(UserError, match=r"pip install 'unrolled\[hub\]'"):
        read("hub:own/reviews")


def test_training_on_a_file_asks_no_network(
    no_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "good film,1\nbad film,0\n" * 20)
    run = unrolled.train(
        path, out=tmp_path / "run", quiet=True, say=lambda text: None, **SMALL
    )
    assert run.predict(["good film"])[0] in ("0", "1")
    for wrong, nearest in (
        ("review.csv", "reviews.csv"),
        ("shakespear-lstm", "shakespeare-lstm"),
        ("hug:a/b", "no file"),
    ):
        with pytest.raises(UsageError, match=nearest):
            unrolled.train(
                tmp_path / wrong if "." in wrong else wrong, out=tmp_path / "r"
            )


def test_training_on_a_data_set_of_the_hub(
    datasets: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"word{i % 7} film", "label": i % 2} for i in range(40)]
    monkeypatch.setattr(DataSet, "__init__", lambda self, _: list.__init__(self, rows))
    run = unrolled.train(
        "hub:own/reviews:train", quiet=True, say=lambda text: None, **SMALL
    )
    assert run.folder == Path("runs/reviews")
    assert run.recipe.data.train == "hub:own/reviews:train"
    assert run.predict(["word1 film"])[0] in ("neg", "pos")
