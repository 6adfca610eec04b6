"""Stop strings, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from unrolled.decoding.stopping import until

SHORT = st.text("ab가", max_size=14)


def expected(text: str, stops: list[str]) -> str:
    """Grow the text letter by letter; stop when it first ends in a stop string."""
    for end in range(len(text) + 1):
        matches = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if matches:
            return text[: end - max(map(len, matches))]
    return text


@given(SHORT, st.lists(st.text("ab가", max_size=4), max_size=3), st.data())
def test_the_cuts_do_not_matter(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(until(pieces, stops)) == expected(text, stops)


def test_a_stop_split_over_pieces_is_left_out_and_nothing_is_read_after_it() -> None:
    read: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("one ", "#", "#", "E", "ND", " two"):
            read.append(piece)
            yield piece

    assert list(until(pieces(), ["##END"])) == ["one "]
    assert read[-1] == "ND"


def test_text_is_held_back_only_while_it_could_begin_a_stop() -> None:
    assert list(until(["a#", "b#", "#c"], ["##!"])) == ["a", "#b", "##c"]
    assert list(until(["a", "b"], [])) == ["a", "b"]
    assert list(until(["a", "b"], [""])) == ["a", "b"]
    assert list(until(["ends in #"], ["##"])) == ["ends in ", "#"]


def test_the_stop_that_ends_first_counts() -> None:
    assert "".join(until(["xabc"], ["abc", "b"])) == "xa"
    assert "".join(until(["xabc"], ["bc", "abc"])) == "x"
