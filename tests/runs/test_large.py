"""A large file gives the tokens, targets and held-out part that reading it whole gives."""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import SMALL, reviews, write_csv
from tests.stand_ins import DataSet, put_hub

import unrolled
from unrolled.core.errors import DataError, UsageError
from unrolled.data import encoding
from unrolled.runs import large, shard_files, shard_table
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks.baselines import measured
from unrolled.tasks.language import Language


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_files, "processors", lambda: 1)
    monkeypatch.setattr(shard_table, "PIECE", 500)
    monkeypatch.setattr(encoding.pieces, "__defaults__", (500,))
    return tmp_path / "cache"


def story(seed: int, lines: int = 400) -> str:
    draw = random.Random(seed)
    words = [
        "the",
        "river",
        "runs",
        "강이",
        "흐른다",
        "  ",
        "it's",
        "1984",
        "\n",
        "\t-",
    ]
    return "".join(" ".join(draw.choices(words, k=8)) + "\n" for _ in range(lines))


def both(path: Path | str, **changes: Any) -> tuple[Prepared, Prepared]:
    """Return a file read whole, and encoded into shards."""
    keys = {
        f"data.{key}" if key != "task" else key: value for key, value in changes.items()
    }
    return (
        prepare(requested(str(path), {**keys, "data.shards": "never"})),
        prepare(requested(str(path), {**keys, "data.shards": "always"})),
    )


def check_text(whole: Prepared, mapped: Prepared) -> None:
    assert isinstance(whole.task, Language)
    assert isinstance(mapped.task, Language)
    assert mapped.task.tokenizer.document == whole.task.tokenizer.document
    assert mapped.recipe.training == whole.recipe.training
    for mine, theirs in ((mapped.train, whole.train), (mapped.dev, whole.dev)):
        assert mine.tokens[: len(theirs)].tolist() == theirs.tokens.tolist()
        assert (mine.size, mine.unknown) == (theirs.size, theirs.unknown)
    for layer in ("gru", "attention"):
        changes = {"layer": layer, "model": {"hidden": 8, "embedding": 8}}
        recipe = requested("shakespeare-lstm", {}).read(
            changes | {"training": {"window": 16, "batch_size": 4}}
        )
        model = whole.task.build(recipe)
        mine, theirs = (p.task.source(p.train, recipe, model) for p in (mapped, whole))
        for epoch in (0, 1):
            assert mine.length(epoch) == theirs.length(epoch)
            for index in range(0, mine.length(epoch), 7):
                first = mine.batch(epoch, index)
                second = theirs.batch(epoch, index)
                assert first.inputs.equal(second.inputs)
                assert first.targets is not None
                assert second.targets is not None
                assert first.targets.equal(second.targets)


@pytest.mark.parametrize("kind", ["chars", "jamo", "bpe", "unigram"])
def test_text(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(story(0), "utf-8")
    check_text(*both(path, tokenizer=kind, vocabulary=400))


def test_packed_utf_16_text_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(story(0).encode("utf-16")))
    check_text(*both(path, encoding="utf-16", limit=300))


def test_another_run_starts_at_once_and_a_change_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.txt"
    path.write_text(story(0), "utf-8")
    assert any(line.startswith("encoded in") for line in both(path)[1].lines)
    again = both(path)
    assert any(line.startswith("encoded before:") for line in again[1].lines)
    check_text(*again)
    read = shard_files.read_rows
    opened: list[bool] = []

    def counted(*arguments: Any) -> Any:
        opened.append(True)
        return read(*arguments)

    monkeypatch.setattr(shard_files, "read_rows", counted)
    monkeypatch.setattr(large, "read_rows", counted)
    both(path)
    assert len(opened) == 1  # only its first rows were read
    path.write_text(story(0)[:-4] + "\n", "utf-8")
    for changes in ({}, {"tokenizer": "bytes"}, {"vocabulary": 12}, {"holdout": 0.2}):
        whole, mapped = both(path, **changes)
        assert any(line.startswith("encoded in") for line in mapped.lines), changes
        check_text(whole, mapped)


def test_a_vocabulary_is_learnt_from_a_spread_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unrolled.data import lines

    monkeypatch.setattr(shard_files, "SAMPLE", 3000)
    monkeypatch.setattr(lines, "BLOCK", 200)
    path = tmp_path / "t.txt"
    path.write_text(
        "".join(f"word{number // 40} " + story(number, 1) for number in range(800))
    )
    _, mapped = both(path, tokenizer="words", vocabulary=400)
    assert any("learnt from 3,000 of" in line for line in mapped.lines)
    names = {
        mapped.task.tokenizer.token(id) for id in range(mapped.task.tokenizer.size)
    }
    seen = {number for number in range(18) if f"word{number}" in names}
    assert 12 <= len(seen) < 18  # from all over the text, and not from all of it
    # counted over all of the text
    check_text(*both(path, tokenizer="chars"))


def test_scored_text_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "SCORED", 100)
    path = tmp_path / "t.txt"
    path.write_text(story(0), "utf-8")
    whole, mapped = both(path)
    assert mapped.dev.tokens.tolist() == whole.dev.tokens.tolist()[:100]
    assert any("scored: the first 100 of them" in line for line in mapped.lines)
    whole, mapped = both(path, dev=str(path))
    assert mapped.dev.tokens.tolist() == whole.dev.tokens.tolist()[:100]
    assert not mapped.held_out


@pytest.mark.parametrize("dev", [False, True])
@pytest.mark.parametrize("kind", ["unigram", "chars"])
def test_labels_of_texts(tmp_path: Path, kind: str, dev: bool) -> None:
    rows = [*reviews(300, 1), (None, "good"), ("no label", None), *reviews(50, 2)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label"))
    changes = {
        "tokenizer": kind,
        "vocabulary": 300,
        "on_error": "skip",
        "max_tokens": 20,
    }
    if dev:
        changes["dev"] = str(
            write_csv(tmp_path / "d.csv", reviews(40, 3), ("text", "label"))
        )
    whole, mapped = both(path, **changes)
    check_labels(whole, mapped)
    assert any("skipped 1 faulty row" in line for line in mapped.lines)


def check_labels(whole: Prepared, mapped: Prepared) -> None:
    assert whole.task.inputs.tokenizer.document == mapped.task.inputs.tokenizer.document
    assert whole.task.output == mapped.task.output
    assert whole.recipe.training == mapped.recipe.training
    for mine, theirs in ((mapped.train, whole.train), (mapped.dev, whole.dev)):
        np.testing.assert_array_equal(mine.sequences.flat[:], theirs.sequences.flat)
        np.testing.assert_array_equal(mine.sequences.offsets, theirs.sequences.offsets)
        np.testing.assert_array_equal(mine.targets, theirs.targets)
        np.testing.assert_array_equal(mine.lines, theirs.lines)
        assert mine.targets.dtype == theirs.targets.dtype
    for first, second in zip(
        *(measured(p.task.baselines(p.split))[0] for p in (whole, mapped)), strict=True
    ):
        assert (first.name, first.scores) == (second.name, second.scores)


def test_labels_are_weighed(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "r.csv", [*reviews(100, 1), ("so so", "even")], ("text", "label")
    )

    def label_weights(shards: str, weights: Any, **more: Any) -> Any:
        keys = {"data.shards": shards, "training.label_weights": weights, **more}
        return prepare(requested(str(path), keys)).recipe.training.label_weights

    for weights in ("balanced", {"good": 3}):
        assert isinstance(label_weights("always", weights), dict)
        assert label_weights("always", weights) == label_weights("never", weights)
    for weights, more in (({"god": 3}, {}), ("balanced", {"task": "language"})):
        with pytest.raises(UsageError) as first:
            label_weights("always", weights, **more)
        with pytest.raises(UsageError) as second:
            label_weights("never", weights, **more)
        assert str(first.value) == str(second.value)


def test_the_files_of_an_archive_and_their_lines_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "HEAD", 10)  # rows of the first file alone

    def packed(name: str, *files: list[Any]) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for number, rows in enumerate(files):
                part = write_csv(tmp_path / f"{number}.csv", rows, ("text", "label"))
                archive.write(part, part.name)
        return tmp_path / name

    whole, mapped = both(packed("a.zip", reviews(40, 1), reviews(60, 2)))
    for first, second in (
        (mapped.train_data, whole.train_data),
        (mapped.dev_data, whole.dev_data),
    ):
        assert first.lines == second.lines
        assert list(map(first.position, first.lines)) == list(
            map(second.position, first.lines)
        )
    assert not mapped.partial
    path = packed("b.zip", reviews(40, 1), [*reviews(60, 2), ("no label", None)])
    for shards in ("never", "always"):
        keys = {"data.shards": shards, "data.missing": "error"}
        with pytest.raises(DataError, match=r"1\.csv:62: ") as caught:
            prepare(requested(str(path), keys))
        assert caught.value.line == 62


@pytest.mark.parametrize("column", ["n", "text"])
def test_an_infinity_in_a_row(tmp_path: Path, column: str) -> None:
    rows = [{"n": 1.5, "text": text, "label": label} for text, label in reviews(80, 1)]
    lines = [json.dumps(row) for row in rows]
    lines[::9] = [
        json.dumps(row | {column: "INF"}).replace('"INF"', "1e999") for row in rows[::9]
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines) + "\n")
    whole, mapped = both(path, text="text", label="label")
    for prepared in (
        mapped,
        both(path, text="text", label="label")[1],
    ):  # made, and remembered
        assert prepared.train_data.rows == whole.train_data.rows
        assert prepared.dev_data.rows == whole.dev_data.rows
        np.testing.assert_array_equal(
            prepared.train.sequences.flat[:], whole.train.sequences.flat
        )


def test_a_column_of_text(tmp_path: Path) -> None:
    rows = [(text, number) for number, (text, _) in enumerate(reviews(300, 1))]
    path = write_csv(tmp_path / "r.csv", [*rows, ("", 7)], ("text", "n"))
    check_text(
        *both(path, tokenizer="unigram", vocabulary=300, text="text", task="language")
    )


def test_what_is_sharded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_csv(
        tmp_path / "n.csv", [(i, 2 * i) for i in range(50)], ("a", "price")
    )
    with pytest.raises(
        UsageError, match=r"data\.shards=always is for language models and labels"
    ):
        both(table)
    text = tmp_path / "t.txt"
    text.write_text(story(0), "utf-8")
    auto = {"data.shards": "auto"}
    prepare(requested(str(text), auto))
    assert not cache.exists()
    monkeypatch.setattr(large, "LARGE", 1000)
    assert any(
        "encoded in" in line for line in prepare(requested(str(text), auto)).lines
    )
    table = write_csv(
        tmp_path / "m.csv", [(i, 2 * i) for i in range(500)], ("a", "price")
    )
    assert not any(
        "encoded" in line for line in prepare(requested(str(table), auto)).lines
    )


def folder_of(folder: Path, kind: str, rows: list[Any]) -> Path:
    """Write rows of text and label as a folder of two tables, or of texts in two folders."""
    folder.mkdir()
    parts = {"a": rows[: len(rows) // 3], "b": rows[len(rows) // 3 :]}
    for name, part in parts.items():
        texts, labels = zip(*part, strict=True)
        if kind == "csv":
            write_csv(folder / f"{name}.csv", part, ("text", "label"))
        if kind == "parquet":
            table = pa.table({"text": texts, "label": labels})
            pq.write_table(table, folder / f"{name}.parquet", row_group_size=16)
    if kind == "texts":
        for number, (text, label) in enumerate(rows):
            (folder / label).mkdir(exist_ok=True)
            (folder / label / f"{number}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet", "texts"])
def test_a_folder(tmp_path: Path, kind: str) -> None:
    path = folder_of(tmp_path / "parts", kind, reviews(150, 1))
    whole, mapped = both(path, tokenizer="chars")
    check_labels(whole, mapped)
    assert mapped.files == whole.files
    assert mapped.dev_data.lines == whole.dev_data.lines
    for line in mapped.dev_data.lines:
        assert mapped.dev_data.position(line) == whole.dev_data.position(line)
    text_alone = {"tokenizer": "bpe", "vocabulary": 300, "task": "language"}
    check_text(*both(path, text="text", **text_alone))


def test_a_folder_of_one_text(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.txt").write_text(story(0), "utf-8")
    check_text(*both(folder))


def test_a_part_that_is_scored_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = folder_of(tmp_path / "parts", "csv", reviews(60, 1))
    train = write_csv(tmp_path / "r.csv", reviews(60, 2), ("text", "label"))
    whole, mapped = both(train, dev=str(parts))
    assert mapped.files == whole.files
    np.testing.assert_array_equal(mapped.dev.targets, whole.dev.targets)
    monkeypatch.setattr(shard_files, "SCORED", 100)
    whole, mapped = both(train, dev=str(parts))
    count = len(mapped.dev.targets)
    assert 0 < count < 10
    np.testing.assert_array_equal(mapped.dev.targets, whole.dev.targets[:count])


def test_a_folder_whose_files_differ_or_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder_of(tmp_path / "parts", "parquet", reviews(60, 1))
    keys = {"data.shards": "always"}
    monkeypatch.setattr(shard_files, "HEAD", 5)  # rows of the first file alone
    pq.write_table(pa.table({"text": ["a"], "stars": [1]}), path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet:1: the columns are text, stars"):
        prepare(requested(str(path), keys))
    (path / "c.parquet").unlink()
    encode = encoding.encode

    def add_and_encode(*arguments: Any) -> Any:
        (path / "c.parquet").write_bytes((path / "a.parquet").read_bytes())
        return encode(*arguments)

    monkeypatch.setattr(encoding, "encode", add_and_encode)
    with pytest.raises(DataError, match=r"parts: the file changed while it was read"):
        prepare(requested(str(path), keys))
    assert not [*cache.glob("*/"), *cache.glob("*.lock")]


@pytest.fixture
def reviews_of_hub(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """A data set of the hub, whose labels are numbers with names."""
    names = ["bad", "good"]
    rows = DataSet(
        {"text": text, "label": names.index(label)} for text, label in reviews(120, 1)
    )
    rows.column_names = ["text", "label"]
    rows.features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=names)}
    put_hub(monkeypatch, lambda name, config=None, *, split: rows)
    return rows


def test_a_data_set_of_the_hub(reviews_of_hub: DataSet) -> None:
    name = "hub:own/reviews:train"
    whole, mapped = both(name, tokenizer="chars")
    check_labels(whole, mapped)
    assert mapped.files == whole.files == {name: "f00d"}
    assert whole.task.output.names == ("bad", "good")
    keys = {"tokenizer": "bpe", "vocabulary": 300, "task": "language", "text": "text"}
    whole, mapped = both(name, **keys)
    check_text(whole, mapped)
    assert any(
        line.startswith("encoded before") for line in both(name, **keys)[1].lines
    )
    # another version of it is encoded anew
    reviews_of_hub._fingerprint = "beef"
    reviews_of_hub.pop()
    whole, mapped = both(name, **keys)
    assert any(line.startswith("encoded in") for line in mapped.lines)
    check_text(whole, mapped)


def test_large_folders_and_data_sets_of_the_hub_are_sharded(
    tmp_path: Path, reviews_of_hub: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "parts", "parquet", reviews(60, 1))
    files = sum(file.stat().st_size for file in folder.iterdir())
    sizes = {str(folder): 4 * files, "hub:own/reviews": reviews_of_hub.data.nbytes}
    for name, size in sizes.items():
        for largest, is_sharded in ((size, True), (size + 1, False)):
            monkeypatch.setattr(large, "LARGE", largest)
            lines = prepare(requested(name, {})).lines
            assert any("encoded" in line for line in lines) == is_sharded, (name, size)


def test_labels_are_learnt_from_shards_and_predicted(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", reviews(120, 1), ("text", "label"))
    assert (
        prepare(requested(str(path), {"data.shards": "never"})).recipe.model.ngrams > 0
    )
    settings = {key: value for key, value in SMALL.items() if key != "model.ngrams"}
    settings |= {
        "training.max_steps": 30,
        "training.learning_rate": 0.02,
        "data.shards": "always",
    }
    unrolled.train(
        path, out=tmp_path / "run", quiet=True, say=lambda line: None, **settings
    )
    run = unrolled.load(tmp_path / "run")
    assert run.recipe.model.ngrams == 0  # by default, as the shards keep no characters
    assert run.predict(["a lovely film", "별로", "awful"]) == ["good", "bad", "bad"]


def test_a_run_trains_and_resumes_from_shards(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text(story(0), "utf-8")
    keys = SMALL | {
        "training.batch_size": 4,
        "training.window": 16,
        "data.shards": "always",
    }
    keys |= {"training.schedule": "constant"}

    def run(name: str, steps: int, **more: Any) -> dict[str, Any]:
        changes = keys | {"training.max_steps": steps}
        where = tmp_path / name
        return unrolled.train(
            path, out=where, quiet=True, say=lambda line: None, **changes, **more
        ).result["scores"]

    run("a", 3)
    resumed = run("a", 6, resume=True)
    keys["data.shards"] = "never"
    assert run("b", 6) == resumed


def test_one_label_is_refused_before_a_vocabulary_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"a film {n}", "good") for n in range(60)]
    path = write_csv(tmp_path / "t.csv", rows, ("text", "label"))

    def learn(*_: Any) -> None:
        pytest.fail("a vocabulary was learnt")

    monkeypatch.setattr(shard_files.ShardFile, "vocabulary", learn)
    with pytest.raises(DataError, match="holds only 'good'"):
        prepare(
            requested(
                str(path),
                {"task": "classify", "data.shards": "always", "model.ngrams": 0},
            )
        )
