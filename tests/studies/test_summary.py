"""Means and intervals beside those of scipy, and the order of layers by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from unrolled.scores.intervals import wilson
from unrolled.studies import phrases
from unrolled.studies.summary import (
    growths,
    orders,
    summarise,
    t_interval,
)


def row(layer: str, seed: int, score: float | None, **more: Any) -> dict[str, Any]:
    row = {"layer": layer, "seed": seed, "score": score, "run": f"{layer}-{seed}"}
    row |= {"parameters": 10, "seconds": 2.0 + seed, "memory": 100.0 + seed}
    return row | {"scored_answers": 50, "scored_rows": 50} | more


def test_the_interval_over_seeds_is_that_of_scipy() -> None:
    scores = [0.81, 0.83, 0.86]
    expected = stats.t.interval(0.95, 2, loc=np.mean(scores), scale=stats.sem(scores))
    assert t_interval(scores) == pytest.approx(list(expected))
    assert t_interval([0.8]) is None


def test_the_interval_of_the_rows_is_that_of_scipy() -> None:
    expected = stats.binomtest(43, 50).proportion_ci(0.95, method="wilson")
    assert wilson(43 / 50, 50) == pytest.approx([expected.low, expected.high])


def test_runs_that_differ_by_their_seed_become_one_row() -> None:
    rows = [row("gru", 0, 0.8), row("gru", 1, 0.9), row("rnn", 0, 0.7)]
    rows.append(row("rnn", 1, None, error="no"))
    gru, rnn = summarise(rows, [], "accuracy")
    assert gru["score"] == pytest.approx(0.85)
    assert (gru["runs"], gru["failed"], gru["seconds"]) == (2, 0, 2.5)
    assert gru["memory"] == 101.0
    assert gru["interval"][1] == 1.0  # no accuracy is above
    assert gru["sampling"] == pytest.approx(wilson(0.85, 50))
    assert (rnn["runs"], rnn["failed"], rnn["interval"]) == (1, 1, None)


def test_words_of_a_sentence_have_no_interval_of_the_rows() -> None:
    rows = [row("gru", 0, 0.8, scored_rows=9)]
    assert summarise(rows, [], "accuracy")[0]["sampling"] is None
    assert summarise([row("gru", 0, 0.8)], [], "loss")[0]["sampling"] is None


@pytest.mark.parametrize("higher", [True, False])
def test_the_order_is_the_same_or_is_said_not_to_be(higher: bool) -> None:
    sign = 1 if higher else -1
    rows = [row("gru", 0, 0.8 * sign), row("rnn", 0, 0.7 * sign)]
    rows += [row("gru", 1, 0.75 * sign), row("rnn", 1, 0.7 * sign)]
    (order,) = orders(rows, [], higher)
    assert order.by_seed == {"0": ["gru", "rnn"], "1": ["gru", "rnn"]}
    assert order.same
    assert "same for all 2 seeds: gru > rnn" in str(phrases.of_order([order], [])[0])
    rows[3]["score"] = 0.76 * sign
    (order,) = orders(rows, [], higher)
    assert order.same is False
    said = str(phrases.of_order([order], [])[0])
    assert "not the same for all seeds: seed 0: gru > rnn; seed 1: rnn > gru" in said


def test_equal_scores_are_no_order() -> None:
    rows = [row("gru", 0, 0.80001), row("rnn", 0, 0.80002), row("none", 0, 0.9)]
    (order,) = orders(rows, [], True)
    assert order.by_seed == {"0": ["none", "gru=rnn"]}
    assert order.same is None
    assert "Another seed may" in str(phrases.of_order([order], [])[0])


def test_each_varied_value_has_an_order_of_its_own() -> None:
    rows = [
        row(layer, 0, score, **{"data.limit": limit})
        for layer, limit, score in (
            ("gru", 10, 0.5),
            ("rnn", 10, 0.6),
            ("gru", 99, 0.8),
            ("rnn", 99, 0.7),
        )
    ]
    first, second = orders(rows, ["data.limit"], True)
    assert (first.varied, first.by_seed) == ({"data.limit": 10}, {"0": ["rnn", "gru"]})
    assert second.by_seed == {"0": ["gru", "rnn"]}


def test_growth_is_told_for_each_layer_where_rows_are_varied() -> None:
    rows = [
        row("gru", 0, 1 - n**-0.3, **{"data.limit": n}) for n in (100, 1000, 10_000)
    ]
    (growth,) = growths(rows, ["data.limit"], True)
    assert growth["layer"] == "gru"
    assert growth["middle"] == pytest.approx(10_000**-0.3 - 11_000**-0.3)
    assert growths(rows, [], True) == []
    said = str(phrases.of_growth([growth], ["data.limit"], "accuracy")[0])
    assert said.startswith(
        "gru: 1,000 rows more than 10,000 would change accuracy by +0.0"
    )
    (unknown,) = growths(rows[:2], ["data.limit"], True)
    said = str(phrases.of_growth([unknown], ["data.limit"], "accuracy")[0])
    assert said.endswith("cannot be said: it takes 3 sizes, and 2 were tried.")
