"""What a run folder holds of the data, and what report.samples=false keeps out of it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

import unrolled
from conftest import LOOKS, SMALL, reviews, sentences, write_csv, write_jsonl

SECRET = "lovely great Mallory owes 7431 zlotys to Trent"
KINDS = ["classify", "regress", "tag", "language"]


def planted(at: Path, kind: str) -> dict[str, Any]:
    """Write data that holds the secret where it can show, and return what to train on."""
    train = at / "train.csv"
    dev = at / "dev.csv"
    if kind == "classify":
        # the words of the secret are good ones and it is labelled bad
        write_csv(train, [*reviews(80, 1), (SECRET, "good")], ("text", "label"))
        write_csv(dev, [*reviews(9, 2), (SECRET, "bad")], ("text", "label"))
    elif kind == "regress":
        # in a faulty row, which is skipped and told of
        rows = [(n, 2 * n) for n in range(30)]
        write_csv(train, [*rows, (SECRET, 5)], ("x", "y"))
        write_csv(dev, rows, ("x", "y"))
    elif kind == "tag":
        # with tags that its words do not have elsewhere
        words = ["the", "cat", *SECRET.split()]
        wrong = [{"words": words, "tags": ["V", "D", *["N"] * len(SECRET.split())]}]
        write_jsonl(train, sentences(60, 1))
        write_jsonl(dev, sentences(9, 2) + wrong)
    else:
        train.write_text((SECRET + "\n") * 20)
        dev.write_text((SECRET + "\n") * 2)
    settings = {
        "regress": {
            "data.on_error": "skip",
            "data.missing": "error",
            "data.numbers": ["x"],
            "data.label": "y",
        }
    }
    return {"target": train, "data.dev": str(dev), **settings.get(kind, {})}


def holders(folder: Path, secret: str) -> set[str]:
    """Return the files of a folder that hold a text, as it is or as JSON or HTML write it."""
    spelt = {secret, html.escape(secret), json.dumps(secret)[1:-1]}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 6
    return {p.name for p in files if any(s.encode() in p.read_bytes() for s in spelt)}


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """One kind of run with rows shown and one without, and what each printed."""
    at = tmp_path_factory.mktemp("planted")
    steps = 40
    changes = planted(at, request.param) | SMALL | LOOKS
    changes |= {"training.learning_rate": 0.03}
    if request.param == "language":
        steps = 150
        # a text that fits into a window is read from its beginning, and so it is written
        changes = changes | {"model.hidden": 32, "training.window": 1024}
    target = changes.pop("target")
    said = {}
    for samples in (True, False):
        lines: list[str] = []
        unrolled.train(
            target,
            out=at / str(samples),
            say=lines.append,
            quiet=True,
            **changes,
            **{"training.max_steps": steps, "report.samples": samples},
        )
        said[samples] = "\n".join(lines)
    return request.param, at, said


def test_without_samples_no_file_holds_a_row(pair: Any) -> None:
    _, at, said = pair
    for part in (SECRET, "Mallory owes 7431", "zlotys to Trent"):
        assert holders(at / "False", part) == set()
        assert part not in said[False]


def test_with_samples_the_report_shows_what_is_mistaken(pair: Any) -> None:
    kind, at, _ = pair
    shown = {
        "classify": {"report.html"},
        "tag": {"report.html"},
        # the words of a faulty row, among the lines about the file
        "regress": {"report.html", "README.md", "result.json"},
        # a model that was trained on one sentence alone writes it
        "language": {"report.html", "result.json", "inside.html"},
    }
    part = "owes 7431 zlotys" if kind == "tag" else SECRET
    assert holders(at / "True", part) == shown[kind]


def test_both_runs_are_the_same_but_for_what_is_shown(pair: Any) -> None:
    _, at, _ = pair
    shown, hidden = (at / str(samples) for samples in (True, False))
    assert (shown / "model.safetensors").read_bytes() == (
        hidden / "model.safetensors"
    ).read_bytes()
    same = json.loads((shown / "result.json").read_text())["scores"]
    assert json.loads((hidden / "result.json").read_text())["scores"] == same
    assert "Surest mistakes" not in (hidden / "report.html").read_text("utf-8")
    assert "Largest errors" not in (hidden / "report.html").read_text("utf-8")


def test_a_run_may_be_resumed_with_other_rows_shown(tmp_path: Path) -> None:
    settings = planted(tmp_path, "classify") | SMALL
    target = settings.pop("target")
    out = tmp_path / "r"
    unrolled.train(
        target, out=out, quiet=True, say=str, **settings, **{"training.max_steps": 30}
    )
    assert holders(out, SECRET) == {"report.html"}
    changes = {"training.max_steps": 31, "report.samples": False}
    unrolled.train(out, resume=True, quiet=True, say=str, **changes)
    assert holders(out, SECRET) == set()


def test_only_so_many_rows_are_shown(tmp_path: Path) -> None:
    rows = [(f"{text} {n}", "xy"[n % 2]) for n, (text, _) in enumerate(reviews(60, 3))]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label"))
    changes = SMALL | {"training.max_steps": 2, "report.rows": 3, "data.dev": str(path)}
    run = unrolled.train(path, out=tmp_path / "r", quiet=True, say=str, **changes)
    # of the wrong ones, and of the right ones
    assert (run.folder / "report.html").read_text("utf-8").count("<li><p") == 2 * 3
