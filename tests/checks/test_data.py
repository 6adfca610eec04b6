"""Checks of the data: each is silent on sound data and finds the fault that is planted."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import reviews, sentences, write_csv, write_jsonl
from unrolled.checks import Context, Finding, quick
from unrolled.runs import shard_files

from .conftest import Ask

Plan = Callable[..., Context]
HEAD = ("text", "label")


def numbers(count: int, seed: int) -> list[tuple[float, float, int]]:
    """Return two columns of which neither tells the label by itself."""
    draw = random.Random(seed)
    rows = [(draw.random(), draw.random()) for _ in range(count)]
    return [(a, b, int(a + b > 1)) for a, b in rows]


def faulty(finding: Finding | None, status: str, *texts: str) -> None:
    assert finding is not None
    assert finding.status == status, finding
    for text in texts:
        assert text in f"{finding.message}\n{finding.where}", finding


def sound(finding: Finding | None) -> None:
    assert finding is not None
    assert finding.status == "ok", finding


@pytest.fixture
def clean(tmp_path: Path, plan: Plan) -> Context:
    return plan(
        write_csv(tmp_path / "clean.csv", reviews(1200, 1), HEAD), data__holdout=0.2
    )


QUIET = [
    "rows in both parts",
    "same row, other label",
    "columns that tell",
    "tokens that tell",
    "rare labels",
    "the scored part",
    "order of the rows",
    "cut texts",
    "unknown tokens",
    "empty inputs",
]


@pytest.mark.parametrize("name", QUIET)
def test_sound_texts_are_found_sound(clean: Context, find: Ask, name: str) -> None:
    sound(find(name, clean))


def test_rows_that_are_skipped_contradict_nothing(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows: list[tuple[object, ...]] = [
        *numbers(200, 1),
        *(("oops", 1, n % 2) for n in range(30)),
    ]
    file = write_csv(tmp_path / "t.csv", rows, ("a", "b", "y"))
    settings = {
        "data.on_error": "skip",
        "data.missing": "error",
        "data.numbers": ["a", "b"],
        "data.label": "y",
    }
    sound(
        find(
            "same row, other label",
            plan(file, **{k.replace(".", "__"): v for k, v in settings.items()}),
        )
    )


def test_scored_rows_that_were_trained_on(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    train = reviews(60, 1)
    dev = reviews(90, 2)[60:]
    copies = [(f"  {text.upper()} ", label) for text, label in train[:4]]
    write_csv(tmp_path / "dev.csv", [*dev, *copies], HEAD)
    context = plan(write_csv(tmp_path / "train.csv", train, HEAD), data__dev="dev.csv")
    finding = find("rows in both parts", context)
    faulty(finding, "problem", "4 of 34 scored rows", "dev.csv:32 = train.csv:2")


def test_lines_of_a_text_that_were_trained_on(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    lines = [
        f"{'abcdefgh'[i % 8]} line number {i} of a text that goes on"
        for i in range(100)
    ]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    sound(find("rows in both parts", plan(path)))
    lines[97] = lines[3].upper()
    path.write_text("\n".join(lines), encoding="utf-8")
    faulty(
        find("rows in both parts", plan(path)), "problem", "text.txt:98 = text.txt:4"
    )


def test_scoring_the_training_rows_is_no_fault_when_asked_for(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    path = write_csv(tmp_path / "same.csv", reviews(60, 1), HEAD)
    finding = find("rows in both parts", plan(path, data__dev=str(path)))
    sound(finding)
    assert finding is not None
    assert "as asked" in finding.message


@pytest.mark.parametrize(
    ("count", "status"), [(1, "ok"), (8, "warning"), (40, "problem")]
)
def test_equal_rows_of_different_labels(
    tmp_path: Path, plan: Plan, find: Ask, count: int, status: str
) -> None:
    rows = reviews(400, 1)
    other = {"good": "bad", "bad": "good"}
    turned = [(text.upper(), other[label]) for text, label in rows[:count]]
    write_csv(tmp_path / "dev.csv", reviews(450, 2)[400:], HEAD)
    context = plan(
        write_csv(tmp_path / "a.csv", rows + turned, HEAD), data__dev="dev.csv"
    )
    finding = find("same row, other label", context)
    faulty(finding, status, f"{2 * count} of {400 + count}", "a.csv:2 and a.csv:402")
    assert finding is not None
    # whoever knows every row errs in one of each pair
    assert f"{1 - count / (400 + count):.1%}" in finding.message


def test_a_column_that_is_numbered_by_class(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows = numbers(600, 1)
    sound(
        find(
            "columns that tell",
            plan(write_csv(tmp_path / "a.csv", rows, ("a", "b", "y"))),
        )
    )
    numbered = [(a, b, i if y else 100_000 + i, y) for i, (a, b, y) in enumerate(rows)]
    path = write_csv(tmp_path / "b.csv", numbered, ("a", "b", "serial", "y"))
    faulty(find("columns that tell", plan(path)), "problem", "column 'serial'")
    spared = find("columns that tell", plan(path, data__numbers=["a", "b"]))
    sound(spared)
    assert spared is not None
    assert "serial would, but is left out" in spared.message


def test_a_copy_of_the_value_in_another_unit(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    draw = random.Random(1)
    rows = [(draw.random(), draw.random()) for _ in range(200)]
    sums = [(a, b, a + 2 * b) for a, b in rows]
    path = write_csv(tmp_path / "a.csv", sums, ("a", "b", "y"))
    sound(find("columns that tell", plan(path)))
    copied = [(a, b, 7 - 30 * y, y) for a, b, y in sums]
    path = write_csv(tmp_path / "b.csv", copied, ("a", "b", "won", "y"))
    faulty(find("columns that tell", plan(path)), "problem", "column 'won'")


def test_a_label_that_is_written_into_the_text(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows = [(f"{text} #{label}", label) for text, label in reviews(400, 1)]
    path = write_csv(tmp_path / "a.csv", rows, HEAD)
    context = plan(path, data__tokenizer="words")
    faulty(
        find("tokens that tell", context),
        "warning",
        "by itself (F1 1.000)",
        "column 'text'",
    )


def test_labels_that_are_rare_or_in_one_part(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows = reviews(60, 1)
    train = [
        *rows,
        ("so so", "even"),
        ("so la la", "even"),
        *[(f"ah {i}", "odd") for i in range(9)],
    ]
    write_csv(tmp_path / "dev.csv", [*reviews(90, 2)[60:], ("so", "even")], HEAD)
    context = plan(write_csv(tmp_path / "a.csv", train, HEAD), data__dev="dev.csv")
    finding = find("rare labels", context)
    faulty(
        finding,
        "warning",
        "'even' with fewer than 5",
        "'odd' in the training part alone",
    )


def test_a_label_that_is_held_out_whole(tmp_path: Path, plan: Plan, find: Ask) -> None:
    for number in range(200):  # the split is by the hash of the text
        rows = [*reviews(60, 1), (f"so so {number}", "even")]
        context = plan(write_csv(tmp_path / "a.csv", rows, HEAD), data__holdout=0.2)
        if "even" in context.dev.answers:
            break
    faulty(find("rare labels", context), "warning", "'even' in the scored part alone")


def test_a_small_or_uneven_scored_part(tmp_path: Path, plan: Plan, find: Ask) -> None:
    path = write_csv(tmp_path / "a.csv", reviews(200, 1), HEAD)
    faulty(find("the scored part", plan(path)), "warning", "only ", "chance alone")
    rows = [(f"film {i}", "bad" if i % 20 else "good") for i in range(1200)]
    context = plan(write_csv(tmp_path / "b.csv", rows, HEAD), data__holdout=0.3)
    faulty(find("the scored part", context), "warning", "always saying 'bad'")


def test_sorted_rows_of_which_only_some_are_read(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows = sorted(reviews(600, 1), key=lambda row: row[1])
    path = write_csv(tmp_path / "a.csv", rows, HEAD)
    whole = find("order of the rows", plan(path))
    sound(whole)
    assert whole is not None
    assert "harmless" in whole.message
    faulty(
        find("order of the rows", plan(path, data__limit=400)), "warning", "first 400"
    )


def test_what_is_cut_off(tmp_path: Path, plan: Plan, find: Ask) -> None:
    rows = [*reviews(60, 1), (" ".join(["endless"] * 500), "bad")]
    path = write_csv(tmp_path / "a.csv", [rows[-1], *rows[:-1]], HEAD)
    context = plan(
        path, data__tokenizer="words", data__max_tokens=9, data__dev=str(path)
    )
    finding = find("cut texts", context)
    # the text of 500 words and its end mark keeps 9 tokens; the others have 6 each
    lost = 492 / (492 + 9 + 60 * 6)
    faulty(finding, "warning", "1 of 61 texts", f"{lost:.1%}", "a.csv:2", "501 tokens")


def test_characters_that_training_never_saw(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    write_csv(tmp_path / "dev.csv", [("쫭쫭쫭 film", "bad"), ("a film", "good")], HEAD)
    path = write_csv(tmp_path / "a.csv", reviews(60, 1), HEAD)
    context = plan(path, data__dev="dev.csv", data__tokenizer="chars")
    faulty(find("unknown tokens", context), "warning", "3 of ", "쫭")


def test_an_unknown_character_of_a_text(tmp_path: Path, plan: Plan, find: Ask) -> None:
    (tmp_path / "dev.txt").write_text("abca쫭", encoding="utf-8")
    path = tmp_path / "a.txt"
    path.write_text("abcabc" * 20, encoding="utf-8")
    context = plan(path, data__dev="dev.txt")
    faulty(find("unknown tokens", context), "warning", "1 of 5", "쫭")


def test_rows_without_input(tmp_path: Path, plan: Plan, find: Ask) -> None:
    rows = [*reviews(60, 1), ("", "bad"), ("  ", "good")]
    context = plan(write_csv(tmp_path / "a.csv", rows, HEAD))
    faulty(find("empty inputs", context), "warning", "2 of 62 rows", "a.csv:62")


def test_tags_are_counted_by_the_word(tmp_path: Path, plan: Plan, find: Ask) -> None:
    rows = sentences(300, 1)
    context = plan(write_jsonl(tmp_path / "a.jsonl", rows), data__holdout=0.4)
    sound(find("rare labels", context))
    sound(find("the scored part", context))
    assert find("columns that tell", context) is None
    rows[0]["tags"][0] = "RARE"
    context = plan(write_jsonl(tmp_path / "a.jsonl", rows), data__holdout=0.4)
    faulty(find("rare labels", context), "warning", "'RARE'")
    assert np.sum([len(tags.split()) for tags in context.train.answers]) > 0


@pytest.fixture
def beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a training part only about 2,000 characters are at hand, as of a large file."""
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_files, "processors", lambda: 1)
    monkeypatch.setattr(shard_files, "FIRST", 2000)


@pytest.mark.usefixtures("beginning")
def test_of_a_large_table_the_first_rows_are_looked_at(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows = reviews(400, 1)
    write_csv(tmp_path / "dev.csv", [*reviews(520, 2)[400:], rows[1], rows[399]], HEAD)
    path = write_csv(tmp_path / "a.csv", rows, HEAD)
    context = plan(path, data__shards="always", data__dev="dev.csv", data__max_tokens=3)
    assert context.plan.prepared.partial
    count = len(context.train.inputs)
    assert count < 100
    only = f"of training only the first {count} rows were looked at"
    finding = find("rows in both parts", context)
    faulty(finding, "warning", "1 of 122 scored rows", only, "dev.csv:122 = a.csv:3")
    for name in ("same row, other label", "empty inputs"):
        finding = find(name, context)
        sound(finding)
        assert finding is not None
        assert only in finding.message
    # every text is cut, and only some are at hand
    faulty(
        find("cut texts", context), "warning", "400 of 400 texts", "of those looked at"
    )
    assert not any("fails with" in line for line in quick(context.plan))
    whole = plan(path, data__shards="always", data__dev=str(path), data__limit=20)
    assert not whole.plan.prepared.partial


@pytest.mark.usefixtures("beginning")
def test_cut_texts_that_are_not_at_hand(tmp_path: Path, plan: Plan, find: Ask) -> None:
    rows = [*reviews(200, 1), (" ".join(["endless"] * 500), "bad")]
    path = write_csv(tmp_path / "a.csv", rows, HEAD)
    keys = {"data__tokenizer": "words", "data__max_tokens": 9, "data__dev": str(path)}
    assert find("cut texts", plan(path, data__shards="always", **keys)) is None
    faulty(
        find("cut texts", plan(path, **keys)), "warning", "1 of 201 texts", "a.csv:202"
    )


@pytest.mark.usefixtures("beginning")
def test_no_line_of_a_large_text_is_told_wrong(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    lines = [
        f"{'abcdefgh'[i % 8]} line number {i} of a text that goes on"
        for i in range(200)
    ]
    lines[197] = lines[3].upper()
    lines[193] = "쫭" + lines[193]
    lines[170] += " 쫭"  # in training, after what is at hand
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    finding = find("rows in both parts", plan(path, data__shards="always"))
    faulty(finding, "problem", "of training only the first 51 lines were looked at")
    assert finding is not None
    assert finding.where == "the scored part of text.txt = text.txt:4"
    keys = {"data__shards": "always", "data__tokenizer": "chars", "data__min_count": 3}
    finding = find("unknown tokens", plan(path, **keys))
    assert finding is not None
    assert "never saw" not in finding.message


# ---------------------------------------------------------------------- how the data is read


def test_a_doubtful_reading_is_a_warning_with_its_key(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows: list[tuple[object, ...]] = list(numbers(60, 1))
    sound(find("how the data is read", plan(write_csv(tmp_path / "a.csv", rows))))
    rows[5] = ("?", *rows[5][1:])
    rows[6] = (rows[6][0], "n/a", rows[6][2])
    file = write_csv(tmp_path / "t.csv", rows, ("a", "b", "y"))
    finding = find("how the data is read", plan(file))
    faulty(finding, "warning", "a holds no number in 1 row (line 7)", "; and 1 more")
    assert finding is not None
    assert finding.advice == "data.missing"
    assert "b holds no number in 1 row (line 8)" in finding.where


def test_a_doubt_without_a_key_has_advice_too(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    rows = [
        (text, label + "\u200b" * (n % 2))
        for n, (text, label) in enumerate(reviews(60, 1))
    ]
    finding = find(
        "how the data is read", plan(write_csv(tmp_path / "t.csv", rows, HEAD))
    )
    faulty(finding, "warning", "blanks or spelling alone are one label")


# ---------------------------------------------------------------------- texts in both parts


def pairs(count: int, again: int) -> list[tuple[str, str, str]]:
    """Return rows of two texts; the second is one of few in every ``again``-th row."""
    rows = []
    for n in range(count):
        second = f"there were {n} cats on the mat"
        if n % again == 0:
            second = f"a man {'walks' if n % 3 else 'sits'} in the park"
        rows.append((f"sentence number {n} of them all", second, "yn"[n % 2]))
    return rows


def test_a_text_of_a_pair_in_both_parts(tmp_path: Path, plan: Plan, find: Ask) -> None:
    head = ("first", "second", "label")
    file = write_csv(tmp_path / "t.csv", pairs(120, 3), head)
    context = plan(file, data__text=["first", "second"])
    dev = context.plan.prepared.dev_data
    repeated = sum("in the park" in row[1] for row in dev.rows)  # type: ignore[union-attr]
    assert repeated
    texts = f"{repeated} of {len(dev.rows)} scored rows"  # type: ignore[union-attr]
    finding = find("texts in both parts", context)
    faulty(finding, "warning", texts, "column 'second'")
    assert finding is not None
    assert finding.advice.startswith("data.group=second")
    # the advice mends it
    mended = plan(file, data__text=["first", "second"], data__group="second")
    sound(find("texts in both parts", mended))


def test_one_text_a_row_is_left_to_the_rows(clean: Context, find: Ask) -> None:
    assert find("texts in both parts", clean) is None


# ---------------------------------------------------------------------- columns that hint


def agents(count: int, right: float) -> list[tuple[str, str, str]]:
    """Return texts whose label an agent has with some probability; 8 agents of 4 labels."""
    draw = random.Random(2)
    rows = []
    for n in range(count):
        agent = draw.randrange(8)
        kind = agent % 4 if draw.random() < right else draw.randrange(4)
        rows.append((f"ticket {n} with a few words in it", f"a{agent}", f"k{kind}"))
    return rows


@pytest.mark.parametrize(("right", "status"), [(0.9, "warning"), (0.2, "ok")])
def test_a_column_that_tells_far_more_than_the_commonest_answer(
    tmp_path: Path, plan: Plan, find: Ask, right: float, status: str
) -> None:
    rows = agents(400, right)
    file = write_csv(tmp_path / "t.csv", rows, ("text", "agent", "label"))
    context = plan(file, data__holdout=0.3)
    finding = find("columns that tell", context)
    assert finding is not None
    assert finding.status == status
    if status == "ok":
        return
    # the commonest label of each agent in training, by hand
    prepared = context.plan.prepared
    votes: dict[str, list[str]] = {}
    for _, agent, kind in prepared.train_data.rows:  # type: ignore[union-attr]
        votes.setdefault(agent, []).append(kind)
    best = {agent: max(set(kinds), key=kinds.count) for agent, kinds in votes.items()}
    hits = [best[agent] == kind for _, agent, kind in prepared.dev_data.rows]  # type: ignore[union-attr]
    part = f"{np.mean(hits):.0%} of the scored rows"
    faulty(finding, "warning", f"column 'agent' by itself tells {part}: it is left out")
    read = plan(file, data__text="text", data__categories=["agent"])
    faulty(find("columns that tell", read), "warning", "column 'agent'", "it is read")


def test_a_number_that_is_read_may_tell_much(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    draw = random.Random(1)
    rows = [(draw.gauss(n % 2 * 2.5, 1), draw.random(), n % 2) for n in range(300)]
    file = write_csv(tmp_path / "t.csv", rows, ("a", "b", "y"))
    sound(find("columns that tell", plan(file)))
