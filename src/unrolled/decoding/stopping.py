"""Stop strings in streamed text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield text up to the first stop string, which is left out.

    The first is the one that ends first, however the text is cut into pieces. A tail that could
    be the beginning of a stop string is held back until it is decided.
    """
    stops = [stop for stop in stops if stop]
    held = ""
    for piece in pieces:
        held += piece
        spans = [
            (held.find(stop) + len(stop), held.find(stop))
            for stop in stops
            if stop in held
        ]
        if spans:
            _, begin = min(spans)  # the one that ends first, and of those the longest
            if begin:
                yield held[:begin]
            return
        keep = max((_overlap(held, stop) for stop in stops), default=0)
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
