"""Byte pairs of the older folders of Hugging Face: ``vocab.json`` beside ``merges.txt``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataError, shown
from unrolled.core.files import JSON_BYTES, read_json, read_text
from unrolled.text.documents import added_token
from unrolled.text.gguf import byte_pair_document
from unrolled.text.published import bpe_model

VOCABULARY = "vocab.json"
MERGES = "merges.txt"
ADDED = "added_tokens.json"
VERSION = "#version"  # how the first line of the merges may begin


def read_vocabulary_files(
    folder: Path, rule: str, marks: Iterable[int], settings: Path
) -> dict[str, Any]:
    """Return the document of a tokenizer of byte pairs (Radford et al. 2019, section 2.2).

    Args:
        folder: that holds ``vocab.json`` (ids by token), ``merges.txt`` (two tokens a line, the
            first merge first), and perhaps more tokens in ``added_tokens.json``.
        rule: the name of the rule that cuts text before, of ``text.gguf.CUTS``.
        marks: ids of tokens that begin or end a text.
        settings: a file that may be there, with more tokens in ``added_tokens_decoder``.

    Raises:
        DataError: a file is damaged, or asks for what is unknown here.
    """
    vocabulary = _ids(folder / VOCABULARY)
    by_id = {id: token for token, id in vocabulary.items()}
    if len(by_id) != len(vocabulary):
        raise DataError("expected ids that differ from each other", folder / VOCABULARY)
    model = bpe_model([], _merges(folder / MERGES), None, byte_fallback=False)
    added = {id: added_token(id, by_id[id], True) for id in marks if id in by_id}
    if os.path.lexists(folder / ADDED):
        for token, id in _ids(folder / ADDED).items():
            added.setdefault(id, added_token(id, token, False))
    if os.path.lexists(settings):
        added |= _described(settings)
    for id, entry in added.items():
        # else the library numbers those that are no token of the model by itself
        if by_id.setdefault(id, entry["content"]) != entry["content"]:
            raise DataError(
                f"{shown(by_id[id])} and {shown(entry['content'])} have the id {id}; expected "
                "one of them",
                folder / VOCABULARY,
            )
    model["vocab"] = {token: id for id, token in by_id.items()}
    document = byte_pair_document(rule, model)
    document["added_tokens"] = [added[id] for id in sorted(added)]
    return document


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"this cannot be read ({error})", path) from None


def _ids(path: Path) -> dict[str, int]:
    """Return ids by token. Raises DataError: the file holds something else."""
    ids: dict[str, int] = _object(path)
    for token, id in ids.items():
        if type(id) is not int or id < 0:
            raise DataError(
                f"the id of {shown(token)} is {shown(id)}; expected a whole number",
                path,
            )
    return ids


def _merges(path: Path) -> list[list[str]]:
    """Return pairs of tokens. Raises DataError: a line holds no pair."""
    try:
        lines = read_text(path, JSON_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"this cannot be read ({error})", path) from None
    merges: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith(VERSION)):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise DataError(
                f"line {number:,} is {shown(line)}; expected two tokens with a blank between",
                path,
            )
        merges.append(pair)
    return merges


def _described(path: Path) -> dict[int, dict[str, Any]]:
    """Return the tokens that settings of a tokenizer add, by their ids.

    Raises:
        DataError: they are no such tokens, or texts begin with a blank there.
    """
    settings = _object(path)
    if settings.get("add_prefix_space"):
        raise DataError(
            "add_prefix_space: expected false, since no other is known here without a "
            "tokenizer.json",
            path,
        )
    tokens: dict[int, dict[str, Any]] = {}
    entries = settings.get("added_tokens_decoder") or {}
    try:
        for name, entry in entries.items():
            content = entry["content"]
            if not isinstance(content, str):
                raise TypeError("expected a text")
            token = added_token(int(name), content, bool(entry["special"]))
            tokens[token["id"]] = token | _flags(entry)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            "added_tokens_decoder: expected content and special of each token by its id",
            path,
        ) from None
    return tokens


def _flags(entry: Mapping[str, Any]) -> dict[str, bool]:
    """Return how a token is looked for in text, as far as it is said."""
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {name: bool(entry[name]) for name in names if name in entry}
