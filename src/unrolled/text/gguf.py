"""The tokenizer in the header of a GGUF file, as a document of the library ``tokenizers``.

``gpt2`` is byte pairs over letters that stand for bytes, cut before by a rule that has a name;
``llama`` is SentencePiece's: adjacent pieces are joined by their scores, and bytes stand for
characters that no piece has. Where the file holds a whole ``tokenizer.json``, that is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.core.errors import UserError, shown
from unrolled.core.files import parsed_json
from unrolled.text.documents import added_token
from unrolled.text.published import bpe_model, merges_by_score, template

PREFIX = "tokenizer.ggml."
MODEL = f"{PREFIX}model"
DOCUMENT = "tokenizer.huggingface.json"
NONE = ("no_vocab", "none")
# numbers of kinds of tokens: unknown, those that text spells, and those that stand for bytes
UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4

DIGIT = r"\p{N}"
GPT2_WORD = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_LATER_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_WORD = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# by tokenizer.ggml.pre: patterns by which text is cut, one after the other
CUTS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_WORD,),
    "llama-bpe": (_LATER_WORD % "{1,3}",),
    "qwen2": (_LATER_WORD % "",),
    "smollm": (DIGIT, GPT2_WORD),
    "tekken": (_TEKKEN_WORD,),
}
# of these a whole word that is a token is taken as it is, and texts begin with a mark
WHOLE_WORDS = ("llama-bpe", "tekken")
NORMALIZERS = {"qwen2": {"type": "NFC"}}
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def gguf_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tokenizer's document; None where a file holds none.

    Args:
        metadata: of the header, by key.

    Raises:
        UserError: it is of a kind that is unknown here, or is not whole.
    """
    whole = metadata.get(DOCUMENT)
    if whole is not None:
        return _document(whole)
    kind = metadata.get(MODEL)
    if kind is None or kind in NONE:
        return None
    makers = {"gpt2": _byte_pairs, "llama": _pieces}
    if kind not in makers:
        raise UserError(
            f"{MODEL} is {shown(kind)}, which is unknown here; known are {', '.join(makers)}"
        )
    tokens = _texts(metadata, "tokens")
    if len(set(tokens)) != len(tokens):
        raise UserError(f"expected {PREFIX}tokens that differ from each other")
    document = makers[kind](metadata, tokens)
    document["added_tokens"] = _added(metadata, tokens)
    return {"version": "1.0", "truncation": None, "padding": None, **document}


def _document(text: Any) -> dict[str, Any]:
    try:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        document = parsed_json(text.encode())
    except ValueError as error:
        raise UserError(
            f"{DOCUMENT}: no tokenizer can be read here ({error})"
        ) from None
    if not isinstance(document.get("model"), dict):
        raise UserError(f"{DOCUMENT}: expected a tokenizer.json with a model in it")
    return {**document, "truncation": None, "padding": None}


def cut_by(name: str) -> dict[str, Any]:
    """Return what cuts text by a rule of ``CUTS``, and writes bytes as letters."""
    cuts: list[dict[str, Any]] = [
        {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        for pattern in CUTS[name]
    ]
    return {"type": "Sequence", "pretokenizers": [*cuts, _BYTE_LEVEL]}


def byte_pair_document(name: str, model: dict[str, Any]) -> dict[str, Any]:
    """Return a document of byte pairs with no tokens added and no mark before texts.

    Args:
        name: of a rule of ``CUTS``.
        model: of byte pairs.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": NORMALIZERS.get(name),
        "pre_tokenizer": cut_by(name),
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": model,
    }


def _byte_pairs(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Return a document of byte pairs (Radford et al. 2019, section 2.2)."""
    name = metadata.get(f"{PREFIX}pre")
    if not isinstance(name, str) or name not in CUTS:
        raise UserError(
            f"{PREFIX}pre is {shown(name)}, a rule of cutting text that is unknown here; known are "
            f"{', '.join(CUTS)}"
        )
    merges = [merge.split(" ") for merge in _texts(metadata, "merges", [])]
    if any(len(pair) != 2 for pair in merges):
        raise UserError(f"expected two tokens in each of {PREFIX}merges")
    known = set(tokens)
    # what cannot be done is left out, as llama.cpp does
    merges = [pair for pair in merges if {*pair, "".join(pair)} <= known]
    model = bpe_model(tokens, merges, None, byte_fallback=False)
    model["ignore_merges"] = name in WHOLE_WORDS
    document = byte_pair_document(name, model)
    document["post_processor"] = _begun(metadata, tokens, name in WHOLE_WORDS)
    return document


def _pieces(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Return the parts of a document of pieces (Kudo and Richardson 2018), blanks as "▁"."""
    scores = _numbers(metadata, "scores", len(tokens))
    if scores is None:
        raise UserError(f"expected also the key {PREFIX}scores")
    begins_with_blank = metadata.get(f"{PREFIX}add_space_prefix", True)
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizers: list[dict[str, Any]] = [blank]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if begins_with_blank:
        normalizers.insert(0, {"type": "Prepend", "prepend": "▁"})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    kinds = _numbers(metadata, "token_type", len(tokens)) or []
    unknown = tokens[kinds.index(UNKNOWN)] if UNKNOWN in kinds else None
    model = bpe_model(tokens, merges_by_score(tokens, scores), unknown)
    model["fuse_unk"] = True
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": _begun(metadata, tokens, True),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _begun(
    metadata: Mapping[str, Any], tokens: Sequence[str], usual: bool
) -> dict[str, Any] | None:
    """Return what puts the mark of a beginning before texts, if they begin with one."""
    start = metadata.get(f"{PREFIX}bos_token_id")
    if not metadata.get(f"{PREFIX}add_bos_token", usual):
        return None
    if type(start) is not int or not 0 <= start < len(tokens):
        return None
    return template(tokens[start], start)


def _added(metadata: Mapping[str, Any], tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Return the tokens that are found in text before it is cut."""
    kinds = _numbers(metadata, "token_type", len(tokens)) or []
    return [
        added_token(id, tokens[id], kind == CONTROL)
        for id, kind in enumerate(kinds)
        if kind in (CONTROL, USER_DEFINED) and tokens[id]
    ]


def _texts(
    metadata: Mapping[str, Any], name: str, usual: list[str] | None = None
) -> list[str]:
    """Return a list of texts. Raises UserError: it is missing, or none."""
    value = metadata.get(PREFIX + name, usual)
    if not isinstance(value, list):
        raise UserError(f"{PREFIX}{name} is {shown(value)}; expected a list of texts")
    return value


def _numbers(metadata: Mapping[str, Any], name: str, count: int) -> list[float] | None:
    """Return a number for each token, None where none are said.

    Raises:
        UserError: they are no such list.
    """
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    numbers = getattr(value, "values", None)
    if numbers is None or len(numbers) != count:
        raise UserError(
            f"{PREFIX}{name} is {shown(value)}; expected {count:,} numbers, one for each token"
        )
    listed: list[float] = numbers.tolist()
    return listed
