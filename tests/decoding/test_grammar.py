"""Texts that follow a JSON schema or a grammar, whatever the model would rather write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unrolled.core.errors import UserError
from unrolled.decoding.generate import generate
from unrolled.decoding.grammar import MISSING, GrammarText, TextGrammar
from unrolled.decoding.sampling import Sampling
from unrolled.models import LanguageModel
from unrolled.nn import GRU, TokenEmbedding
from unrolled.text.tokenizers import Tokenizer

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "film": {"enum": ["좋다", "bad [12]"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "seen": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["film", "stars", "seen"],
    "additionalProperties": False,
}
BYTES = Tokenizer.fit("bytes", ["a"])
ROWS = [
    '{"film": "좋다", "stars": 3, "seen": [true]}',
    '{"film": "bad"}',
    "[12, false]",
]


def followed(grammar: GrammarText, words: Tokenizer = BYTES) -> TextGrammar:
    return TextGrammar(grammar, words.pieces(), words.eos_id, words.unwritten_ids)


def model(words: Tokenizer) -> LanguageModel:
    torch.manual_seed(2)
    return LanguageModel(TokenEmbedding(words.size, 8), GRU(8, 8), words.size).eval()


def written(grammar: GrammarText, words: Tokenizer, seed: int, most: int = 400) -> str:
    ids = generate(
        model(words),
        [words.eos_id],
        most,
        Sampling(temperature=1.5),
        seed=seed,
        ends=words.end_ids,
        banned=words.unwritten_ids,
        grammar=followed(grammar, words),
    )
    return words.decode(ids)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "chars"])
def test_any_model_writes_what_the_schema_allows(kind: str) -> None:
    words = Tokenizer.fit(kind, ROWS * 4 + ['0123456789 {}[]:,"\\tfalse'], 320)
    ends = 0
    for seed in range(6):
        text = written(GrammarText.of_schema(SCHEMA), words, seed)
        try:
            document = json.loads(text)
        except json.JSONDecodeError:
            # blanks between the parts may go on as long as they like
            assert len(words.encode(text)) >= 300, text
            continue
        ends += 1
        assert set(document) == {"film", "stars", "seen"}
        assert document["film"] in SCHEMA["properties"]["film"]["enum"]
        assert document["stars"] in range(1, 6)
        assert all(isinstance(seen, bool) for seen in document["seen"])
    assert ends >= 4


def test_a_grammar_in_either_form(tmp_path: Path) -> None:
    for name, text in (
        ("a.gbnf", 'root ::= ("yes" | "no") "!"'),
        ("a.lark", 'start: ("yes" | "no") "!"'),
    ):
        path = tmp_path / name
        path.write_text(text)
        texts = {written(GrammarText.of_file(path), BYTES, seed) for seed in range(20)}
        assert texts == {"yes!", "no!"}


def test_it_ends_where_the_text_may_end() -> None:
    grammar = followed(GrammarText("grammar", 'start: "a"+', "here"))
    letter = BYTES.encode("a")[0]
    assert grammar.allowed().nonzero()[:, 0].tolist() == [letter]
    assert not grammar.is_complete
    grammar.take(letter)
    assert grammar.is_complete
    assert grammar.allowed().nonzero()[:, 0].tolist() == [BYTES.eos_id, letter]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('{"type": 5}', "cannot be followed"),
        ("[1]", "a JSON schema is an object"),
        ('{"type": ', "is no JSON"),
        ("nowhere.json", "cannot be read"),
        ({"type": "object", "minProperties": "x"}, "cannot be followed"),
    ],
)
def test_what_is_no_schema_is_said(schema: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        followed(GrammarText.of_schema(schema))


def test_a_vocabulary_without_the_letters_is_said() -> None:
    words = Tokenizer.fit("chars", ["abc"])
    with pytest.raises(UserError, match="no token of the vocabulary spells"):
        written(GrammarText.of_schema(SCHEMA), words, 0)
    words = Tokenizer.fit("words", ["a b c"])
    with pytest.raises(UserError, match="tokenizer=words cannot be held"):
        words.pieces()


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(UserError) as raised:
        followed(GrammarText.of_schema(SCHEMA))
    assert str(raised.value) == MISSING
