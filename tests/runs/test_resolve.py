"""What is chosen where nobody chose: by task, layer and amount of data; never over what was set."""

from __future__ import annotations

from typing import Any

import pytest

from unrolled.data.schema import Schema
from unrolled.runs.resolve import FEWEST, DataFacts, Machine, resolve
from unrolled.tasks.recipe import Recipe

TEXT = Schema("classify", ("text",), (), "label")
NUMBERS = Schema("regress", (), ("x", "y"), "z")
SONG = Schema("language")
TAGS = Schema("tag", ("words",), (), "upos")


def filled(
    schema: Schema, rows: int = 1000, characters: int = 50000, **given: Any
) -> Recipe:
    recipe = Recipe.read(given)
    return resolve(recipe, DataFacts(schema, rows, characters), Machine.of(recipe))


def test_text_gets_both_directions_and_unigram_pieces() -> None:
    recipe = filled(TEXT)
    assert (recipe.layer, recipe.model.bidirectional) == ("gru", True)
    assert (recipe.data.tokenizer, recipe.model.ngrams) == ("unigram", 4)
    assert (recipe.data.text, recipe.data.numbers, recipe.data.label) == (
        "text",
        None,
        "label",
    )


def test_numbers_get_the_network_without_memory_unless_a_layer_is_named() -> None:
    assert filled(NUMBERS).layer == "none"
    assert filled(NUMBERS, layer="lstm").layer == "lstm"
    assert filled(NUMBERS).data.tokenizer is None


def test_words_are_read_both_ways_with_their_characters_and_known_from_the_second_time() -> (
    None
):
    recipe = filled(TAGS)
    assert (recipe.layer, recipe.model.bidirectional, recipe.data.tokenizer) == (
        "gru",
        True,
        "chars",
    )
    assert (recipe.data.min_count, recipe.model.ngrams, recipe.data.vocabulary) == (
        2,
        5,
        16000,
    )
    assert not filled(TAGS, layer="none").model.bidirectional


def test_tags_of_steps_leave_the_vocabulary_as_it_is() -> None:
    # a run that was begun with another size could not be resumed
    steps = Schema("tag", (), ("x",), "y", frames=True, steps=True)
    assert filled(steps).data.vocabulary == 16000


def test_a_forecast_looks_at_the_last_step_and_other_sequences_at_all() -> None:
    walk = Schema("regress", (), ("x",), "x", frames=True, steps=True)
    recipe = filled(walk, data={"window": 5})
    assert (recipe.layer, recipe.model.pooling, recipe.data.rows) == (
        "gru",
        "last",
        "steps",
    )
    assert filled(walk).model.pooling == "mean-max"
    assert recipe.data.tokenizer is None


def test_a_language_model_reads_characters_from_left_to_right() -> None:
    recipe = filled(SONG)
    assert recipe.data.tokenizer == "chars"
    assert not recipe.model.bidirectional


@pytest.mark.parametrize("schema", [TEXT, NUMBERS, SONG, TAGS])
def test_what_was_set_is_kept(schema: Schema) -> None:
    given: dict[str, Any] = {
        "model": {"hidden": 7, "embedding": 9, "head_dropout": 0.0},
        "training": {
            "learning_rate": 0.5,
            "patience": 9,
            "max_epochs": 2,
            "evaluate_every": 3,
        },
        "data": {"vocabulary": 77},
    }
    values = filled(schema, **given).model_dump()
    for group, keys in given.items():
        assert {key: values[group][key] for key in keys} == keys


def test_a_run_without_a_limit_ends_after_ten_minutes() -> None:
    assert filled(TEXT).training.max_minutes == 10
    bounded = filled(TEXT, training={"max_steps": 5}).training
    assert (bounded.max_minutes, bounded.max_epochs) == (None, None)


def test_a_small_file_is_not_given_up_before_it_is_learnt() -> None:
    # patience counts evaluations: three epochs of 4 steps each would end inside the warm-up
    small = filled(TEXT, rows=240).training
    assert small.evaluate_every == FEWEST
    assert small.evaluate_every >= small.warmup_steps
    assert filled(TEXT, rows=100_000).training.evaluate_every is None
    assert filled(SONG, characters=2000).training.evaluate_every == FEWEST
    assert filled(SONG, characters=2_000_000).training.evaluate_every is None


def test_the_vocabulary_grows_with_the_text() -> None:
    sizes = [
        filled(TEXT, characters=n).data.vocabulary for n in (100, 100_000, 10_000_000)
    ]
    assert sizes == [1000, 1250, 16000]


def test_several_columns_of_text_are_kept_in_order() -> None:
    assert filled(Schema("classify", ("b", "a"), (), "y")).data.text == ["b", "a"]
