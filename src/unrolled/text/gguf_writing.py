"""A tokenizer as metadata of a GGUF file, as llama.cpp reads it."""

from __future__ import annotations

import json
from typing import Any

from unrolled.core.errors import UserError
from unrolled.text.gguf import (
    CONTROL,
    CUTS,
    DIGIT,
    DOCUMENT,
    GPT2_WORD,
    MODEL,
    NORMALIZERS,
    PREFIX,
    UNKNOWN,
    USER_DEFINED,
    WHOLE_WORDS,
)
from unrolled.text.published import template
from unrolled.text.tokenizers import SPECIALS, UNK, Tokenizer

NORMAL = 1
UNUSED = 5
BYTE = 6
BLANK = "▁"
# two tokens that never stand beside each other: llama.cpp wants a list that is not empty
NO_MERGES = ["<pad> <pad>"]


def metadata_of(tokenizer: Tokenizer, size: int) -> tuple[dict[str, Any], list[str]]:
    """Return metadata of a tokenizer, and notes on what llama.cpp cuts otherwise.

    Args:
        tokenizer: of a model of ours, or one that was published.
        size: tokens that the model scores; those without a name are left unused.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    model = tokenizer.document["model"]
    if tokenizer.kind == "published":
        values, notes = _published(tokenizer.document, size)
    elif tokenizer.kind in ("bpe", "bytes"):
        values, notes = _byte_pairs(tokenizer.kind, model)
    elif tokenizer.kind == "chars":
        values, notes = _characters(model)
    else:
        reasons = {
            "unigram": "chooses the likeliest pieces, where llama.cpp joins adjacent ones",
            "jamo": "takes syllables apart, which llama.cpp does not",
        }
        reason = reasons.get(
            tokenizer.kind, "cuts whole words, which llama.cpp does not"
        )
        raise UserError(
            f"gguf has no data.tokenizer={tokenizer.kind}: it {reason}; export a run of bpe, bytes "
            "or chars, or export to hf"
        )
    tokens, kinds = _named(tokenizer, size)
    if values[MODEL] == "llama":
        tokens = [_with_blanks(token) for token in tokens]
        scores = values.setdefault(f"{PREFIX}scores", [0.0] * len(tokens))
        assert len(scores) == len(tokens)
    values[f"{PREFIX}tokens"] = tokens
    values[f"{PREFIX}token_type"] = kinds
    begins = tokenizer.beginning("a") != tokenizer.encode("a")
    values[f"{PREFIX}add_bos_token"] = begins
    values[f"{PREFIX}add_eos_token"] = False
    values[f"{PREFIX}bos_token_id"] = tokenizer.start_id
    if tokenizer.end_ids:
        values[f"{PREFIX}eos_token_id"] = tokenizer.end_ids[0]
    if len(tokenizer.end_ids) > 1:
        values[f"{PREFIX}eot_token_id"] = tokenizer.end_ids[1]
    if tokenizer.pad_id >= 0:
        values[f"{PREFIX}padding_token_id"] = tokenizer.pad_id
    values[DOCUMENT] = json.dumps(_document(tokenizer), ensure_ascii=False)
    return values, notes


def _document(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the whole tokenizer, with the mark that ours puts before texts."""
    if tokenizer.kind == "published":
        return tokenizer.document
    start = SPECIALS[tokenizer.start_id]
    return {
        **tokenizer.document,
        "post_processor": template(start, tokenizer.start_id),
    }


def _named(tokenizer: Tokenizer, size: int) -> tuple[list[str], list[int]]:
    """Return the tokens in the order of their ids, and the kind of each."""
    document = tokenizer.document
    names = dict(document["model"]["vocab"])
    special = {entry["id"]: entry for entry in document.get("added_tokens") or []}
    by_id = {id: token for token, id in names.items()}
    by_id |= {id: entry["content"] for id, entry in special.items()}
    marks = {tokenizer.start_id, *tokenizer.end_ids}
    if tokenizer.kind != "published":
        marks |= set(range(len(SPECIALS)))
    unknown = names.get(document["model"].get("unk_token"))
    fallback = bool(document["model"].get("byte_fallback"))
    tokens: list[str] = []
    kinds: list[int] = []
    for id in range(size):
        token = by_id.get(id, f"[PAD{id}]")
        tokens.append(token)
        if id == unknown:
            kinds.append(UNKNOWN)
        elif id in special and not special[id]["special"]:
            kinds.append(USER_DEFINED)
        elif id in special or id in marks:
            kinds.append(CONTROL)
        elif fallback and len(token) == 6 and token.startswith("<0x"):
            kinds.append(BYTE)
        else:
            kinds.append(NORMAL if id in by_id else UNUSED)
    return tokens, kinds


def _with_blanks(token: str) -> str:
    return token.replace(" ", BLANK)


def _byte_pairs(kind: str, model: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in model["merges"]
    ]
    notes = []
    if kind == "bpe":
        notes.append(
            "llama.cpp cuts text by the rule gpt-2, where ours differs for 's, 't, 're, 've, 'm, "
            "'ll and 'd before more letters, for combining marks and for words longer than 64"
        )
    values = {
        MODEL: "gpt2",
        f"{PREFIX}pre": "gpt-2",
        f"{PREFIX}merges": merges or NO_MERGES,
    }
    return values, notes


def _characters(model: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    if BLANK in model["vocab"]:
        raise UserError(
            f"gguf writes blanks as {BLANK}, and this vocabulary of characters holds both"
        )
    values = {
        MODEL: "llama",
        f"{PREFIX}add_space_prefix": False,
        f"{PREFIX}unknown_token_id": UNK,
    }
    return values, ["llama.cpp reads the characters of the vocabulary alone"]


def _published(document: dict[str, Any], size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the rule of a tokenizer that was published. Raises UserError: it is no known one."""
    model = document["model"]
    unusual = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
    is_plain = model.get("type") == "BPE" and not any(map(model.get, unusual))
    if is_plain and not model.get("byte_fallback"):
        name = _rule_of(document)
        if name is not None:
            values, _ = _byte_pairs("published", model)
            notes = []
            if name in NORMALIZERS:
                notes.append("llama.cpp takes text as it is: give it in NFC")
            return {**values, f"{PREFIX}pre": name}, notes
    if is_plain and model.get("byte_fallback"):
        is_cut = document.get("pre_tokenizer") is not None
        text = json.dumps(document.get("normalizer"))
        if not is_cut and '"Prepend"' in text:
            return _pieces(model, size), []
    raise UserError(
        "gguf has no tokenizer of this kind: llama.cpp knows byte pairs cut by rules with names "
        f"({', '.join(CUTS)}), and pieces with bytes for the rest; export to hf"
    )


def _rule_of(document: dict[str, Any]) -> str | None:
    """Return the name of the rule by which a document of byte pairs cuts text; None: it has none.

    What else goes with the name has to be so, too: the form of Unicode, and whether a whole word
    that is a token is taken as it is.
    """
    patterns = _patterns(document.get("pre_tokenizer"))
    takes_whole_words = bool(document["model"].get("ignore_merges"))
    for name, cuts in CUTS.items():
        is_alike = (
            patterns == cuts
            and _parts(document.get("normalizer")) == _parts(NORMALIZERS.get(name))
            and takes_whole_words == (name in WHOLE_WORDS)
        )
        if is_alike:
            return name
    return None


def _parts(rule: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rules that are applied one after the other, out of all sequences."""
    if rule is None:
        return []
    if rule["type"] != "Sequence":
        return [rule]
    parts: list[dict[str, Any]] = []
    for inner in rule.get("pretokenizers") or rule.get("normalizers") or []:
        parts += _parts(inner)
    return parts


def _patterns(rule: dict[str, Any] | None) -> tuple[str, ...] | None:
    """Return the patterns that cut text before its bytes are written as letters.

    One rule is published in several forms: a ``ByteLevel`` cuts by the pattern of GPT-2 itself
    unless ``use_regex`` is false, ``Digits`` are a pattern, and ``trim_offsets`` changes no token.

    Returns:
        None where something else is done to the text.
    """
    *cuts, last = _parts(rule) or [{"type": None}]
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    patterns: list[str] = []
    for cut in cuts:
        pattern = _pattern(cut)
        if pattern is None:
            return None
        patterns.append(pattern)
    if last.get("use_regex", True):
        patterns.append(GPT2_WORD)
    return tuple(patterns)


def _pattern(cut: dict[str, Any]) -> str | None:
    """Return the pattern whose matches stand alone; None where a rule does something else."""
    if cut["type"] == "Digits":
        return DIGIT if cut.get("individual_digits") else None
    is_isolated = cut.get("behavior") == "Isolated" and not cut.get("invert")
    if cut["type"] != "Split" or not is_isolated:
        return None
    pattern: str | None = cut["pattern"].get("Regex")
    return pattern


def _pieces(model: dict[str, Any], size: int) -> dict[str, Any]:
    """Return pieces by scores: the first merge that makes a token has the best.

    Args:
        model: of the document.
        size: tokens that the model scores; those that no merge makes come after all others.
    """
    merges = model["merges"]
    scores = [-1.0 - len(merges)] * size
    for rank, merge in reversed(list(enumerate(merges))):
        token = "".join(merge.split(" ") if isinstance(merge, str) else merge)
        scores[model["vocab"][token]] = -1.0 - rank
    return {
        MODEL: "llama",
        f"{PREFIX}add_space_prefix": True,
        f"{PREFIX}scores": scores,
    }
