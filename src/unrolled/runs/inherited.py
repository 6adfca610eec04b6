"""Keys of a recipe that follow from the run whose weights a training begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unrolled.nn.build import LayerConfig, uses
from unrolled.tasks.recipe import Recipe

# what is dropped in training, and how weights are drawn, is another run's own affair
FREE = {
    "dropout",
    "input_dropout",
    "output_dropout",
    "recurrent_dropout",
    "between_dropout",
    "attention_dropout",
    "weight_drop",
    "orthogonal",
    "first",
}
# how text is cut into pieces; what a target is cut into where there is one
PIECES = ("tokenizer", "vocabulary", "min_count")
PAIRED = ("joint", "target_tokenizer", "target_vocabulary")


def inherited(
    requested: Recipe, origin: Recipe, around: Sequence[str], pieces: Sequence[str]
) -> Recipe:
    """Return a recipe with the keys of another one that shape its weights, where nobody set them.

    Args:
        requested: the recipe, as it was named and changed.
        origin: that of the run whose weights are taken, resolved.
        around: keys of ``model`` around the layer that are taken too.
        pieces: keys of ``data`` that are.
    """
    given = requested.model.model_fields_set
    keys = ["embedding"]
    values: dict[str, Any] = {}
    layer = requested.layer
    if "layer" not in requested.model_fields_set:
        layer = origin.layer
        values["layer"] = layer
    if layer == origin.layer:
        shaping = [key for key in LayerConfig.model_fields if key in uses(layer)]
        keys += [key for key in shaping if key not in FREE]
        keys += around
    model = {key: getattr(origin.model, key) for key in keys if key not in given}
    values["model"] = requested.model.model_copy(update=model)
    data = {
        key: getattr(origin.data, key)
        for key in pieces
        if key not in requested.data.model_fields_set
    }
    values["data"] = requested.data.model_copy(update=data)
    # a copy keeps in mind which keys were set, these among them
    return requested.model_copy(update=values)


def begun_inherited(requested: Recipe, saved: Recipe) -> Recipe:
    """Return a recipe with what the run that is resumed took over from the one it began with."""
    around = [key for key in type(saved.model).model_fields if key not in FREE]
    own = set(LayerConfig.model_fields)
    around = [key for key in around if key not in own and key != "init"]
    return inherited(requested, saved, around, (*PIECES, *PAIRED, "max_tokens"))


def says_otherwise(requested: Recipe, origin: Recipe) -> bool:
    """Whether a recipe asks for text to be cut in another way than another run cuts it."""
    given = requested.data.model_fields_set
    return any(
        key in given and getattr(requested.data, key) != getattr(origin.data, key)
        for key in PIECES
    )
