"""Settings of a model that chats, where nobody says otherwise."""

from __future__ import annotations

from dataclasses import replace

from unrolled.tasks.base import DefaultSettings
from unrolled.tasks.recipe import Recipe
from unrolled.text.tokenizers import PUBLISHED

LONGEST = 512  # tokens of a talk, where nobody says otherwise
ANSWER = 128  # tokens of an answer, where nobody says otherwise
DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": LONGEST},
        "model": {"hidden": 256, "embedding": 128, "head_dropout": 0.1},
        "training": {"batch_size": 16, "learning_rate": 2e-3, "patience": 3},
        "decoding": {"beam": 1, "max_length": ANSWER},
    },
    budget=20_000_000,
    counts_characters=True,
    tokenizer="unigram",
)

# rates of learning, where adapters are trained, and where a published checkpoint is
ADAPTED = 5e-4
TUNED = 5e-5
# where a model is aligned: by pairs of answers, or by rewards
ALIGNED = {
    True: {
        "batch_size": 16,
        "learning_rate": 1e-4,
        "metric": "accuracy",
        "weight_decay": 0.0,
    },
    False: {
        "batch_size": 32,
        "learning_rate": 2e-4,
        "metric": "reward",
        "weight_decay": 0.0,
    },
}


def chat_defaults(recipe: Recipe) -> DefaultSettings:
    """Return the settings of talks for keys that nobody set."""
    aligned = recipe.align.method != "none"
    values = dict(DEFAULTS.values)
    if aligned:
        values["training"] = ALIGNED[recipe.align.compares]
    elif recipe.layer == "attention":
        # no published model of attention has one, and so it can be exported as one
        values["model"] = {**values["model"], "head_bias": False}
    published = recipe.data.tokenizer == PUBLISHED
    if published or recipe.adapter.adapts:
        # it was trained on far more than these talks, without dropout
        values["model"] = {**values["model"], "head_dropout": 0.0}
        if not aligned:
            rate = ADAPTED if recipe.adapter.adapts else TUNED
            values["training"] = {**values["training"], "learning_rate": rate}
    return replace(DEFAULTS, values=values)
