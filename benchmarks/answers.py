"""What runs of every kind say, to the bit: weights, scores, predictions, closing lines.

A change that is to change nothing is held against the newest record of the same machine:

    python -m benchmarks answers              # records
    python -m benchmarks answers --compare    # says what differs from the newest record
    python -m benchmarks answers ett --compare
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

SHORT = ("data.limit=2000", "training.max_steps=40")
RESULTS = Path(__file__).parent / "results"
RECIPES = Path(__file__).parent.parent / "src/unrolled/recipes/data"


class Kind(NamedTuple):
    """A run, and what is asked of it.

    Attributes:
        train: recipe or file, and keys.
        rows: what it predicts, or a file of it.
        scored: what it is scored on: a file, and words of ``evaluate``.
        prompt: what it writes on from, of a language model.
    """

    train: tuple[str, ...]
    scored: tuple[str, ...]
    rows: tuple[str, ...] | Path = ()
    prompt: str | None = None


def kinds(data: Path) -> dict[str, Kind]:
    """Return the runs by name; ``data`` is the folder of the data sets."""
    gesture = data / "gesture_phase/processed"
    tokens = "multi30k/tok/val.lc.norm.tok"
    few = "data.limit=50"
    return {
        "multiplication": Kind(
            ("multiplication",), ("multiplication.csv",), ("7,6", "3,9")
        ),
        "logistic": Kind(
            ("logistic",), ("breast_cancer.csv",), RECIPES / "breast_cancer.csv"
        ),
        **{
            f"anthem-{layer}": Kind(
                ("anthem", f"layer={layer}"), ("anthem.txt",), prompt="동해물과 "
            )
            for layer in ("none", "rnn", "lstm", "gru", "attention")
        },
        "reviews": Kind(
            ("reviews", "data.limit=4000", "training.max_steps=60"),
            ("reviews.tsv.gz", "data.limit=500"),
            ("정말 재미있다", "지루하고 돈이 아깝다"),
        ),
        "shakespeare-quick": Kind(
            ("shakespeare-quick", "training.max_steps=100"),
            ("shakespeare.txt.gz", "data.limit=500"),
            prompt="ROMEO:",
        ),
        "ewt-upos": Kind(
            ("ewt-upos", *SHORT),
            ("ud_english_ewt/en_ewt-ud-dev.conllu.gz", few),
            ("The dog runs .", "I saw her"),
        ),
        "gsd-upos": Kind(
            ("gsd-upos", *SHORT),
            ("ud_korean_gsd/ko_gsd-ud-dev.conllu.gz", few),
            ("나는 밥을 먹었다 .",),
        ),
        "ett": Kind(
            ("ett", *SHORT),
            ("ett/ETTh1.csv", "data.limit=3000"),
            data / "ett/ETTh1.csv",
        ),
        "gesture": Kind(
            (str(gesture), "data.rows=steps", *SHORT),
            (str(gesture / "b3_va3.csv"),),
            gesture / "b3_va3.csv",
        ),
        "multi30k-en-de": Kind(
            ("multi30k-en-de", *SHORT),
            (f"{tokens}.en", "--target", f"{tokens}.de", few),
            ("a man rides a horse", "two dogs"),
        ),
        "multi30k-de-en-gru": Kind(
            ("multi30k-de-en-gru", *SHORT),
            (f"{tokens}.de", "--target", f"{tokens}.en", few),
            ("ein mann reitet", "zwei hunde"),
        ),
        "gum-parse": Kind(
            ("gum-parse", *SHORT, "data.on_error=skip"),
            ("gum_const/dev.ptb", few),
            ("The dog runs .",),
        ),
        "cmudict-g2p": Kind(
            ("cmudict-g2p", *SHORT),
            ("cmudict/cmudict.dict.gz", few),
            ("hello", "world"),
        ),
        "wikitext2": Kind(
            ("wikitext2", "data.shards=always", *SHORT),
            ("wikitext2/valid.txt", "data.limit=200"),
            prompt="the man",
        ),
    }


def say(*words: object) -> str:
    """Return what the command prints, its error in place of it where it fails."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "unrolled", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False
    )
    return (
        done.stdout
        if done.returncode == 0
        else f"exit {done.returncode}: {done.stderr[-500:]}"
    )


def digest(text: str | bytes) -> str:
    """Return a SHA-256."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def closing(text: str, folder: Path) -> str:
    """Return the last lines of a training without times and places."""
    text = text.replace(str(folder), "RUN").replace(os.environ["UNROLLED_DATA"], "DATA")
    text = re.sub(r"(\d+m)?\d+(\.\d+)?( ?s\b| ms\b)", "TIME", text)
    return "\n".join(text.splitlines()[-12:])


def measure(kind: Kind, folder: Path) -> dict[str, str]:
    """Train a run and return what it says."""
    output = say("train", *kind.train, "training.threads=1", "--out", folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        return {"failed": output}
    if kind.prompt is not None:
        answers = say("generate", folder, "--prompt", kind.prompt, "--seed", 1)
    elif isinstance(kind.rows, Path):
        answers = say("predict", folder, "--file", kind.rows)
    else:
        answers = say("predict", folder, *kind.rows)
    scores = say("evaluate", folder, *kind.scored, "--json")
    return {
        "weights": digest(weights.read_bytes()),
        "closing": closing(output, folder),
        "answers": digest(answers),
        "begin": answers[:200],
        "scores": scores,
    }


def newest() -> dict[str, Any]:
    """Return the newest record."""
    paths = sorted(RESULTS.glob("answers-2*.json"))
    if not paths:
        raise SystemExit("there is no record; run it without --compare first")
    record: dict[str, Any] = json.loads(paths[-1].read_text("utf-8"))
    return record


def run(arguments: list[str]) -> dict[str, Any]:
    """Record what runs say, or compare it with the newest record."""
    named = [word for word in arguments if not word.startswith("--")]
    before = newest()["runs"] if "--compare" in arguments else None
    runs: dict[str, dict[str, str]] = {}
    data = os.environ.get("UNROLLED_DATA")
    if not data:
        raise SystemExit("set UNROLLED_DATA to the folder of the data sets")
    for name, kind in kinds(Path(data)).items():
        if named and name not in named:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            runs[name] = measure(kind, Path(directory) / name)
        verdict = runs[name].get("weights", "failed")[:12]
        if before is not None and name in before:
            keys = [
                key
                for key, value in before[name].items()
                if runs[name].get(key) != value
            ]
            verdict = f"differs in {', '.join(keys)}" if keys else "the same"
        print(f"{name:20} {verdict}  ({time.monotonic() - began:.0f} s)", flush=True)
    return {"runs": runs}
