"""Characters as the tokenizers count them: code points, jamo, and letters that stand for bytes."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

CODE_POINTS = 0x110000
# Hangul syllables in Unicode: from FIRST_SYLLABLE on, SYLLABLES of them, numbered by their initial,
# vowel and final consonant; FINALS counts the syllables without a final too
FIRST_SYLLABLE = 0xAC00
SYLLABLES = 11_172
FIRST_INITIAL = 0x1100
FIRST_VOWEL = 0x1161
BEFORE_FINALS = 0x11A7
FINALS = 28
OF_AN_INITIAL = 588


def valid_text(text: str) -> str:
    """Return the text with halves of surrogate pairs, which UTF-8 cannot hold, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def code_points(text: str, jamo: bool) -> NDArray[np.uint32]:
    """Return the code points of a text; those of two or three jamo for a Hangul syllable."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    if not jamo or text.isascii():
        return points
    # others than syllables wrap round to a large number
    number = points - np.uint32(FIRST_SYLLABLE)
    is_syllable = number < SYLLABLES
    final = number % FINALS
    vowels = FIRST_VOWEL + number % OF_AN_INITIAL // FINALS
    parts = np.stack([points, vowels, BEFORE_FINALS + final], axis=1)
    parts[is_syllable, 0] = FIRST_INITIAL + number[is_syllable] // OF_AN_INITIAL
    has_final = is_syllable & (final > 0)
    kept = np.stack([np.ones_like(is_syllable), is_syllable, has_final], axis=1)
    return parts[kept]


@functools.cache
def byte_letters() -> dict[int, str]:
    """Return the printable letter by which byte-level models write each byte (as GPT-2 did)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(0x100 + number) for number, byte in enumerate(rest)}
