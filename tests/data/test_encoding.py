"""Text in pieces encodes as the whole does, whoever encodes it."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator

import numpy as np
import pytest

from unrolled.core.errors import UserError
from unrolled.data import encoding
from unrolled.data.encoding import EncodingJob, encode, in_order, pieces
from unrolled.text.tokenizers import KINDS, Tokenizer

LETTERS = [
    "a",
    "bc",
    "가",
    "한",
    " ",
    " ",
    "  ",
    "\n",
    "\n",
    "\n\n",
    "\t",
    ".",
    "<",
    "<pad>",
    "▁",
]
LETTERS += ["\u0301", "\x1c", "\x85", "\u3000", "1", "'", "ㄱ", "word ", " w", "\u2028"]


def strange(seed: int, length: int = 4000) -> str:
    """Return text that is hard to cut: runs of blanks, line ends and marks of every kind."""
    draw = random.Random(seed)
    return unicodedata.normalize("NFC", "".join(draw.choices(LETTERS, k=length)))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_give_the_ids_of_the_whole(kind: str) -> None:
    tokenizer = Tokenizer.fit(kind, [strange(0)], 400)
    for seed in range(1, 6):
        text = strange(seed)
        jobs = list(pieces(text.splitlines(keepends=True), 30))
        assert len(jobs) > 20
        assert "".join(job.texts[0] for job in jobs) == text
        assert [job.first for job in jobs] == [True] + [False] * (len(jobs) - 1)
        encodings = [encode(tokenizer, "uint16", job) for job in jobs]
        whole = tokenizer.encode(text)
        assert (
            np.frombuffer(b"".join(f.ids for f in encodings), np.uint16).tolist()
            == whole
        )
        assert sum(f.size for f in encodings) == len(text.encode())
        assert sum(f.unknown for f in encodings) == tokenizer.unknown(whole)


def test_a_text_without_a_place_to_cut_is_one_job() -> None:
    assert list(pieces(["a" * 100, "b" * 100], 10)) == [
        EncodingJob(["a" * 100 + "b" * 100])
    ]
    assert list(pieces([], 10)) == []


def test_rows_are_ended_and_cut() -> None:
    tokenizer = Tokenizer.fit("chars", ["abc"])
    rows = ["abc", "", "abcabc", "x"]
    encoded = encode(tokenizer, "uint8", EncodingJob(rows, ended=True, limit=4))
    expected = [[*tokenizer.encode(row)[:3], tokenizer.eos_id] for row in rows]
    assert encoded.counts.tolist() == [4, 1, 4, 2]
    assert list(encoded.ids) == [id for ids in expected for id in ids]
    assert (encoded.size, encoded.unknown) == (10, 1)


def test_workers_answer_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.fit("bpe", [strange(0)], 400)
    jobs = list(pieces(strange(1, 20_000).splitlines(keepends=True), 500))
    expected = [encode(tokenizer, "uint16", job) for job in jobs]
    started = []
    start = encoding._start
    monkeypatch.setattr(
        encoding, "_start", lambda: started.append(start()) or started[-1]
    )
    ahead = 0

    def counted() -> Iterator[EncodingJob]:
        nonlocal ahead
        for job in jobs:
            ahead += 1
            yield job

    for number, (piece, other) in enumerate(
        zip(in_order(tokenizer, "uint16", counted(), 2), expected, strict=True)
    ):
        assert (piece.ids, piece.size, piece.unknown) == (
            other.ids,
            other.size,
            other.unknown,
        )
        assert ahead - number <= 6  # the text is not read far ahead of the work
    assert [len(started), number + 1] == [2, len(jobs)]
    assert all(worker.poll() is not None for worker in started)

    def killing() -> Iterator[EncodingJob]:
        for job in jobs:
            yield job
            if len(started) > 2:
                started[-1].kill()  # again and again: it may be gone already

    with pytest.raises(UserError, match="ended early"):
        list(in_order(tokenizer, "uint16", killing(), 2))
