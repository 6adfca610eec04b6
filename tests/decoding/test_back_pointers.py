"""Back pointers against texts that are written out at every step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.decoding.back_pointers import (
    CUT,
    ENDED,
    LACKING,
    BackPointers,
    length_penalty,
)


def close(
    back_pointers: BackPointers, **fields: list[float] | list[int]
) -> list[float]:
    """Note hypotheses that are given as lists; what is left out is 0."""
    names = ("source", "group", "kind", "length", "row")
    columns = {name: np.array(column) for name, column in fields.items()}
    count = len(fields["total"])
    zeros = np.zeros(count, np.int64)
    columns = dict.fromkeys(names, zeros) | columns
    return back_pointers.close(**columns).tolist()


@given(st.data())
def test_a_trace_is_the_text_that_was_written(data: st.DataObject) -> None:
    """Rows repeat and leave; some hypotheses end at every step, and are traced at the end."""
    back_pointers = BackPointers(0.0)
    texts: list[list[int]] = [[], []]  # of each row, written out
    noted: list[list[int]] = []
    records: list[tuple[int, int]] = []
    recorded_rows = [0, 1]
    steps = data.draw(st.integers(0, 6))
    for step in range(steps + 1):
        for index in data.draw(st.sets(st.integers(0, len(texts) - 1), max_size=2)):
            noted.append(texts[index])
            records.append((step, recorded_rows[index]))
        if step == steps:
            break
        count = data.draw(st.integers(1, 5))
        indices = st.integers(0, len(texts) - 1)
        parents = data.draw(st.lists(indices, min_size=count, max_size=count))
        tokens = [10 * step + index for index in range(count)]
        back_pointers.add(
            np.array([recorded_rows[parent] for parent in parents]),
            np.array(tokens),
            -0.5 * np.array(tokens),
        )
        texts = [
            [*texts[parent], token]
            for parent, token in zip(parents, tokens, strict=True)
        ]
        # rows leave after the step is noted, and the others keep their numbers
        staying = sorted(
            data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count))
        )
        texts = [texts[index] for index in staying]
        recorded_rows = staying
    lengths = [length for length, _ in records]
    close(
        back_pointers,
        length=lengths,
        row=[row for _, row in records],
        total=[0.0] * len(records),
    )
    written, log_probs = back_pointers.trace(back_pointers.records[0])
    assert written.shape == log_probs.shape == (len(noted), max(lengths, default=0))
    for index, text in enumerate(noted):
        assert written[index, : len(text)].tolist() == text
        assert log_probs[index, : len(text)].tolist() == [-0.5 * t for t in text]


def test_the_penalty_is_that_of_the_paper() -> None:
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6)
    assert length_penalty(np.array([1, 7]), 0.0).tolist() == [1.0, 1.0]


def test_a_score_is_over_the_length_with_the_end_mark() -> None:
    back_pointers = BackPointers(1.0)
    scores = close(
        back_pointers,
        kind=[ENDED, CUT, CUT, ENDED],
        length=[6, 7, 0, 0],
        total=[-4.0, -4.0, -3.0, -3.0],
    )
    # (5 + 7) / 6 = 2; nothing at all has the length of one token
    assert scores == [-2.0, -2.0, -3.0, -3.0]
    (scored,) = BackPointers(1.0).close(
        np.array([-0.25]),
        source=np.array([0]),
        kind=CUT,
        length=7,
        total=np.array([-4.0]),
    )
    assert scored == -2.25


def test_records_stand_by_source_and_those_that_ended_first() -> None:
    back_pointers = BackPointers(0.0)
    close(
        back_pointers,
        source=[1, 0, 0, 0],
        kind=[CUT, LACKING, CUT, ENDED],
        row=[0, 1, 2, 3],
        total=[-1.0, -1.0, -2.0, -9.0],
    )
    close(
        back_pointers,
        source=[0, 0, 1],
        kind=[ENDED, ENDED, ENDED],
        row=[4, 5, 6],
        total=[-9.0, -3.0, -7.0],
    )
    records = back_pointers.sorted()
    # best first, of equal ones the earlier; what lacks a phrase comes behind what was cut off
    assert records["row"].tolist() == [5, 3, 4, 2, 1, 6, 0]
    assert records["source"].tolist() == [0, 0, 0, 0, 0, 1, 1]
