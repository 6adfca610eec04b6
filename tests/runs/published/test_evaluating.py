"""Two runs scored on one file, of which some are checkpoints that need a tokenizer's file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import Call

from .test_llama2c import MODEL, WORDS, needs_stories

pytestmark = needs_stories
GIVEN = ("--tokenizer", WORDS)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return the checkpoint without the vocabulary beside it."""
    folder = tmp_path / "bare"
    folder.mkdir()
    return Path(shutil.copy(MODEL, folder / "stories.bin"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time, there was a girl.\n")
    return path


def bits(cli: Call, *words: object) -> list[float]:
    """Return the bits a byte of the run, and those that are said of both."""
    said, _ = cli("evaluate", *words, "--json")
    document = json.loads(said)
    compared = [float(note.split()[-1]) for note in document["notes"]]
    return [document["bits_per_byte"], *compared]


def test_the_one_that_is_a_checkpoint_takes_the_file(
    cli: Call, home: SimpleNamespace, bare: Path, text: Path
) -> None:
    run = home.runs["language"]
    score, ours, theirs = bits(cli, run, text, "--compare", bare, *GIVEN)
    assert score == pytest.approx(ours, abs=1e-4)
    turned = bits(cli, bare, text, "--compare", run, *GIVEN)
    assert turned[0] == pytest.approx(theirs, abs=1e-4)
    assert turned[1:] == [theirs, ours]
    # a trained one knows how stories begin
    assert theirs < 1 < ours
    _, err = cli("evaluate", run, text, "--compare", run, *GIVEN, code=2)
    assert "a run has its own" in err


def test_of_two_checkpoints_those_take_it_that_lack_one(
    cli: Call, bare: Path, text: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copy(bare, tmp_path / "other.bin"))
    expected = bits(cli, MODEL, text, "--compare", MODEL)[0]
    for pair in ((bare, other), (MODEL, bare), (bare, MODEL)):
        first, second = pair
        scores = bits(cli, first, text, "--compare", second, *GIVEN)
        assert scores == pytest.approx([expected] * 3, abs=1e-4)
    # a vocabulary of another format stays with the one that it is for
    exported = tmp_path / "gguf"
    cli("export", bare, *GIVEN, "--to", "gguf", "-o", exported)
    path = exported / "model.gguf"
    scores = bits(cli, bare, text, "--compare", path, *GIVEN)
    assert scores == pytest.approx([expected] * 3, abs=1e-4)
    _, err = cli("evaluate", bare, text, "--compare", other, code=1)
    assert "--tokenizer" in err
