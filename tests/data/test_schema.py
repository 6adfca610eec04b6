"""Which columns are read and which one is the answer: told by names, values and overruling keys."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unrolled.core.errors import DataError, UsageError
from unrolled.data.columns import counts, look
from unrolled.data.numbers import number
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Table, read

DRAW = random.Random(5)
WORDS = [
    "the",
    "a",
    "film",
    "was",
    "really",
    "good",
    "bad",
    "slow",
    "and",
    "with",
    "plot",
]


def prose(n: int) -> str:
    return f"{' '.join(DRAW.choices(WORDS, k=6))} {n}"


def lines(header: str, row: object, count: int = 80) -> str:
    assert callable(row)
    return (
        "\n".join([*([header] if header else []), *(row(n) for n in range(count))])
        + "\n"
    )


TABLES: dict[str, tuple[str, str, Schema]] = {
    "nsmc": (
        "ratings.txt",
        lines("id\tdocument\tlabel", lambda n: f"{9976970 + n}\t{prose(n)}\t{n % 2}"),
        Schema("classify", ("document",), (), "label"),
    ),
    "sms": (
        "sms.csv",
        lines("label,text", lambda n: f"{'spam' if n % 7 == 0 else 'ham'},{prose(n)}"),
        Schema("classify", ("text",), (), "label"),
    ),
    "sms without header": (
        "SMSSpamCollection",
        lines("", lambda n: f"{'spam' if n % 5 == 0 else 'ham'}\t{prose(n)}"),
        Schema("classify", ("column2",), (), "column1"),
    ),
    "stars": (
        "reviews.csv",
        lines("review,stars", lambda n: f"{prose(n)},{n % 5 + 1}"),
        Schema("classify", ("review",), (), "stars"),
    ),
    "numbers without header": (
        "table.csv",
        lines("", lambda n: f"{n % 9 + 1},{n // 9 + 1},{(n % 9 + 1) * (n // 9 + 1)}"),
        Schema("regress", (), ("column1", "column2"), "column3"),
    ),
    "numbers with header": (
        "houses.csv",
        lines("rooms,area,price", lambda n: f"{n % 5},{n * 3.5},{1000 + n * 17}"),
        Schema("regress", (), ("rooms", "area"), "price"),
    ),
    "iris": (
        "iris.csv",
        lines(
            "sepal_length,sepal_width,petal_length,petal_width,species",
            lambda n: (
                f"{n / 10},{n % 7},{n / 3:.2f},0.2,{['setosa', 'virginica'][n % 2]}"
            ),
        ),
        Schema(
            "classify",
            (),
            ("sepal_length", "sepal_width", "petal_length", "petal_width"),
            "species",
        ),
    ),
    "iris with row numbers": (
        "Iris.csv",
        lines(
            "Id,Length,Width,Species", lambda n: f"{n},{n / 10},{n % 7},{'ab'[n > 40]}"
        ),
        Schema("classify", (), ("Length", "Width"), "Species"),
    ),
    "sensors": (
        "sensors.csv",
        lines(
            "timestamp,ax,ay,az,phase",
            lambda n: (
                f"2024-01-01 00:00:{n % 60:02d},{n / 7:.3f},{-n},0.5,{'ab'[n // 40]}"
            ),
        ),
        Schema("classify", (), ("ax", "ay", "az"), "phase", dates=("timestamp",)),
    ),
    "question, answer, label": (
        "chat.csv",
        lines("Q,A,label", lambda n: f"{prose(n)},{prose(n)},{n % 3}"),
        Schema("classify", ("Q", "A"), (), "label"),
    ),
    "intents": (
        "intents.tsv",
        lines(
            "utterance\tintent",
            lambda n: f"{prose(n)}\t{['greet', 'order', 'bye'][n % 3]}",
        ),
        Schema("classify", ("utterance",), (), "intent"),
    ),
    "a price for a text": (
        "wine.csv",
        lines(
            "year,description,price",
            lambda n: f"{1990 + n % 4},{prose(n)},{n * 1.5 + 3}",
        ),
        Schema("regress", ("description",), ("year",), "price"),
    ),
    "labels 0 and 1 beside numbers": (
        "heart.csv",
        lines("age,pulse,target", lambda n: f"{n + 20},{60 + n % 9},{n % 2}"),
        Schema("classify", (), ("age", "pulse"), "target"),
    ),
    "words and tags": (
        "tags.jsonl",
        lines("", lambda n: f'{{"words": ["w{n}", "x"], "tags": ["N", "V"]}}'),
        Schema("tag", ("words",), (), "tags"),
    ),
    "labelled objects": (
        "intents.jsonl",
        lines("", lambda n: f'{{"id": {n}, "text": "{prose(n)}", "label": {n % 2}}}'),
        Schema("classify", ("text",), (), "label"),
    ),
    "one column": (
        "poems.csv",
        lines("text", prose),
        Schema("language", ("text",)),
    ),
    "pairs of texts without names": (
        "pairs.tsv",
        lines("", lambda n: f"{prose(n)}\t{prose(n)} and {prose(n)}"),
        Schema("translate", ("column1",), (), "column2"),
    ),
    "pairs and who wrote them": (
        "kor.txt",
        lines("", lambda n: f"{prose(n)}\t{prose(n)} {n}\tCC-BY 2.0 (France) #{n}"),
        Schema("translate", ("column1",), (), "column2"),
    ),
    "an answer by its name": (
        "reply.tsv",
        lines("answer\tquestion", lambda n: f"{prose(n)} so\t{prose(n)}?"),
        Schema("translate", ("question",), (), "answer"),
    ),
    "words and how they are written": (
        "go.tsv",
        lines("", lambda n: f"word{n}\t말{n}"),
        Schema("rewrite", ("column1",), (), "column2"),
    ),
    "words and their sounds": (
        "sounds.csv",
        lines("word,phonemes", lambda n: f"w{n}ord,W ER{n} D"),
        Schema("rewrite", ("word",), (), "phonemes"),
    ),
    "two texts and a label": (
        "nli.tsv",
        lines(
            "premise\thypothesis\tlabel",
            lambda n: f"{prose(n)} {prose(n)}\t{prose(n)}\t{n % 2}",
        ),
        Schema("classify", ("premise", "hypothesis"), (), "label"),
    ),
}


def table(path: Path, name: str, text: str) -> Table:
    (path / name).write_text(text, encoding="utf-8")
    dataset = read(path / name)
    assert isinstance(dataset, Table), dataset
    return dataset


@pytest.mark.parametrize("case", TABLES)
def test_a_realistic_table_is_understood_without_a_word(
    tmp_path: Path, case: str
) -> None:
    name, text, expected = TABLES[case]
    assert infer(table(tmp_path, name, text), ColumnHints()) == expected


@pytest.mark.parametrize(
    ("case", "hints", "expected"),
    [
        ("sms", ColumnHints(task="language"), Schema("language", ("text",))),
        (
            "sms",
            ColumnHints(label="text", text=("label",)),
            Schema("classify", ("label",), (), "text"),
        ),
        (
            "stars",
            ColumnHints(task="regress"),
            Schema("regress", ("review",), (), "stars"),
        ),
        (
            "question, answer, label",
            ColumnHints(text=("A",)),
            Schema("classify", ("A",), (), "label"),
        ),
        (
            "question, answer, label",
            ColumnHints(text=("A", "Q")),
            Schema("classify", ("A", "Q"), (), "label"),
        ),
        (
            "numbers without header",
            ColumnHints(label="column1"),
            Schema("classify", (), ("column2", "column3"), "column1"),
        ),
        (
            "iris",
            ColumnHints(numbers=("petal_width",)),
            Schema("classify", (), ("petal_width",), "species"),
        ),
        (
            "iris with row numbers",
            ColumnHints(numbers=("Id", "Width")),
            Schema("classify", (), ("Id", "Width"), "Species"),
        ),
        (
            "iris",
            ColumnHints(label="sepal_length", numbers=("petal_width",)),
            Schema("regress", (), ("petal_width",), "sepal_length"),
        ),
        (
            "sensors",
            ColumnHints(label="ax", numbers=("ay",)),
            Schema("regress", (), ("ay",), "ax"),
        ),
        (
            "a price for a text",
            ColumnHints(label="price"),
            Schema("regress", ("description",), ("year",), "price"),
        ),
        (
            "pairs of texts without names",
            ColumnHints(text=("column2",)),
            Schema("translate", ("column2",), (), "column1"),
        ),
        (
            "pairs of texts without names",
            ColumnHints(task="rewrite", label="column1"),
            Schema("rewrite", ("column2",), (), "column1"),
        ),
        (
            "pairs of texts without names",
            ColumnHints(task="language", text=("column1",)),
            Schema("language", ("column1",)),
        ),
        (
            "two texts and a label",
            ColumnHints(text=("premise",), label="hypothesis"),
            Schema("translate", ("premise",), (), "hypothesis"),
        ),
        (
            "labelled objects",
            ColumnHints(label="id", task="regress"),
            Schema("regress", ("text",), ("label",), "id"),
        ),
    ],
)
def test_every_key_overrules_the_guess(
    tmp_path: Path, case: str, hints: ColumnHints, expected: Schema
) -> None:
    name, text, _ = TABLES[case]
    assert infer(table(tmp_path, name, text), hints) == expected


@pytest.mark.parametrize(
    ("hints", "column", "nearest"),
    [
        (ColumnHints(label="labl"), "labl", "label"),
        (ColumnHints(text=("txet",)), "txet", "text"),
        (ColumnHints(numbers=("label2",)), "label2", "label"),
    ],
)
def test_a_column_that_is_not_there_is_answered_with_the_nearest(
    tmp_path: Path, hints: ColumnHints, column: str, nearest: str
) -> None:
    name, text, _ = TABLES["sms"]
    with pytest.raises(UsageError) as caught:
        infer(table(tmp_path, name, text), hints)
    assert f"no column {column!r}; did you mean {nearest!r}?" in str(caught.value)
    assert name in str(caught.value)


def test_a_name_like_no_other_is_answered_with_all_names(tmp_path: Path) -> None:
    name, text, _ = TABLES["sms"]
    with pytest.raises(UsageError, match="known: label, text"):
        infer(table(tmp_path, name, text), ColumnHints(label="zzzzzzzzz"))


def test_numbers_that_leave_no_answer_say_which_key_names_it(tmp_path: Path) -> None:
    dataset = table(tmp_path, "log.csv", lines("date,text", lambda n: f"{n},t{n}", 9))
    with pytest.raises(DataError, match=r"data\.label=COLUMN \(columns: date, text\)"):
        infer(dataset, ColumnHints(numbers=("date",)))


def test_an_answer_with_nothing_beside_it_says_what_to_name(tmp_path: Path) -> None:
    dataset = table(
        tmp_path, "one.csv", lines("index,label", lambda n: f"x{n},{n % 2}", 30)
    )
    with pytest.raises(
        DataError, match=r"no column is left to read beside the answer 'label'"
    ):
        infer(dataset, ColumnHints())


def test_a_table_of_row_numbers_alone_still_has_something_to_read(
    tmp_path: Path,
) -> None:
    dataset = table(
        tmp_path, "series.csv", lines("time,value", lambda n: f"{n},{n * n}")
    )
    assert infer(dataset, ColumnHints()) == Schema("regress", (), ("time",), "value")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("1", 1.0),
        (" -2.5e3 ", -2500.0),
        (7, 7.0),
        *(
            (other, None)
            for other in ("", "x", True, None, "nan", "inf", float("nan"), [1])
        ),
    ],
)
def test_only_finite_numbers_are_numbers(cell: object, expected: float | None) -> None:
    assert number(cell) == expected


def test_a_column_of_lists_is_no_label_and_no_number() -> None:
    column = look("tags", [["N"], ["V"]] * 20)
    assert column.lists
    assert not column.labels
    assert not column.numeric


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["a", "b"] * 4, True),
        (["a", "b"] * 3, False),  # too few of each
        (["a"] * 9, False),  # one value tells nothing
        ([str(n) for n in range(51)] * 9, False),  # too many
        ([str(n) for n in range(50)] * 4, True),
        (["a", "b", "", None] * 4, True),
    ],
)
def test_labels_are_few_values_that_repeat(
    values: list[str | None], labels: bool
) -> None:
    assert look("x", values).labels is labels


def test_counts_names_the_most_frequent_first() -> None:
    assert list(counts(["b", "a", 1, "b"]).items()) == [("b", 2), ("a", 1), ("1", 1)]


def test_counts_shows_labels_as_the_answers_do() -> None:
    frequencies = counts([True, "true", 1.0, "1 ", None, "", " ", False])
    assert frequencies == {"(empty)": 3, "true": 2, "1": 2, "false": 1}


STEPS = [
    (
        f"0:{n:02}:00",
        "a" if n < 40 else "b",
        n / 7,
        -n / 3,
        ["rest", "walk"][n % 2],
        int(n < 40),
    )
    for n in range(60)
]
ABOUT = ("time", "who", "x", "y", "phase", "left")
WHO: dict[str, Any] = {"categories": ("who",)}
APART: dict[str, Any] = {"sequence": "who"}
BOTH: dict[str, Any] = {"categories": ("who", "phase")}


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        # a word is the label of a step; y is a coordinate, and who may name the recordings
        ({"rows": "steps"}, Schema("tag", (), ("x", "y", "left"), "phase", **WHO)),
        ({"sequence": "who"}, Schema("tag", (), ("x", "y", "left"), "phase", **APART)),
        (
            {"sequence": "who", "label": "left"},
            Schema("classify", (), ("x", "y"), "left", **APART, categories=("phase",)),
        ),
        # whoever names one kind names all
        ({"rows": "steps", "numbers": ("x",)}, Schema("tag", (), ("x",), "phase")),
        (
            {"rows": "steps", "label": "phase", "categories": ("who",)},
            Schema("tag", (), (), "phase", **WHO),
        ),
        # none of a kind
        (
            {"rows": "steps", "without": ("categories", "dates")},
            Schema("tag", (), ("x", "y", "left"), "phase"),
        ),
        # a forecast reads what it forecasts, up to the last step
        (
            {"window": 5, "label": "x"},
            Schema("regress", (), ("x", "y", "left"), "x", **BOTH),
        ),
        (
            {"window": 5, "label": "x", "ahead": 0},
            Schema("regress", (), ("y", "left"), "x", **BOTH),
        ),
        (
            {"window": 5, "label": "phase"},
            Schema("classify", (), ("x", "y", "left"), "phase", **WHO),
        ),
        (
            {"window": 5, "label": "phase", "task": "tag"},
            Schema("tag", (), ("x", "y", "left"), "phase", **WHO),
        ),
    ],
)
def test_rows_that_are_steps(
    tmp_path: Path, hints: dict[str, Any], expected: Schema
) -> None:
    text = "\n".join(",".join(map(str, row)) for row in [ABOUT, *STEPS])
    schema = infer(table(tmp_path, "s.csv", text), ColumnHints(**hints))
    assert schema == replace(expected, frames=True, steps=True)


DAYS = [f"2021-{n // 28 + 1:02}-{n % 28 + 1:02}" for n in range(60)]


@pytest.mark.parametrize(
    ("hints", "time", "dates"),
    [
        ({}, "day", ("day",)),
        ({"time": "t"}, "t", ()),
        ({"without": ("dates",)}, "day", ()),
        ({"numbers": ("x",)}, "day", ()),
        ({"dates": ("day",), "numbers": ("x",)}, "day", ("day",)),
    ],
)
def test_the_time_of_steps_is_a_date(
    tmp_path: Path, hints: dict[str, Any], time: str, dates: tuple[str, ...]
) -> None:
    rows = [f"{n},{day},{n / 7}" for n, day in enumerate(DAYS)]
    path = table(tmp_path, "s.csv", "\n".join(["t,day,x", *rows]))
    schema = infer(path, ColumnHints(window=5, **hints))
    assert (schema.time, schema.dates) == (time, dates)


def test_steps_of_which_nothing_is_left_to_read_are_refused(tmp_path: Path) -> None:
    text = "\n".join(",".join(map(str, row)) for row in [ABOUT, *STEPS])
    with pytest.raises(DataError, match="no column is left to read at each step"):
        infer(
            table(tmp_path, "s.csv", text),
            ColumnHints(rows="steps", without=("numbers", "categories")),
        )


@pytest.mark.parametrize(
    ("row", "hints", "expected"),
    [
        (
            {"x": [1, 2.5], "phase": ["a", "b"]},
            {},
            Schema("tag", (), ("x",), "phase", True),
        ),
        (
            {"f": [[1, 2]], "label": "up"},
            {},
            Schema("classify", (), ("f",), "label", True),
        ),
        (
            {"f": [1], "g": [3], "y": 1.5},
            {},
            Schema("regress", (), ("f", "g"), "y", True),
        ),
        (
            {"f": [1], "g": [3], "y": 1.5},
            {"numbers": ("g",)},
            Schema("regress", (), ("g",), "y", True),
        ),
        (
            {"text": "words", "f": [1], "label": "a"},
            {"text": ("text",)},
            Schema("classify", ("text",), (), "label"),
        ),
        ({"words": ["1"], "tags": ["a"]}, {}, Schema("tag", ("words",), (), "tags")),
        # kinds and dates at the steps, and a kind of the whole row
        (
            {
                "x": [1, 2],
                "k": ["a", "b"],
                "d": ["2021-01-02"] * 2,
                "s": ["a"],
                "y": 1.5,
            },
            {},
            Schema("regress", (), ("x",), "y", True, categories=("k",), dates=("d",)),
        ),
        (
            {"x": [1, 2], "k": ["a", "b"], "y": 1.5},
            {"categories": ("k",)},
            Schema("regress", (), (), "y", True, categories=("k",)),
        ),
        (
            {"x": [1, 2], "k": ["a", "b"], "y": 1.5},
            {"without": ("categories",)},
            Schema("regress", (), ("x",), "y", True),
        ),
    ],
)
def test_lists_of_numbers_are_sequences(
    tmp_path: Path, row: dict[str, object], hints: dict[str, Any], expected: Schema
) -> None:
    rows = [json.dumps(row) for _ in range(30)]
    assert (
        infer(table(tmp_path, "s.jsonl", "\n".join(rows)), ColumnHints(**hints))
        == expected
    )
