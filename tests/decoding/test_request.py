"""What follows from what a search is asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from unrolled.decoding.request import SearchRequest
from unrolled.decoding.settings import Search


@pytest.mark.parametrize(
    ("values", "quota", "enough"),
    [
        ({"beam": 4}, 1, 4),
        ({"beam": 4, "patience": 0.5}, 1, 2),
        ({"beam": 4, "patience": 0.1, "n_best": 3}, 3, 3),
        ({"beam": 4, "patience": None}, 1, math.inf),
        ({"beam": 1, "patience": None}, 1, 1),
        # of each group: two rows, and two of the three answers
        ({"beam": 4, "n_best": 3, "diverse_groups": 2}, 2, 2),
    ],
)
def test_how_many_ended_hypotheses_are_enough(
    values: dict[str, Any], quota: int, enough: float
) -> None:
    request = SearchRequest(Search(**values), 0, [7, 9])
    assert request.quota == quota
    assert request.enough.tolist() == [[enough], [enough]]


def test_prefixes_are_forced_token_by_token() -> None:
    request = SearchRequest(Search(), 0, [9, 9, 9], [[4, 5], None, [6]])
    everyone = np.array([0, 1, 2])
    steps = [request.forced(everyone, step) for step in (1, 2, 3)]
    assert [None if step is None else step.tolist() for step in steps] == [
        [4, -1, 6],
        [5, -1, -1],
        None,
    ]
    # once the others have left the batch nothing is forced any more
    assert request.forced(np.array([1, 2]), 2) is None
    assert SearchRequest(Search(), 0, [9]).forced(np.array([0]), 1) is None


def test_required_phrases_raise_the_limit_and_are_banks_of_their_own() -> None:
    phrases = [[[1, 2], [3]], [], [[1]]]
    prefixes = [[4, 4, 4], None, None]
    request = SearchRequest(Search(beam=6), 0, [5, 5, 5], prefixes, phrases)
    # three tokens of a prefix, three of phrases, the end mark
    assert request.limits.tolist() == [7, 5, 5]
    assert sorted(request.required) == [0, 2]
    # four banks of a beam of six leave the complete ones three rows; two banks leave three
    assert request.enough.tolist() == [[3], [6], [3]]
    # the divisor at the limit: GNMT's of seven and of five tokens
    expected = [(12 / 6) ** 0.6, (10 / 6) ** 0.6, (10 / 6) ** 0.6]
    assert request.penalty[:, 0].tolist() == pytest.approx(expected)
