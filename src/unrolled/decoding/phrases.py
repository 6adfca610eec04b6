"""How much of the phrases that must occur a text has written: a state machine a phrase."""

from __future__ import annotations

from collections.abc import Sequence

# tokens matched of each phrase; all of them once it has occurred
Progress = tuple[int, ...]


class Phrases:
    """What one source requires: a state machine a phrase, all followed at once.

    A phrase once written counts for good. One begun and not gone on with falls back to what is
    still right of it (Knuth, Morris and Pratt 1977; the paper falls back to nothing, and so would
    miss "a a b" in "a a a b"). Phrases may overlap; one that is named twice must occur once.

    Args:
        phrases: sequences of tokens; none is empty.
    """

    def __init__(self, phrases: Sequence[Sequence[int]]) -> None:
        self.phrases = [list(phrase) for phrase in dict.fromkeys(map(tuple, phrases))]
        self.borders = [_borders(phrase) for phrase in self.phrases]
        self.size = sum(map(len, self.phrases))
        self.start: Progress = (0,) * len(self.phrases)

    def advance(self, progress: Progress, token: int) -> Progress:
        """Return the progress after one more token."""
        after = []
        machines = zip(progress, self.phrases, self.borders, strict=True)
        for matched, phrase, borders in machines:
            if matched < len(phrase):
                while matched and phrase[matched] != token:
                    matched = borders[matched - 1]
                matched += phrase[matched] == token
            after.append(matched)
        return tuple(after)

    def bank(self, progress: Progress) -> int:
        """Return the tokens of the phrases that occurred, and of the one furthest begun."""
        occurred = 0
        begun = 0
        for matched, phrase in zip(progress, self.phrases, strict=True):
            if matched == len(phrase):
                occurred += matched
            else:
                begun = max(begun, matched)
        return occurred + begun

    def next_tokens(self, progress: Progress) -> list[int]:
        """Return the tokens that bring a phrase on, in order."""
        pairs = zip(progress, self.phrases, strict=True)
        return sorted(
            {phrase[matched] for matched, phrase in pairs if matched < len(phrase)}
        )


def _borders(phrase: list[int]) -> list[int]:
    """Return for each beginning how much of its end is a beginning too (and not all of it)."""
    borders = [0]
    for token in phrase[1:]:
        matched = borders[-1]
        while matched and phrase[matched] != token:
            matched = borders[matched - 1]
        borders.append(matched + (phrase[matched] == token))
    return borders
