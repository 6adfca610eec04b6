"""Sentences whose closing verb says what 그것 means: what is held out, balanced, and shipped."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter, defaultdict

import pytest

from unrolled.runs.recipes import find_data, folder, requested
from unrolled.studies import geugeot
from unrolled.studies.geugeot import KINDS, Sentence, sentences

TRAIN = list(sentences(held_out=False))
HELD = list(sentences(held_out=True))
KIND_OF = {noun: kind for kind, (nouns, _) in enumerate(KINDS) for noun in nouns}
VERBS_OF = {kind: set(verbs) for kind, (_, verbs) in enumerate(KINDS)}


def other(row: Sentence) -> str:
    """Return the noun that is not meant."""
    first, second = row.nouns
    return second if first == row.label else first


def test_the_file_that_ships_is_what_the_generator_writes() -> None:
    for name, data in geugeot.files().items():
        path = folder() / "data" / name
        assert gzip.decompress(path.read_bytes()) == data
    rows = list(csv.reader(io.StringIO(geugeot.files()[geugeot.HELD_FILE].decode())))
    assert rows[0] == ["text", "label", "distance"]
    assert len(rows) == len(HELD) + 1


def test_the_recipe_reads_them() -> None:
    recipe = requested("geugeot", {})
    assert str(find_data(recipe, str(recipe.data.train))).endswith(geugeot.TRAIN_FILE)
    assert str(find_data(recipe, str(recipe.data.dev))).endswith(geugeot.HELD_FILE)


def test_words_are_of_one_kind_alone() -> None:
    nouns = [noun for kind, _ in KINDS for noun in kind]
    verbs = [verb for _, kind in KINDS for verb in kind]
    assert len(set(nouns)) == len(nouns)
    assert len(set(verbs)) == len(verbs)
    tells_nothing = " ".join((*geugeot.BETWEEN, *geugeot.ADJECTIVES, *geugeot.CHOICES))
    assert not set(tells_nothing.split()) & {*nouns, *verbs}


@pytest.mark.parametrize("rows", [TRAIN, HELD])
def test_the_verb_goes_with_the_noun_that_is_meant_and_not_with_the_other(
    rows: list[Sentence],
) -> None:
    for row in rows:
        assert row.verb in VERBS_OF[KIND_OF[row.label]]
        assert row.verb not in VERBS_OF[KIND_OF[other(row)]]
        words = row.text.split()
        assert words[-1] == f"{row.verb}."
        pronoun = words.index("그것을")
        assert len(words) - pronoun - 2 == row.distance
        positions = [row.text.index(f" {noun}") for noun in row.nouns]
        assert positions == sorted(positions)
        assert 0 <= row.distance <= geugeot.FARTHEST


def test_held_out_verbs_were_seen_with_neither_noun() -> None:
    seen = {(noun, row.verb) for row in TRAIN for noun in row.nouns}
    for row in HELD:
        for noun in row.nouns:
            assert (noun, row.verb) not in seen
    # but every word of them was
    assert {row.verb for row in HELD} <= {row.verb for row in TRAIN}
    assert {noun for row in HELD for noun in row.nouns} <= {row.label for row in TRAIN}


def test_held_out_rows_are_balanced() -> None:
    meant = Counter(row.label for row in HELD)
    not_meant = Counter(other(row) for row in HELD)
    assert meant == not_meant
    assert len(set(meant.values())) == 1
    assert len(set(Counter(row.verb for row in HELD).values())) == 1
    distances = Counter(row.distance for row in HELD)
    assert len(distances) == geugeot.FARTHEST + 1
    assert max(distances.values()) - min(distances.values()) <= 1


def test_blind_answers_do_not_win() -> None:
    """The verb alone, the first noun, the last noun: what each reaches on held-out rows."""
    labels = defaultdict(Counter)
    for row in TRAIN:
        labels[row.verb][row.label] += 1
    by_verb = sum(labels[row.verb].most_common(1)[0][0] == row.label for row in HELD)
    first = sum(row.nouns[0] == row.label for row in HELD)
    last = sum(row.nouns[1] == row.label for row in HELD)
    assert by_verb == 0
    assert first == last == len(HELD) / 2
    # pairs by heart: the noun that was seen with the verb, else the first
    seen = {(row.label, row.verb) for row in TRAIN}
    by_heart = 0
    for row in HELD:
        known = [noun for noun in row.nouns if (noun, row.verb) in seen]
        by_heart += (known or row.nouns)[0] == row.label
    assert by_heart == len(HELD) / 2
    in_training = sum(row.nouns[0] == row.label for row in TRAIN)
    assert in_training == len(TRAIN) / 2


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60])
def test_so_many_words_stand_between(count: int) -> None:
    import random

    phrases = geugeot.between(random.Random(count), count)
    assert len(" ".join(phrases).split()) == count


@pytest.mark.parametrize(
    ("word", "particle"),
    [("운동화", "를"), ("수박", "을"), ("빵", "을"), ("사과", "를")],
)
def test_particles_follow_the_last_letter(word: str, particle: str) -> None:
    assert geugeot._particle(word, "을", "를") == particle


def test_writing_twice_gives_equal_bytes(tmp_path) -> None:
    geugeot.main(str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    geugeot.main(str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert before.keys() == {geugeot.TRAIN_FILE, geugeot.HELD_FILE}
