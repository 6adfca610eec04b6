"""Folders of ``vocab.json`` and ``merges.txt``: what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.core.errors import DataError
from unrolled.text.vocabulary_files import read_vocabulary_files


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "[]", "vocab.json: this cannot be read"),
        ("vocab.json", '{"a": "0"}', "the id of 'a' is '0'; expected a whole number"),
        ("vocab.json", '{"a": -1}', "the id of 'a' is -1"),
        ("vocab.json", '{"a": 1, "b": 1}', "ids that differ from each other"),
        (
            "merges.txt",
            "#version: 0.2\na b\na b c\n",
            "line 3 is 'a b c'; expected two",
        ),
        ("merges.txt", "a\n", "line 1 is 'a'; expected two tokens"),
        ("added_tokens.json", '{"<x>": null}', "the id of '<x>' is None"),
        ("added_tokens.json", '{"<x>": 1}', "'b' and '<x>' have the id 1"),
        ("settings.json", '{"add_prefix_space": true}', "expected false"),
        ("settings.json", '{"added_tokens_decoder": [1]}', "expected content and"),
        (
            "settings.json",
            '{"added_tokens_decoder": {"5": {"content": [], "special": true}}}',
            "expected content and special",
        ),
        ("settings.json", '{"added_tokens_decoder": {"a": {}}}', "content and special"),
    ],
)
def test_damaged_files_are_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    settings = tmp_path / "settings.json"
    document = read_vocabulary_files(tmp_path, "gpt-2", (2, 7), settings)
    assert [token["id"] for token in document["added_tokens"]] == [2]
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_vocabulary_files(tmp_path, "gpt-2", (2,), settings)
    assert str(tmp_path) in str(caught.value)
