"""Held-out rows: a function of seed and text, equal texts on one side, no side empty."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.core.errors import UsageError, UserError
from unrolled.data.split import hold_out, hold_out_some, is_held, split_text

several = st.lists(st.text(max_size=3), min_size=2).filter(
    lambda keys: len({unicodedata.normalize("NFC", key) for key in keys}) > 1
)


@given(keys=several, seed=st.integers(), fraction=st.floats(0.01, 0.99))
def test_a_partition_in_order_that_equal_texts_never_cross(
    keys: list[str], seed: int, fraction: float
) -> None:
    train, dev = hold_out(keys, seed, fraction)
    assert train
    assert dev
    assert train == sorted(train)
    assert dev == sorted(dev)
    assert sorted(train + dev) == list(range(len(keys)))
    texts = [unicodedata.normalize("NFC", key) for key in keys]
    assert not {texts[i] for i in train} & {texts[i] for i in dev}


def test_share_seed_and_independence_of_order() -> None:
    keys = [f"review {number}" for number in range(20_000)]
    train, dev = hold_out(keys, 1)
    assert 0.09 < len(dev) / len(keys) < 0.11
    assert hold_out(keys, 1) == (train, dev)
    other = set(hold_out(keys, 2)[1])
    assert 0.05 < len(other & set(dev)) / len(dev) < 0.15
    turned = hold_out(keys[::-1], 1)[1]
    assert {keys[::-1][number] for number in turned} == {keys[number] for number in dev}
    # rows that are added move no other row to the other side
    assert hold_out([*keys, "one more"], 1)[1][: len(dev)] == dev


def test_the_choice_does_not_change_between_versions() -> None:
    assert hold_out([str(number) for number in range(40)], seed=0)[1] == PINNED


PINNED = [6, 10, 11, 17, 28, 32]


def test_composed_and_decomposed_texts_stay_together() -> None:
    keys = [
        form
        for n in range(200)
        for form in (f"{n} 한글", unicodedata.normalize("NFD", f"{n} 한글"))
    ]
    dev = set(hold_out(keys, 3)[1])
    assert all((n in dev) == (n + 1 in dev) for n in range(0, 400, 2))


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "a", "a"]])
def test_nothing_to_hold_out(keys: list[str]) -> None:
    with pytest.raises(UserError, match=r"nothing can be held out.*data\.dev=FILE"):
        hold_out(keys, 1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_fraction_is_checked(fraction: float) -> None:
    with pytest.raises(UsageError, match="fraction between 0 and 1"):
        hold_out(["a", "b"], 1, fraction)
    with pytest.raises(UsageError, match="fraction between 0 and 1"):
        split_text("ab", fraction)


@given(text=st.text(min_size=2), fraction=st.floats(0.001, 0.999))
def test_split_text(text: str, fraction: float) -> None:
    train, dev = split_text(text, fraction)
    assert train + dev == text
    assert train
    assert dev
    assert abs(len(dev) - fraction * len(text)) <= 1


def test_split_text_is_the_usual_split() -> None:
    text = "x" * 1_115_394
    assert len(split_text(text)[0]) == int(1_115_394 * 0.9)
    with pytest.raises(UserError, match=r"1 characters cannot be split"):
        split_text("a")


def test_of_a_few_recordings_the_nearest_number_is_held_out() -> None:
    names = [name for name in "abcdefghij" for _ in range(2)]
    for seed in range(20):
        kept, held = hold_out_some(names, seed, 0.3)
        assert sorted(kept + held) == list(range(20))
        assert len({names[i] for i in held}) == 3
        assert not {names[i] for i in held} & {names[i] for i in kept}
    assert len(hold_out_some(["x", "y"], 0, 0.9)[0]) == 1
    assert len(hold_out_some(["x", "y", "z"], 0, 0.1)[1]) == 1
    chosen = [
        {names[i] for i in hold_out_some(names, seed, 0.3)[1]} for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    # which are held out does not hang on their order
    assert {names[::-1][i] for i in hold_out_some(names[::-1], 0, 0.3)[1]} == chosen[0]
    with pytest.raises(UsageError, match="fraction between 0 and 1"):
        hold_out_some(names, 0, 1.0)


def test_rows_are_held_out_one_by_one_as_all_at_once() -> None:
    keys = [f"row {number % 700}" for number in range(1000)]
    for seed, fraction in [(0, 0.1), (3, 0.37)]:
        held = [i for i, key in enumerate(keys) if is_held(key, seed, fraction)]
        assert held == hold_out(keys, seed, fraction)[1]
    assert not any(is_held(key, 0, 0.0) for key in keys)
