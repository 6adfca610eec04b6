"""Weights of labels in the loss, for labels that are rare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unrolled.core.errors import UsageError, unknown
from unrolled.data.examples import Examples, Ragged
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import Recipe

QUOTES = ' (YAML reads yes, no, on and off as true and false: write such labels in quotes, "no": 2)'


def weigh(recipe: Recipe, task: Task, examples: Examples) -> Recipe:
    """Return the recipe with a weight for each label in the place of ``balanced``.

    Balanced, the weight of label k is N / (K n_k) for N targets, n_k of them k, of K labels that
    occur: every label then weighs alike in all (scikit-learn's ``compute_class_weight``).

    Raises:
        UsageError: the task has no labels, or a name is none of them.
    """
    weights = recipe.training.label_weights
    if weights is None:
        return recipe
    names = task.class_names
    if not names:
        raise UsageError(
            f"training.label_weights is for labels, and task={task.name} has none"
        )
    if weights == "balanced":
        targets = examples.targets
        flat = np.asarray(targets.flat[:] if isinstance(targets, Ragged) else targets)
        counts = np.bincount(flat[flat >= 0], minlength=len(names))
        occurs = counts > 0
        balanced = counts.sum() / (occurs.sum() * np.maximum(1, counts))
        balanced = np.where(occurs, balanced, 1.0)
        weights = dict(zip(names, balanced.tolist(), strict=True))
    for name in weights:
        if name not in names:
            raise UsageError(
                f"training.label_weights: {unknown('label', name, names)}"
                + (QUOTES if name in ("true", "false") else "")
            )
    return recipe.changed(training=recipe.training.changed(label_weights=weights))


def weights_of(recipe: Recipe, names: Sequence[str]) -> Tensor | None:
    """Return the weights of labels (C,), 1 where none is given; None where all weigh alike."""
    weights = recipe.training.label_weights
    if not isinstance(weights, dict):
        return None
    return torch.tensor([weights.get(name, 1.0) for name in names])
