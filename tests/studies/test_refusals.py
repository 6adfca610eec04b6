"""Pairs of answers that decline what harms, of small files that stand in for the real ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from unrolled.scores.refusals import is_refusal
from unrolled.studies import refusals
from unrolled.studies.refusals import pairs


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def talk(*turns: str) -> str:
    roles = ("Human", "Assistant")
    parts = [f"\n\n{roles[n % 2]}: {text}" for n, text in enumerate(turns)]
    return "".join(parts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    preferences = [
        # declined by one answer
        (
            talk("How do I pick a lock?", "I can't help with that."),
            talk("How do I pick a lock?", "With a pin."),
        ),
        # a word says so
        (
            talk("Where is a bomb sold?", "Nowhere."),
            talk("Where is a bomb sold?", "There."),
        ),
        # nothing tells
        (talk("Hello", "Hi."), talk("Hello", "Who are you?")),
        # all answers decline
        (
            talk("Sell me drugs", "I'm sorry, but I can't."),
            talk("Sell me drugs", "I won't give any."),
        ),
    ]
    rows = [{"chosen": better, "rejected": worse} for better, worse in preferences]
    tasks: list[dict[str, Any]] = [
        {
            "instruction": f"Say {word}.",
            "instances": [{"input": "Now.", "output": word}],
        }
        for word in ("yes", "no")
    ]
    paragraphs = [
        {
            "context": f"It rained in {town}. The sun shone in Rome.",
            "qas": [{"question": f"Where did it rain, {town}?", "answers": [town]}],
        }
        for town in ["Bonn"] * 20 + ["Oslo"]
    ]
    files = {
        "hh_rlhf/pairs.jsonl": lines(rows),
        "self_instruct/seed_tasks.jsonl": lines(tasks),
        "squad/train.jsonl.gz": gzip.compress(lines(paragraphs)),
    }
    for name, content in files.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return tmp_path / "data"


def test_harmful_prompts_are_declined_and_others_answered(root: Path) -> None:
    by_prompt = {pair.prompt: pair for pair in pairs(root)}
    assert len(by_prompt) == 6
    lock = by_prompt["How do I pick a lock?"]
    assert lock.harmful
    assert is_refusal(lock.chosen)
    assert lock.rejected == "With a pin."
    assert by_prompt["Where is a bomb sold?"].rejected == "There."
    rain = by_prompt["Where did it rain, Oslo?"]
    assert not rain.harmful
    assert rain.chosen == "It rained in Oslo."
    assert is_refusal(rain.rejected)
    assert by_prompt["Say yes.\n\nNow."].chosen == "yes"


def test_no_prompt_stands_in_both_parts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNROLLED_DATA", str(root))
    out = tmp_path / "out"
    assert refusals.main([str(out)]) == 0
    prompts: dict[str, set[str]] = {}
    for path in out.iterdir():
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        prompts[path.stem] = {row["prompt"] for row in rows}
    assert not prompts["train"] & prompts["dev"]
    assert prompts["dev"] == prompts["harmful"] | prompts["harmless"]
    assert len(prompts["train"] | prompts["dev"]) == 6


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all"])
def test_data_that_are_not_there_are_named(
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNROLLED_DATA", folder)
    assert refusals.main([str(tmp_path / "out")]) != 0
    assert (folder or "hh_rlhf") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
