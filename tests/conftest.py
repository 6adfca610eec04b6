"""Tiny runs, trained once and shared by the tests, and the command line called in-process."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings

from unrolled.data.sources import Table, read
from unrolled.ops import native

# no test is timed: a busy machine takes what it takes
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# two busy cores: threads that wait for each other cost more than they give
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# without the native core the suite runs on torch's kernels: the one warning that says so comes
# here, where it is no error; tests/ops/test_native.py looks at it
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)
    if (
        not native.available()
    ):  # processes that tests start are to say nothing more, either
        os.environ["PYTHONWARNINGS"] = (
            "ignore:the native core is not in use:RuntimeWarning"
        )

SONG = "row your boat\ngently down the stream\n"
SMALL = {
    "model.hidden": 8,
    "model.embedding": 8,
    "model.ngrams": 0,
    "training.threads": 1,
    "training.precision": "fp32",
    "training.log_every": 10,
    # a look inside takes longer than such a training
    "report.inside": False,
}
LOOKS = {"report.inside": True}


def write_csv(
    path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ()
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerows([header, *rows] if header else rows)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a data file."""

    def write_file(content: str | bytes, name: str = "data.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def table(path: Path, **options: Any) -> Table:
    """Read a file that must be a table."""
    dataset = read(path, **options)
    assert isinstance(dataset, Table), dataset
    return dataset


def reviews(count: int, seed: int, wrong: float = 0.0) -> list[tuple[str, str]]:
    """Return texts with labels that their words tell, a share of them wrong."""
    draw = random.Random(seed)
    words = {"good": ["lovely", "great", "좋아요"], "bad": ["awful", "boring", "별로"]}
    rows = []
    for number in range(count):
        truth = draw.choice(["good", "bad"])
        text = f"{draw.choice(words[truth])} film number {number} {draw.choice(words[truth])}"
        if draw.random() < wrong:
            truth = "bad" if truth == "good" else "good"
        rows.append((text, truth))
    return rows


def sentences(count: int, seed: int) -> list[dict[str, list[str]]]:
    """Return words with the tag each always has."""
    draw = random.Random(seed)
    known = {"cat": "N", "dog": "N", "fish": "N", "runs": "V", "eats": "V", "the": "D"}
    rows = []
    for _ in range(count):
        words = draw.choices(sorted(known), k=draw.randrange(2, 6))
        rows.append({"words": words, "tags": [known[word] for word in words]})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run of each kind: ``files`` and run folders by name, and what training said."""
    from unrolled.run import train

    at = tmp_path_factory.mktemp("home")
    draw = random.Random(3)
    houses = [(r, a, 10 * r + 2 * a + 0.5) for r in range(1, 9) for a in range(20, 28)]
    draw.shuffle(houses)
    files = {
        "classify": write_csv(
            at / "reviews.csv", reviews(120, 1, 0.1), ("text", "label")
        ),
        "regress": write_csv(at / "houses.csv", houses, ("rooms", "area", "price")),
        "vectors": write_csv(
            at / "table.csv",
            [(a, b, a * b) for a in range(1, 10) for b in range(1, 10)],
        ),
        "tag": write_jsonl(at / "tags.jsonl", sentences(60, 2)),
        "language": at / "song.txt",
    }
    files["language"].write_text(SONG * 30, encoding="utf-8")
    runs = {}
    said = {}
    for name, path in files.items():
        lines: list[str] = []
        changes = SMALL | LOOKS
        changes |= {"training.max_steps": 60, "training.learning_rate": 0.02}
        if name == "language":
            changes |= {"training.max_steps": 150, "model.hidden": 32}
        train(path, out=at / "runs" / name, say=lines.append, quiet=True, **changes)
        runs[name] = at / "runs" / name
        said[name] = "\n".join(lines)
    return SimpleNamespace(folder=at, files=files, runs=runs, said=said)


def mirrored(count: int, seed: int) -> tuple[str, str]:
    """Return sentences of letters, and the same from right to left; some hold a word seen once."""
    draw = random.Random(seed)
    sources = []
    for number in range(count):
        words = draw.choices("abcde", k=draw.randrange(2, 6))
        if draw.random() < 0.3:
            words[draw.randrange(len(words))] = f"x{number}"
        sources.append(words)
    source, target = (
        "".join(" ".join(row[::step]) + "\n" for row in sources) for step in (1, -1)
    )
    return source, target


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that writes sentences from right to left: aligned files, run folder, what was said."""
    from unrolled.run import train

    at = tmp_path_factory.mktemp("mirror")
    source = at / "train.src"
    target = at / "train.tgt"
    for path, text in zip((source, target), mirrored(1500, 1), strict=True):
        path.write_text(text, encoding="utf-8")
    lines: list[str] = []
    small = {name: value for name, value in SMALL.items() if name != "model.ngrams"}
    changes = small | {
        "task": "translate",
        "data.train_target": str(target),
        "data.tokenizer": "whitespace",
        "data.min_count": 2,
        "data.max_tokens": 20,
        "data.score_tokenizer": "none",
        "model.hidden": 32,
        "model.embedding": 24,
        "model.dropout": 0.0,
        "model.head_dropout": 0.0,
        "model.embedding_dropout": 0.0,
        "training.label_smoothing": 0.0,
        "training.average": "none",
        "training.max_steps": 300,
        "training.batch_size": 32,
        "training.learning_rate": 0.01,
        "training.evaluate_every": 150,
    }
    train(source, out=at / "run", say=lines.append, quiet=True, **changes)
    return SimpleNamespace(
        folder=at, source=source, target=target, run=at / "run", said="\n".join(lines)
    )


Call = Callable[..., tuple[str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process; return (stdout, stderr) and check the exit code."""
    from unrolled.cli.main import _run

    def call(*words: Any, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["unrolled", *map(str, words)])
        capsys.readouterr()
        exit_code = _run()
        out, err = capsys.readouterr()
        assert exit_code == code, f"exit code {exit_code}\n{out}\n{err}"
        if code:
            messages = [
                line for line in err.splitlines() if line.startswith("unrolled: ")
            ]
            assert len(messages) == 1, err
            assert "Traceback" not in err
        return out, err

    return call


@pytest.fixture
def unrolled() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a process of its own."""

    def start(*words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "unrolled", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return start
