"""Every repeated substring of some words, and where each occurs: what a unigram model begins with.

Legend: N characters of all words, W words, E occurrences of pieces (edges).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# characters of a piece; longer words are trained on in stretches of this length
LONGEST = 16


@dataclass(frozen=True, slots=True)
class Stretches:
    """The distinct words, W of them, commonest first.

    A word of n characters has n + 1 boundaries, numbered on from word to word: ``firsts`` and
    ``ends`` (W,) are the first and the last one of each.
    """

    texts: list[str]
    counts: Floats
    firsts: Ints
    ends: Ints

    @classmethod
    def of(cls, texts: list[str], counts: Floats) -> Stretches:
        """Number the boundaries of some words."""
        lengths = _lengths(texts)
        ends = np.cumsum(lengths) + np.arange(len(texts))
        return cls(texts, counts, ends - lengths, ends)


@dataclass(frozen=True, slots=True)
class Edges:
    """Every occurrence of every candidate inside the distinct words.

    ``start``, ``end`` and ``piece`` are (E,): piece number ``piece`` spans those boundaries.
    ``groups`` are slices of the edges within which no end and no start is repeated, in order of
    the offset they end at.
    """

    start: Ints
    end: Ints
    piece: Ints
    groups: list[slice]

    def only(self, kept: Ints, count: int) -> Edges:
        """Return the edges of the pieces numbered ``kept`` (sorted) of ``count``, numbered anew."""
        new = np.full(count, -1, np.int64)
        new[kept] = np.arange(len(kept))
        piece = new[self.piece]
        chosen = piece >= 0
        before = np.concatenate([[0], np.cumsum(chosen)])
        groups = []
        for group in self.groups:
            first = int(before[group.start])
            stop = int(before[group.stop])
            if first < stop:
                groups.append(slice(first, stop))
        start = self.start[chosen]
        end = self.end[chosen]
        return Edges(start, end, piece[chosen], groups)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces that may be in the vocabulary, P of them.

    ``single`` (P,) says which are characters; ``edges`` is where all of them occur.
    """

    texts: list[str]
    single: Mask
    edges: Edges

    def only(self, kept: Ints) -> Pieces:
        """Return the pieces numbered ``kept`` (sorted), numbered anew."""
        texts = [self.texts[number] for number in kept]
        single = self.single[kept]
        edges = self.edges.only(kept, len(self.texts))
        return Pieces(texts, single, edges)


def _lengths(texts: list[str]) -> Ints:
    lengths = list(map(len, texts))
    return np.array(lengths, np.int64)


# ---------------------------------------------------------------------- repeated substrings


@dataclass(frozen=True, slots=True)
class Letters:
    """The characters of all words side by side, N of them; all arrays are (N,).

    Attributes:
        code: the code point.
        letter: its number in the alphabet, -1 for one that is not in it.
        word: the number of the word that it stands in.
        offset: how many characters of the word stand before.
        stop: where the word ends.
    """

    code: Ints
    letter: Ints
    word: Ints
    offset: Ints
    stop: Ints

    @classmethod
    def of(cls, texts: list[str], codes: Ints) -> Letters:
        """Lay words side by side; ``codes`` (sorted) are the code points of the alphabet."""
        joined = "".join(texts).encode("utf-32-le")
        code = np.frombuffer(joined, np.uint32).astype(np.int64)
        lengths = _lengths(texts)
        ends = np.cumsum(lengths)
        starts = np.repeat(ends - lengths, lengths)
        last = len(codes) - 1
        nearest = np.searchsorted(codes, code).clip(0, last)
        return cls(
            code,
            letter=np.where(codes[nearest] == code, nearest, -1),
            word=np.repeat(np.arange(len(texts)), lengths),
            offset=np.arange(len(code)) - starts,
            stop=np.repeat(ends, lengths),
        )


@dataclass(frozen=True, slots=True)
class Grams:
    """The substrings of one length that occur often enough: G of them, at O positions.

    ``position`` and ``gram`` (O,) say where one begins and which it is; ``count`` (G,) is how
    often each occurs, and ``example`` (G,) one position of it.
    """

    length: int
    position: Ints
    gram: Ints
    count: Floats
    example: Ints


def repeated_substrings(
    words: Stretches, min_count: int, alphabet: list[str]
) -> tuple[Pieces, Floats]:
    """Return all repeated substrings, and their weights (count x length)."""
    points = sorted(map(ord, alphabet))
    codes = np.array(points, np.int64)
    letters = Letters.of(words.texts, codes)
    grams: Grams | None = _single_letters(letters, words.counts, len(codes))
    pieces = [chr(code) for code in codes]
    by_length = list[Grams]()
    while grams is not None:
        by_length.append(grams)
        if grams.length == LONGEST:
            break
        grams = _longer(grams, letters, words.counts, min_count, len(codes))
        if grams is not None:
            pieces += _texts(grams, letters)
    weights = np.concatenate([grams.count * grams.length for grams in by_length])
    single = np.array([len(piece) == 1 for piece in pieces])
    return Pieces(pieces, single, _edges(by_length, letters)), weights


def _single_letters(letters: Letters, counts: Floats, size: int) -> Grams:
    """Return the letters of an alphabet of ``size``, those too that do not occur."""
    position = np.flatnonzero(letters.letter >= 0)
    letter = letters.letter[position]
    count = sums(letter, counts[letters.word[position]], size)
    nowhere = np.zeros(0, np.int64)  # a letter is named by its code
    return Grams(1, position, letter, count, nowhere)


def _longer(
    grams: Grams, letters: Letters, counts: Floats, min_count: int, size: int
) -> Grams | None:
    """Return the substrings of one more letter, which begin as others do; None: there are none."""
    length = grams.length + 1
    last = grams.position + length - 1
    inner = last < letters.stop[grams.position]
    position = grams.position[inner]
    gram = grams.gram[inner]
    following = letters.letter[last[inner]]
    known = following >= 0
    position = position[known]
    # a number for each pair of a substring and the letter after it, without gaps
    pairs = gram[known] * size + following[known]
    _, first, gram = np.unique(pairs, return_index=True, return_inverse=True)
    weights = counts[letters.word[position]]
    count = sums(gram, weights, len(first))
    often = count >= min_count
    chosen = often[gram]
    if not chosen.any():
        return None
    fresh = np.cumsum(often) - 1
    return Grams(
        length,
        position[chosen],
        fresh[gram[chosen]],
        count[often],
        position[first[often]],
    )


def sums(group: Ints, values: Floats, groups: int) -> Floats:
    """Return (groups,): the sum of the values of each group."""
    sums = np.bincount(group, values, groups)
    return sums.astype(np.float64)


def _texts(grams: Grams, letters: Letters) -> list[str]:
    texts = []
    for start in grams.example.tolist():
        end = start + grams.length
        characters = letters.code[start:end].tolist()
        texts.append("".join(map(chr, characters)))
    return texts


def _edges(by_length: list[Grams], letters: Letters) -> Edges:
    """Order the occurrences by the offset in the word they end at, then by length."""
    positions = []
    pieces = []
    lengths = []
    before = 0  # pieces that are shorter
    for grams in by_length:
        positions.append(grams.position)
        pieces.append(grams.gram + before)
        count = len(grams.position)
        lengths.append(np.full(count, grams.length, np.int64))
        before += len(grams.count)
    position = np.concatenate(positions)
    piece = np.concatenate(pieces)
    length = np.concatenate(lengths)
    end = letters.offset[position] + length
    key = end * (LONGEST + 1) + length
    order = np.argsort(key, kind="stable")
    key = key[order]
    position = position[order]
    piece = piece[order]
    length = length[order]
    # one more boundary than characters in every word before
    start = position + letters.word[position]
    changes = np.flatnonzero(np.diff(key)) + 1
    cuts = [0, *changes.tolist(), len(key)]
    groups = list(itertools.starmap(slice, itertools.pairwise(cuts)))
    return Edges(start, start + length, piece, groups)
