"""``unrolled evaluate``: scores of a file, as lines or as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import unrolled
from conftest import reviews, write_csv

Call = Callable[..., tuple[str, str]]
SCORES = {
    "classify": {"accuracy", "macro_f1", "loss"},
    "regress": {"mae", "rmse", "loss"},
    "vectors": {"mae", "rmse", "loss"},
    "tag": {"accuracy", "macro_f1", "loss"},
    "language": {"loss", "perplexity", "bits_per_byte", "accuracy"},
}


@pytest.mark.parametrize("kind", SCORES)
def test_json_is_one_document_with_the_scores_at_the_top(
    cli: Call, home: SimpleNamespace, kind: str
) -> None:
    out, err = cli("evaluate", home.runs[kind], home.files[kind], "--json")
    assert err == ""
    assert out.count("\n") == 1
    scores = json.loads(out)
    assert set(scores) == SCORES[kind]
    assert all(isinstance(value, float) for value in scores.values())
    assert scores == unrolled.load(home.runs[kind]).evaluate(home.files[kind])


def test_lines_show_each_score(cli: Call, home: SimpleNamespace) -> None:
    out, _ = cli("evaluate", home.runs["classify"], home.files["classify"])
    scores = unrolled.load(home.runs["classify"]).evaluate(home.files["classify"])
    assert out.splitlines() == [
        f"{name:<8}  {value:.4f}" for name, value in scores.items()
    ]


def test_other_column_names_are_told(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = reviews(30, 8)
    path = write_csv(
        tmp_path / "t.tsv", [(b, a) for a, b in rows], ("verdict", "opinion")
    )
    plain = write_csv(tmp_path / "u.csv", rows, ("text", "label"))
    bare = write_csv(tmp_path / "v.csv", rows)
    run = home.runs["classify"]
    expected = cli("evaluate", run, plain, "--json")
    words = ["data.text=opinion", "data.label=verdict"]
    assert cli("evaluate", run, path, *words, "--json") == expected
    assert cli("evaluate", run, bare, "--json") == expected
    assert "there is no column 'text'" in cli("evaluate", run, path, code=1)[1]
    _, err = cli(
        "evaluate", run, path, "data.text=opinoin", "data.label=verdict", code=1
    )
    assert "there is no column 'opinoin'; did you mean 'opinion'?" in err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.lable=x", "unknown key 'data.lable'; did you mean 'data.label'?"),
        ("data=x", "data"),
        ("notice=x", "notice cannot change in a trained run"),
        ("model.hidden=9", "only keys under data can"),
        ("x", "'x' is not key=value"),
    ],
)
def test_a_wrong_key_is_one_line(
    cli: Call, home: SimpleNamespace, word: str, message: str
) -> None:
    assert (
        message
        in cli("evaluate", home.runs["classify"], home.files["classify"], word, code=2)[
            1
        ]
    )


def test_skipped_rows_are_told_beside_the_document(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(
        tmp_path / "t.csv", [*reviews(9, 8), ("x", "meh")], ("text", "label")
    )
    _, err = cli("evaluate", home.runs["classify"], path, code=1)
    assert f"{path}:11: label 'meh' was not seen in training (known: bad, good)" in err
    out, err = cli(
        "evaluate", home.runs["classify"], path, "data.on_error=skip", "--json"
    )
    assert set(json.loads(out)) == SCORES["classify"]
    assert err.startswith("unrolled: skipped 1 faulty row; ")
