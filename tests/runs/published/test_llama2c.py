"""Files of llama2.c: what its own program writes, and what is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import unrolled
from conftest import Call
from unrolled.core.errors import UserError

DATA = Path(os.environ.get("UNROLLED_DATA", "../shared/data")) / "stories260k"
MODEL = DATA / "stories260K.bin"
WORDS = DATA / "tok512.bin"
needs_stories = pytest.mark.skipif(
    not MODEL.exists(), reason="stories260k is not in UNROLLED_DATA"
)


def tiny(path: Path, vocabulary: int = 11, later: bytes = b"") -> Path:
    """Write a checkpoint of 4 features and 1 layer with random weights."""
    header = struct.pack("<7i", 4, 6, 1, 2, 1, vocabulary, 8)
    numbers = abs(vocabulary) * 4 + 2 * 4 + 16 + 8 + 8 + 16 + 3 * 24 + 4 + 2 * 8 * 1
    if vocabulary < 0:
        numbers += abs(vocabulary) * 4
    weights = np.random.default_rng(1).normal(size=numbers).astype("<f4")
    path.write_bytes(header + weights.tobytes() + later)
    return path


@needs_stories
def test_greedy_text_is_what_the_c_program_writes() -> None:
    run = unrolled.load(MODEL, device="cpu")
    text = run.generate("", 256, temperature=0)
    assert text == (DATA / "greedy.txt").read_text().rstrip("\n")
    assert run.describe() == {
        "family": "llama",
        "parameters": 260_032,
        "context": 512,
        "vocabulary": 512,
    }


def encoded_as_in_c(text: str) -> list[int]:
    """Return the ids that llama2.c's ``encode`` gives: the best pair is merged, or the first."""
    data = WORDS.read_bytes()
    tokens: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    index = {token: id for id, token in enumerate(tokens)}
    ids = [index[b" "]] if text else []
    for character in text:
        piece = character.encode()
        ids += [index[piece]] if piece in index else [byte + 3 for byte in piece]
    while True:
        pairs = [
            (scores[index[merged]], -position, index[merged])
            for position in range(len(ids) - 1)
            if (merged := tokens[ids[position]] + tokens[ids[position + 1]]) in index
        ]
        if not pairs:
            return ids
        _, position, id = max(pairs)
        ids[-position : 2 - position] = [id]


@needs_stories
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "Once upon a time, there was a little girl named Lily.",
        " two  blanks \n\n and lines\t",
        "naïve 한국어 🙂 <s>",
        "aaaaaaaaa bbbb",
    ],
)
def test_text_is_cut_as_in_c(text: str) -> None:
    tokenizer = unrolled.load(MODEL, device="cpu").task.tokenizer
    ids = tokenizer.encode(text)
    assert ids == encoded_as_in_c(text)
    assert tokenizer.beginning(text) == [1, *ids]
    assert tokenizer.decode(ids) == text


@needs_stories
def test_verbs_take_the_file(cli: Call, tmp_path: Path) -> None:
    copy = tmp_path / "stories.bin"
    copy.write_bytes(MODEL.read_bytes())
    given = ("--tokenizer", WORDS)
    out, _ = cli("load", copy, "--json")
    assert '"parameters": 260032' in out
    out, _ = cli("load", copy)
    assert "260,032" in out
    out, _ = cli("generate", copy, *given, "--temperature", 0, "--max-new-tokens", 5)
    assert out == "Once upon a time,\n"
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time, there was a girl.")
    out, _ = cli("evaluate", copy, text, *given, "--json")
    assert '"bits_per_byte"' in out
    page = tmp_path / "inside.html"
    cli("inspect", copy, "Once upon", *given, "-o", page)
    assert page.stat().st_size > 10_000
    _, err = cli("generate", copy, code=1)
    assert "expected its vocabulary beside it" in err
    (tmp_path / "tok1.bin").write_bytes(WORDS.read_bytes()[:-1])
    _, err = cli("load", copy, code=1)
    assert "this is no vocabulary of llama2.c" in err
    (tmp_path / "tok2.bin").write_bytes(b"")
    _, err = cli("load", copy, code=1)
    assert "tok1.bin, tok2.bin stand beside it" in err


def test_output_weights_of_their_own_are_read(tmp_path: Path) -> None:
    tied = unrolled.load(tiny(tmp_path / "tied.bin"), device="cpu")
    own = unrolled.load(tiny(tmp_path / "own.bin", -11), device="cpu")
    assert tied.logits([1, 2]).shape == own.logits([1, 2]).shape == (2, 11)
    sizes = [run.describe()["parameters"] for run in (tied, own)]
    assert sizes[1] - sizes[0] == 11 * 4


def test_other_files_are_refused(tmp_path: Path, home: SimpleNamespace) -> None:
    path = tiny(tmp_path / "model.bin")
    whole = path.read_bytes()
    for data, message in (
        (whole[:-4], "expected .* bytes.*cut off"),
        (whole + b"\0", "expected .* bytes"),
        (
            whole[:20],
            "no checkpoint of a known kind; expected a folder of Hugging Face",
        ),
        (b"", "no checkpoint of a known kind"),
        (struct.pack("<7i", 4, 6, 1, 3, 1, 11, 8), "no checkpoint of a known kind"),
        (struct.pack("<7i", 0x616B3432, 1, 1, 1, 1, 1, 1), "--version 0"),
        (b"GGUF" + bytes(40), "GGUF version 0"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as caught:
            unrolled.load(path)
        assert "\n" not in str(caught.value)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="no regular file"):
        unrolled.load(pipe)
    with pytest.raises(UserError, match="is for checkpoints of other programs"):
        unrolled.load(home.runs["language"], tokenizer=path)
