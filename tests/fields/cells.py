"""Cells as files, programs and people give them, for tests that draw any of them."""

from __future__ import annotations

from hypothesis import strategies as st

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([1e300, -1e39, 1.7976931348623157e308, 10**400, 5e-324]),
)
cells = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text(st.characters(), max_size=20),
    numbers.map(str),
    st.binary(max_size=5),
    st.just("a good film"),
)
nested = st.recursive(
    cells,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.sampled_from(["text", "words", "rooms", "area", "column1", "x"]), inner
        )
    ),
    max_leaves=12,
)
