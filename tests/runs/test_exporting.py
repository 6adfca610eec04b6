"""Runs in other programs' formats, and the pages beside them followed line by line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import unrolled
from conftest import SMALL, SONG, Call, reviews, write_csv
from unrolled.core.errors import UsageError, UserError
from unrolled.run import Run

pytest.importorskip("onnxruntime")


def followed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str] | None = None,
) -> list[str]:
    """Run the lines of Python on a page, some of them changed, and return what they print."""
    page = (folder / "README.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    for old, new in (changes or {}).items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out.splitlines()


def exported(run: Run, tmp_path: Path, to: str = "onnx") -> Path:
    lines = list[str]()
    folder = run.export(to, tmp_path / to, lines.append)
    assert "differ by at most" in lines[-2]
    assert str(folder) in lines[-1]
    return folder


def probabilities_of(lines: list[str]) -> list[float]:
    return [float(line.split()[-1]) for line in lines]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier of texts in two columns, of n-grams and of a number beside them."""
    at = tmp_path_factory.mktemp("wide")
    rows = [(text, text[:5], len(text), label) for text, label in reviews(80, 4)]
    path = write_csv(at / "rows.csv", rows, ("title", "text", "stars", "label"))
    return unrolled.train(
        path,
        out=at / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL
        | {
            "model.ngrams": 3,
            "data.text": ["title", "text"],
            "data.numbers": ["stars"],
            "data.max_tokens": 9,
            "training.max_steps": 20,
        },
    )


def test_labels_of_texts_and_columns(
    wide: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = exported(wide, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "meta.json",
        "model.onnx",
        "tokenizer.json",
    ]
    field: Any = wide.task.columns_field  # type: ignore[attr-defined]
    (scaled,) = field.check((7,))
    zeros = "np.zeros((len(rows), 1), np.float32)"
    lines = followed(
        folder,
        monkeypatch,
        capsys,
        {zeros: f"np.full((len(rows), 1), {scaled!r}, np.float32)"},
    )
    rows = [
        {"title": text, "text": text, "stars": 7}
        for text in ("a text", "another, longer text")
    ]
    answers = wide.answers(rows)
    assert [line.split()[0] for line in lines] == [answer.text for answer in answers]
    ours = [answer.probability for answer in answers]
    np.testing.assert_allclose(probabilities_of(lines), ours, atol=1e-5)
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    assert meta["labels"] == ["bad", "good"]
    assert [port["name"] for port in meta["inputs"]] == [
        "tokens",
        "lengths",
        "features",
        "code_points",
        "code_point_counts",
    ]


def test_tags_of_words(
    home: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = unrolled.load(home.runs["tag"])
    lines = followed(
        exported(run, tmp_path), monkeypatch, capsys, {'"and", "some"': '"the", "cat"'}
    )
    answers = run.answers(["some words", "the cat more"])
    for line, answer in zip(lines, answers, strict=True):
        assert line.startswith(str(answer.details["tags"]))


@pytest.mark.parametrize("name", ["regress", "vectors"])
def test_values_of_rows(
    name: str,
    home: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = unrolled.load(home.runs[name])
    (line,) = followed(exported(run, tmp_path), monkeypatch, capsys)
    expected = run.answers([[0, 0]])[0].details["value"]
    values = [float(word) for word in line.strip("[]").split()]
    np.testing.assert_allclose(values, [expected] * 2, rtol=1e-5, atol=1e-3)


def test_labels_at_steps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [(s, n, n % 3, "ab"[n % 2]) for s in range(8) for n in range(12)]
    run = unrolled.train(
        write_csv(tmp_path / "steps.csv", rows, ("id", "x", "y", "state")),
        out=tmp_path / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL
        | {
            "task": "tag",
            "data.rows": "steps",
            "data.sequence": "id",
            "data.label": "state",
            "training.max_steps": 3,
        },
    )
    lines = followed(exported(run, tmp_path), monkeypatch, capsys)
    answer = run.answers([[[0.0, 0.0]] * 3])[0]
    assert lines[0].startswith(str(answer.details["tags"]))


def test_a_language_model_writes_what_ours_writes(
    home: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = unrolled.load(home.runs["language"])
    folder = exported(run, tmp_path)
    lines = followed(folder, monkeypatch, capsys, {"a text": "row your "})
    text = run.generate("row your ", 20, temperature=0)
    assert "\n".join(lines) == text
    assert text


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A language model over attention as a person gets it who sets nothing else."""
    at = tmp_path_factory.mktemp("gpt")
    (at / "song.txt").write_text(SONG * 30, encoding="utf-8")
    return unrolled.train(
        at / "song.txt",
        layer="attention",
        out=at / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL
        | {"model.embedding": 6, "training.window": 32, "training.max_steps": 60},
    )


def test_attention_writes_what_ours_writes(
    gpt: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = exported(gpt, tmp_path)
    lines = followed(folder, monkeypatch, capsys, {"a text": "row your "})
    text = gpt.generate("row your ", 20, temperature=0)
    assert "\n".join(lines) == text
    assert text


def test_transformers_writes_what_ours_writes(
    gpt: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("transformers")
    assert gpt.recipe.model.head_bias is False
    folder = exported(gpt, tmp_path, "hf")
    lines = followed(folder, monkeypatch, capsys, {"a text": "row your "})
    text = gpt.generate("row your ", 20, temperature=0)
    assert "\n".join(lines) == f"<eos>row your {text}"
    again = unrolled.load(folder)
    assert again.describe()["family"] == "llama"
    ids = gpt.task.tokenizer.encode("row your boat")  # type: ignore[union-attr]
    np.testing.assert_allclose(again.logits(ids), gpt.logits(ids), atol=1e-5)
    assert again.generate("row your ", 20, temperature=0) == text


def test_bad_requests_are_refused_before_anything_is_written(
    home: SimpleNamespace, gpt: Run, tmp_path: Path, cli: Call
) -> None:
    run = unrolled.load(home.runs["language"])
    with pytest.raises(UserError, match="hf has attention alone, and this run has"):
        run.export("hf", tmp_path / "x")
    with pytest.raises(UserError, match="hf has language models; texts written"):
        unrolled.load(home.runs["classify"]).export("hf", tmp_path / "x")
    with pytest.raises(UsageError, match="did you mean 'ctranslate2'"):
        run.export("ctranslate", tmp_path / "x")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is there already"):
        run.export("onnx", tmp_path / "mine")
    _, message = cli("export", home.runs["language"], "--to", "hf", code=1)
    assert "onnx has every layer" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
