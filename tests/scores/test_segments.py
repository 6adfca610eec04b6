"""Segments: by hand, and against the field's usual way of counting them, written out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.scores.segments import (
    OVERLAPS,
    Segments,
    edit_score,
    overlap_f1,
    segment_scores,
)


def labels(text: str) -> Any:
    """Return a label for each letter."""
    return np.array([ord(letter) for letter in text], dtype=np.int64)


def pair(truth: str, predicted: str) -> tuple[Segments, Segments]:
    return Segments.of(labels(truth)), Segments.of(labels(predicted))


# ---------------------------------------------------------------------- by hand


def test_segments_are_stretches_of_equal_labels() -> None:
    segments = Segments.of(np.array([3, 3, 0, 5, 5, 5, 3]))
    assert segments.labels.tolist() == [3, 0, 5, 3]
    assert segments.starts.tolist() == [0, 2, 3, 6]
    assert segments.ends.tolist() == [2, 3, 6, 7]
    assert len(segments) == 4
    for single in ([4], [4, 4, 4]):
        segments = Segments.of(np.array(single))
        assert segments.labels.tolist() == [4]
        assert (segments.starts.tolist(), segments.ends.tolist()) == (
            [0],
            [len(single)],
        )
    empty = Segments.of(np.array([]))
    assert len(empty) == len(empty.starts) == len(empty.ends) == 0


@pytest.mark.parametrize(
    ("truth", "predicted", "score"),
    [
        ("aabbcc", "aabbcc", 1),
        # where a segment begins makes no difference
        ("aaaabc", "abbbbc", 1),
        # a segment too many, of four
        ("aabbcc", "aababcc", 1 - 2 / 5),
        ("aaabbb", "aaaaaa", 1 / 2),
        ("aaaa", "bbbb", 0),
        ("abcd", "dcba", 0),
        ("a", "a", 1),
        ("", "", 1),
    ],
)
def test_the_edit_score_is_of_the_order_of_segments(
    truth: str, predicted: str, score: float
) -> None:
    assert edit_score(*pair(truth, predicted)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("truth", "predicted", "overlap", "score"),
    [
        ("aabbcc", "aabbcc", 0.5, 1),
        # 2 of 4 frames of both: exactly half
        ("aabb", "aaaa", 0.5, 2 * 1 / (1 + 2)),
        ("aabbb", "aaaaa", 0.5, 0),
        ("aabbb", "aaaaa", 0.25, 2 * 1 / (1 + 2)),
        # the second a is another segment of a true one that was found before
        ("aaaaaa", "aaabaa", 0.1, 2 * 1 / (1 + 3)),
        # a true segment is matched at 1 of 10 frames, and not at 1 of 11
        ("a" + "b" * 9, "a" * 10, 0.1, 2 * 1 / (1 + 2)),
        ("a" + "b" * 10, "a" * 11, 0.1, 0),
        # the label is right and the frames are others
        ("abbb", "ccca", 0.1, 0),
        ("aaaa", "bbbb", 0.1, 0),
    ],
)
def test_the_f1_is_of_segments_that_overlap(
    truth: str, predicted: str, overlap: float, score: float
) -> None:
    assert overlap_f1([pair(truth, predicted)], overlap) == pytest.approx(score)


def test_a_segment_takes_the_true_one_it_shares_most_with() -> None:
    # the long a shares 2 of 7 frames with the first a and 3 of 7 with the second
    pairs = [pair("aabbaaa", "aaaaaaa")]
    assert overlap_f1(pairs, 0.25) == pytest.approx(2 * 1 / (1 + 3))
    assert overlap_f1(pairs, 0.5) == 0
    # each a takes a true one of its own: 1 of 3 frames, and 2 of 4
    assert overlap_f1([pair("abaaaa", "aaacaa")], 0.25) == pytest.approx(2 * 2 / 6)
    # both share most with the second true a, which the later one does not get
    assert overlap_f1([pair("abaaaa", "ccaaca")], 0.25) == pytest.approx(2 * 1 / 7)


def test_segments_of_all_sequences_are_counted_together_and_edits_apart() -> None:
    truth = [labels("aabb"), labels("c" * 9)]
    predicted = [labels("abab"), labels("c" * 9)]
    scores = segment_scores(truth, predicted)
    assert list(scores) == ["edit", "f1_10", "f1_25", "f1_50"]
    assert scores["edit"] == pytest.approx((1 - 2 / 4 + 1) / 2)
    # an a and a b of half the frames, and the c: 3 of 5 and of 3
    assert scores["f1_50"] == pytest.approx(2 * 3 / (5 + 3))


def test_a_flicker_costs_segments_and_hardly_frames() -> None:
    truth = labels("a" * 50 + "b" * 50)
    flickering = truth.copy()
    flickering[5:95:10] = ord("c")
    assert float((truth == flickering).mean()) == 0.91
    scores = segment_scores([truth], [flickering])
    assert scores["edit"] < 0.2
    assert scores["f1_50"] < 0.2
    assert segment_scores([truth], [truth]) == dict.fromkeys(scores, 1.0)


def test_sequences_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="of one sequence at least"):
        segment_scores([], [])
    with pytest.raises(ValueError, match="labels of the same frames"):
        segment_scores([labels("ab")], [labels("abc")])
    with pytest.raises(ValueError, match="labels of the same frames"):
        segment_scores([labels("ab")], [labels("ab"), labels("a")])


# ---------------------------------------------------------------------- the usual way

Stretch = tuple[int, int, int]  # label, first frame, frame after the last


def stretches(sequence: list[int]) -> list[Stretch]:
    result: list[Stretch] = []
    for frame, label in enumerate(sequence):
        if result and result[-1][0] == label:
            result[-1] = (label, result[-1][1], frame + 1)
        else:
            result.append((label, frame, frame + 1))
    return result


def usual_edit(truth: list[int], predicted: list[int]) -> float:
    """Return the edit score by the whole table of Levenshtein (1966)."""
    rows = [stretch[0] for stretch in stretches(predicted)]
    columns = [stretch[0] for stretch in stretches(truth)]
    table = np.zeros((len(rows) + 1, len(columns) + 1))
    table[:, 0] = np.arange(len(rows) + 1)
    table[0] = np.arange(len(columns) + 1)
    for i, row in enumerate(rows, 1):
        for j, column in enumerate(columns, 1):
            replaced = table[i - 1, j - 1] + (row != column)
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, replaced)
    return float(1 - table[-1, -1] / max(len(rows), len(columns)))


def usual_counts(
    truth: list[int], predicted: list[int], overlap: float
) -> tuple[int, int, int]:
    """Return true positives, false positives and false negatives, matched greedily in order."""
    right = stretches(truth)
    taken = [False] * len(right)
    positives = 0
    negatives = 0
    for label, start, end in stretches(predicted):
        best = -1
        largest = -1.0
        for index, (other, first, last) in enumerate(right):
            if other != label:
                continue
            union = max(end, last) - min(start, first)
            intersection = min(end, last) - max(start, first)
            if intersection / union > largest:
                largest = intersection / union
                best = index
        if best >= 0 and largest >= overlap and not taken[best]:
            taken[best] = True
            positives += 1
        else:
            negatives += 1
    return positives, negatives, len(right) - sum(taken)


def usual_scores(
    truth: list[list[int]], predicted: list[list[int]]
) -> dict[str, float]:
    pairs = list(zip(truth, predicted, strict=True))
    scores = {"edit": float(np.mean([usual_edit(*both) for both in pairs]))}
    for overlap in OVERLAPS:
        counts = [usual_counts(*both, overlap) for both in pairs]
        positives, negatives, missed = np.sum(counts, axis=0)
        precision = positives / (positives + negatives)
        recall = positives / (positives + missed)
        f1 = 0.0
        if positives:
            f1 = 2 * precision * recall / (precision + recall)
        scores[f"f1_{100 * overlap:.0f}"] = f1
    return scores


@st.composite
def sequences(draw: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Return labels of some sequences, and labels that differ from them here and there."""
    truth: list[list[int]] = []
    predicted: list[list[int]] = []
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(
            st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1)
        )
        right: list[int] = []
        for label, length in parts:
            right += [label] * length
        shift = draw(st.integers(0, 3))
        given_labels = [right[0]] * shift + right[: len(right) - shift]
        given_labels = given_labels[: len(right)]
        for frame in draw(st.lists(st.integers(0, len(right) - 1), max_size=8)):
            given_labels[frame] = draw(st.integers(0, 4))
        truth.append(right)
        predicted.append(given_labels)
    return truth, predicted


@given(sequences())
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_the_usual_way(
    both: tuple[list[list[int]], list[list[int]]],
) -> None:
    truth, predicted = both
    scores = segment_scores(list(map(np.array, truth)), list(map(np.array, predicted)))
    assert scores == pytest.approx(usual_scores(truth, predicted))


def test_scores_of_many_random_labels_are_those_of_the_usual_way() -> None:
    draw = np.random.default_rng(4)
    truth = [
        np.repeat(draw.integers(0, 4, 20), draw.integers(1, 30, 20)) for _ in "abc"
    ]
    predicted = []
    for right in truth:
        other = right.copy()
        noise = draw.random(len(right)) < 0.03
        other[noise] = draw.integers(0, 4, noise.sum())
        predicted.append(np.roll(other, 2))
    scores = segment_scores(truth, predicted)
    plain = usual_scores(
        [right.tolist() for right in truth], [other.tolist() for other in predicted]
    )
    assert scores == pytest.approx(plain)
    assert 0.2 < scores["f1_50"] < scores["f1_10"] < 1
