"""Which rows are held out: a function of the seed and the text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from unrolled.core.errors import UsageError, UserError
from unrolled.data.sources import nfc

ADVICE = "give a development file with data.dev=FILE"


def hold_out(keys: Sequence[str], seed: int, fraction: float = 0.1) -> tuple[list[int], list[int]]:
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
        what = "there are no rows" if not keys else f"all {len(keys):,} rows hold the same text"
        raise UserError(f"nothing can be held out: {what}; add rows, or {ADVICE}")
    limit = min(max(int(fraction * 2**64), distinct[0] + 1), distinct[-1])
    dev = [number for number, rank in enumerate(ranks) if rank < limit]
    train = [number for number, rank in enumerate(ranks) if rank >= limit]
    return train, dev


def split_text(text: str, fraction: float = 0.1) -> tuple[str, str]:
    """Return the text without its last part, and that part: ``fraction`` of its characters.

    Each has at least one character.

    Raises:
        UserError: a text of fewer than two characters.
        UsageError: a fraction that is not between 0 and 1.
    """
    _check(fraction)
    if len(text) < 2:
        raise UserError(f"a text of {len(text)} characters cannot be split; add text, or {ADVICE}")
    cut = min(max(int(len(text) * (1 - fraction)), 1), len(text) - 1)
    return text[:cut], text[cut:]


def _check(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UsageError(f"expected a fraction between 0 and 1 to hold out, got {fraction}")


def _rank(key: str, seed: int) -> int:
    """Return a number from 0 to 2**64 - 1 that depends on the seed and the NFC text alone."""
    message = f"{seed}\0{nfc(key)}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "big")
