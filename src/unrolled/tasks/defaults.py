"""Settings for keys that nobody set, chosen by the kind and the amount of data.

They are filled in once, before training, and saved with the run like settings that were given.
"""

from __future__ import annotations

from typing import Any

from unrolled.data.schema import Schema
from unrolled.nn.build import LayerConfig, uses
from unrolled.tasks.recipe import Recipe

TEXT: dict[str, dict[str, Any]] = {
    "model": {
        "bidirectional": True,
        "embedding_dropout": 0.4,
        "head_dropout": 0.5,
        # phrases tell much where there are few rows: without them n-gram regression wins
        "ngrams": 4,
    },
    "training": {
        "learning_rate": 2e-3,
        "label_smoothing": 0.05,
        "patience": 3,
        "average": "ema",
        "ema_decay": 0.99,
    },
}
NUMBERS: dict[str, dict[str, Any]] = {
    "model": {"hidden": 64, "layers": 2},
    "training": {"learning_rate": 5e-3, "weight_decay": 1e-4, "patience": 20},
}
SERIES: dict[str, dict[str, Any]] = {
    "model": {"hidden": 64, "head_dropout": 0.1},
    "training": {"learning_rate": 2e-3, "patience": 8},
}
# what comes next hangs on where the series stands now
WINDOWS = SERIES | {"model": {"hidden": 32, "head_dropout": 0.0, "pooling": "last"}}
TAGS: dict[str, dict[str, Any]] = {
    "data": {"min_count": 2},
    "model": {
        "bidirectional": True,
        "ngrams": 5,
        "token_dropout": 0.2,
        "embedding_dropout": 0.5,
        "head_dropout": 0.5,
    },
    "training": {
        "batch_size": 32,
        "learning_rate": 2e-3,
        "patience": 4,
        "average": "ema",
        "ema_decay": 0.99,
    },
}
LANGUAGE: dict[str, dict[str, Any]] = {
    "model": {"hidden": 256, "embedding": 128, "head_dropout": 0.1},
    "training": {"batch_size": 32, "learning_rate": 3e-3, "patience": 3},
}
PAIRS: dict[str, dict[str, Any]] = {
    "model": {
        "bidirectional": True,
        "hidden": 256,
        "embedding": 256,
        "embedding_dropout": 0.2,
        "dropout": 0.2,
        "head_dropout": 0.2,
    },
    "training": {
        "batch_tokens": 4096,
        "learning_rate": 1e-3,
        "label_smoothing": 0.1,
        "patience": 4,
        "average": "ema",
        "ema_decay": 0.99,
    },
}
PIECES = {"classify": "unigram", "regress": "unigram", "translate": "bpe"}
PARSE: dict[str, dict[str, Any]] = {
    "data": {"min_count": 2},
    "model": {"bidirectional": True},
    "training": {"learning_rate": 2e-3, "patience": 4},
}
FEWEST = 50  # steps between evaluations at least


def fill(recipe: Recipe, schema: Schema, rows: int, characters: int) -> Recipe:
    """Return the recipe with every unset key chosen.

    Args:
        recipe: what was asked.
        schema: the task and columns, as inferred.
        rows: training rows.
        characters: length of the training text.
    """
    chosen: dict[str, Any] = {}
    if schema.task == "language":
        defaults = LANGUAGE
        unit = characters
        steps = 20_000_000
    elif schema.frames:
        defaults = WINDOWS if recipe.data.window else SERIES
        unit = rows
        steps = 250_000
    elif schema.task == "tag":
        defaults = TAGS
        unit = rows
        steps = 150_000
    elif schema.task in ("translate", "rewrite"):
        defaults = PAIRS
        unit = rows
        steps = 600_000
    elif schema.task == "parse":
        defaults = PARSE
        unit = rows
        steps = 300_000
    elif schema.text:
        defaults = TEXT
        unit = rows
        steps = 250_000
    else:
        defaults = NUMBERS
        unit = rows
        steps = 600_000
        if "layer" not in recipe.model_fields_set:
            chosen["layer"] = "none"
    values = recipe.model_dump() | chosen
    layer = values["layer"]
    for group, keys in defaults.items():
        given = getattr(recipe, group).model_fields_set
        values[group] |= {
            k: v for k, v in keys.items() if k not in given and _fits(layer, k)
        }
    if recipe.training.bounded:
        # a run whose end is set ends there; patience is for those that must find their own end
        values["training"]["patience"] = recipe.training.patience
    if "evaluate_every" not in recipe.training.model_fields_set:
        # epochs of small data end before anything is learnt, and patience counts evaluations
        reading = recipe.training.batch_size
        reading *= recipe.training.window if schema.task == "language" else 1
        if unit < FEWEST * reading:
            values["training"]["evaluate_every"] = FEWEST
    if not recipe.training.bounded:
        # small data is read more often: the schedule falls to its end either way
        values["training"]["max_epochs"] = int(min(300, max(6, steps // max(1, unit))))
        values["training"]["max_minutes"] = 10.0
    if "vocabulary" not in recipe.data.model_fields_set and schema.task not in (
        "tag",
        "parse",
    ):
        # about one piece for every 80 characters that training sees
        values["data"]["vocabulary"] = int(min(16000, max(1000, characters // 80)))
    values["task"] = schema.task
    if not schema.numbers:
        values["data"]["tokenizer"] = recipe.data.tokenizer or PIECES.get(
            schema.task, "chars"
        )
    values["data"] |= {
        "text": list(schema.text)
        if len(schema.text) > 1
        else (schema.text or (None,))[0],
        "numbers": list(schema.numbers) or None,
        "label": schema.answer,
        "rows": "steps" if schema.steps else recipe.data.rows,
    }
    return Recipe.read(values)


def _fits(layer: str, key: str) -> bool:
    return key not in LayerConfig.model_fields or key in uses(layer)
