"""Which rows are held out: a function of the seed and the text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from unrolled.core.errors import UsageError, UserError
from unrolled.data.sources import nfc

RANKS = 2**64  # of which each text has one
ADVICE = "give a development file with data.dev=FILE"


def hold_out(
    keys: Sequence[str], seed: int, fraction: float = 0.1
) -> tuple[list[int], list[int]]:
    """Choose rows to hold out by a hash of (seed, text), so that equal texts never cross.

    Whether a row is held out does not depend on the other rows, except where that would leave one
    side empty: then the text of smallest hash is held out, or that of the largest trained on.

    Args:
        keys: one text a row; compared in NFC.
        seed: any integer.
        fraction: share of the distinct texts to hold out, between 0 and 1.

    Returns:
        The numbers of the rows to train on and of those held out, both in order.

    Raises:
        UserError: fewer than two distinct texts.
        UsageError: a fraction that is not between 0 and 1.
    """
    _check(fraction)
    ranks = [_rank(key, seed) for key in keys]
    distinct = sorted(set(ranks))
    if len(distinct) < 2:
        what = "there are no rows"
        if keys:
            what = f"all {len(keys):,} rows hold the same text"
        raise UserError(f"nothing can be held out: {what}; add rows, or {ADVICE}")
    limit = int(fraction * RANKS)
    # one text at least on each side
    least = distinct[0] + 1
    limit = max(limit, least)
    limit = min(limit, distinct[-1])
    dev = [number for number, rank in enumerate(ranks) if rank < limit]
    train = [number for number, rank in enumerate(ranks) if rank >= limit]
    return train, dev


def hold_out_some(
    names: Sequence[str], seed: int, fraction: float
) -> tuple[list[int], list[int]]:
    """Choose whole sequences to hold out by the hash of (seed, name): their nearest number.

    ``hold_out`` holds out about a share of many texts; of a few recordings that may be most.

    Args:
        names: the name of each sequence; pieces of one share it.
        seed: any integer.
        fraction: share of the distinct names to hold out, one at least.

    Returns:
        The numbers of those to train on and of those held out, both in order.

    Raises:
        UsageError: a fraction that is not between 0 and 1.
    """
    _check(fraction)
    distinct = set(names)
    ranks = {name: _rank(name, seed) for name in distinct}
    ranked = sorted(ranks, key=ranks.__getitem__)
    count = max(1, round(fraction * len(ranked)))
    count = min(count, len(ranked) - 1)
    held = set(ranked[:count])
    train = [i for i, name in enumerate(names) if name not in held]
    dev = [i for i, name in enumerate(names) if name in held]
    return train, dev


def split_text(text: str, fraction: float = 0.1) -> tuple[str, str]:
    """Return the text without its last part, and that part: ``fraction`` of its characters.

    Each has at least one character.

    Raises:
        UserError: a text of fewer than two characters.
        UsageError: a fraction that is not between 0 and 1.
    """
    cut = cut_at(len(text), fraction)
    return text[:cut], text[cut:]


def cut_at(size: int, fraction: float) -> int:
    """Return how many of ``size`` characters stand before the held-out part; see ``split_text``."""
    _check(fraction)
    if size < 2:
        raise UserError(
            f"a text of {size} characters cannot be split; add text, or {ADVICE}"
        )
    kept = int(size * (1 - fraction))
    # one character at least on each side
    kept = max(1, kept)
    return min(kept, size - 1)


def is_held(key: str, seed: int, fraction: float) -> bool:
    """Whether ``hold_out`` holds a row out, among so many that each side gets some."""
    return _rank(key, seed) < int(fraction * RANKS)


def _check(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UsageError(
            f"expected a fraction between 0 and 1 to hold out, got {fraction}"
        )


def _rank(key: str, seed: int) -> int:
    """Return a number from 0 to 2**64 - 1 that depends on the seed and the NFC text alone."""
    text = f"{seed}\0{nfc(key)}"
    message = text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(message, digest_size=8).digest()
    return int.from_bytes(digest, "big")
