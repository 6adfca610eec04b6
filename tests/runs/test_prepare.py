"""From a file to encoded rows: what is held out, counted, skipped, and what the fields may see."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import reviews, write_csv
from unrolled.core.errors import DataError, UserError
from unrolled.data.sources import Document, Table
from unrolled.fields.text import Text
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks.classify import Classify
from unrolled.tasks.language import Language
from unrolled.tasks.regress import Regress


def prepared(path: Path, **changes: object) -> Prepared:
    return prepare(
        requested(str(path), {k.replace("__", "."): v for k, v in changes.items()})
    )


def texts(data: Table | Document) -> list[str]:
    assert isinstance(data, Table)
    return [row[data.columns.index("text")] for row in data.rows]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = reviews(60, 4)
    return write_csv(tmp_path / "r.csv", rows + rows[:20] + rows[:9], ("text", "label"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_rows_share_no_text_with_training_rows(file: Path, seed: int) -> None:
    result = prepared(file, seed=seed, data__holdout=0.3)
    train = texts(result.train_data)
    dev = texts(result.dev_data)
    assert train
    assert dev
    assert not set(train) & set(dev)
    assert len(train) + len(dev) == 89
    assert (
        f"held out {len(dev)} of 89 rows by the hash of their inputs (data.dev=FILE)"
        in result.lines
    )


def test_the_seed_chooses_what_is_held_out(file: Path) -> None:
    held = [tuple(texts(prepared(file, seed=seed).dev_data)) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_the_fields_learn_nothing_from_held_out_rows(tmp_path: Path) -> None:
    # every text has a character of its own: those of held-out rows must be unknown
    own = [chr(0x4E00 + n) for n in range(80)]
    rows = [(f"ab {c}", "xy"[n % 2]) for n, c in enumerate(own)]
    result = prepared(
        write_csv(tmp_path / "r.csv", rows, ("text", "label")),
        data__tokenizer="chars",
        data__holdout=0.3,
    )
    assert isinstance(result.task, Classify)
    assert isinstance(result.task.inputs, Text)
    tokenizer = result.task.inputs.tokenizer
    known = {c for c in own if tokenizer.unk_id not in tokenizer.encode(c)}
    assert known == {text[-1] for text in texts(result.train_data)}
    assert known.isdisjoint(text[-1] for text in texts(result.dev_data))


def test_a_number_is_scaled_by_training_rows_alone(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "a.csv", [(n, 2 * n) for n in range(10)], ("x", "y"))
    dev = write_csv(tmp_path / "b.csv", [(1000, 5), (2000, 7)], ("x", "y"))
    result = prepared(train, data__dev=str(dev))
    assert isinstance(result.task, Regress)
    assert result.task.output.mean == 9.0
    (column,) = result.task.inputs.features  # type: ignore[union-attr]
    assert column.scale.mean == 4.5


def test_a_language_model_holds_out_the_end_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("abcdefghi\n" * 10 + "XYZ")
    result = prepared(path)
    assert isinstance(result.task, Language)
    assert isinstance(result.train_data, Document)
    assert isinstance(result.dev_data, Document)
    assert result.train_data.text + result.dev_data.text == "abcdefghi\n" * 10 + "XYZ"
    assert len(result.dev_data.text) == 11
    assert (
        "held out the last 10% of the text, 11 characters (data.dev=FILE)"
        in result.lines
    )
    assert result.task.tokenizer.unknown(result.task.tokenizer.encode("X")) == 1


def test_a_dev_file_leaves_every_row_for_training(file: Path, tmp_path: Path) -> None:
    dev = write_csv(tmp_path / "dev.csv", reviews(7, 9), ("text", "label"))
    result = prepared(file, data__dev=str(dev))
    assert (len(result.train), len(result.dev)) == (89, 7)
    assert f"scored on {dev}" in result.lines
    assert set(result.files) == {str(file), str(dev)}


def test_a_limit_reads_the_first_rows_of_training_and_all_of_dev(
    file: Path, tmp_path: Path
) -> None:
    dev = write_csv(tmp_path / "dev.csv", reviews(40, 9), ("text", "label"))
    result = prepared(file, data__dev=str(dev), data__limit=30)
    assert texts(result.train_data) == [text for text, _ in reviews(60, 4)][:30]
    assert len(result.dev) == 40


def test_what_was_found_is_said_with_the_keys_that_overrule_it(tmp_path: Path) -> None:
    rows = [("same", "b"), ("same", "b"), ("", "a"), ("", "a")] + [
        (f"t{n}", "ab"[n % 2]) for n in range(30)
    ]
    path = write_csv(
        tmp_path / "r.csv",
        [(n, *row) for n, row in enumerate(rows)],
        ("id", "text", "label"),
    )
    assert prepared(path).lines[:6] == [
        f"{path}: comma-separated, header, UTF-8, 34 rows",
        "reads: text (data.text=COLUMN)",
        "predicts: label (data.label=COLUMN); 2 labels: b 17, a 17",
        "leaves out: id",
        "task: classify (many to one) (task=NAME)",
        "empty: 2 rows, repeated: 2 rows",
    ]


def test_a_faulty_row_stops_with_its_line_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text(
        "x,y\n" + "".join(f"{n},{n}\n" for n in range(20)) + "what,7\n21,21\n"
    )
    settings = {"data__numbers": ["x"], "data__label": "y", "data__missing": "error"}
    with pytest.raises(DataError) as caught:
        prepared(path, **settings)
    assert str(caught.value) == (
        f"{path}:22: column 'x' holds 'what' where a number is expected; "
        "mend the row, or set data.on_error=skip"
    )
    result = prepared(path, **settings, data__on_error="skip")
    assert len(result.train) + len(result.dev) == 21
    assert result.lines[-1].startswith(f"skipped 1 faulty row; the first: {path}:22: ")


def test_rows_without_a_label_are_no_label(tmp_path: Path) -> None:
    rows = [(f"t{n}", "ab"[n % 2]) for n in range(20)] + [("none", ""), ("neither", "")]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label"))
    lines = prepared(path, data__label="label", data__on_error="skip").lines
    assert lines[2] == (
        "predicts: label (data.label=COLUMN); 2 labels: a 10, b 10 (2 rows without one)"
    )


def test_the_words_of_a_faulty_row_can_be_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("x,y\n" + "".join(f"{n},{n}\n" for n in range(20)) + "secret,7\n")
    settings = {"data__numbers": ["x"], "data__label": "y", "data__on_error": "skip"}
    lines = prepared(path, **settings, report__samples=False).lines
    assert any(
        "x holds no number in 1 row (line 22): the median" in line for line in lines
    )
    assert not any("secret" in line for line in lines)
    settings |= {"data__missing": "error"}
    assert "secret" in prepared(path, **settings).lines[-1]
    kept = prepared(path, **settings, report__samples=False).lines[-1]
    assert kept == f"skipped 1 faulty row; the first: {path}:22"


def test_malformed_rows_are_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("x,y\n" + "".join(f"{n},{n}\n" for n in range(20)) + "1,2,3\n4\n")
    with pytest.raises(DataError, match=r"n\.csv:22: expected 2 fields"):
        prepared(path)
    assert (
        prepared(path, data__on_error="skip")
        .lines[-1]
        .startswith("skipped 2 faulty rows")
    )


def test_a_label_that_only_the_dev_file_has_is_named(
    file: Path, tmp_path: Path
) -> None:
    dev = write_csv(
        tmp_path / "dev.csv", [("a", "good"), ("b", "goood")], ("text", "label")
    )
    with pytest.raises(
        DataError, match=r"dev\.csv:3: label 'goood' was not seen .*mean 'good'\?"
    ):
        prepared(file, data__dev=str(dev))


def test_one_label_is_no_classification(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "r.csv", [(f"t {n}", "a") for n in range(9)], ("text", "label")
    )
    with pytest.raises(DataError, match=r"holds only 'a'; a classifier needs two"):
        prepared(path)


def test_equal_texts_alone_cannot_be_held_out(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "r.csv", [("t", "a"), ("t", "b")] * 9, ("text", "label")
    )
    with pytest.raises(
        UserError, match=r"r\.csv: nothing can be held out: .*data\.dev=FILE"
    ):
        prepared(path)


@pytest.mark.parametrize("task", ["classify", "regress", "tag"])
def test_a_plain_text_serves_only_the_language_task(tmp_path: Path, task: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text("some running text\nand more of it\n")
    with pytest.raises(DataError, match=f"task={task} needs a table"):
        prepared(path, task=task)


def test_words_and_tags_of_unequal_number_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = "".join(
        f'{{"words": ["a", "w{n}"], "tags": ["N", "V"]}}\n' for n in range(5)
    )
    path.write_text(
        rows + '{"words": ["c", "b"], "tags": ["N"]}\n' + rows.replace('"a"', '"d"')
    )
    with pytest.raises(DataError, match=r"t\.jsonl:6: 2 words but 1 tags"):
        prepared(path)
    assert len(prepared(path, data__on_error="skip").train) in range(5, 10)


def test_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("layer: gru\n")
    with pytest.raises(DataError, match=r"set data\.train=FILE"):
        prepared(tmp_path / "r.yaml")
