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
    told = recipe.training.label_weights
    if told is None:
        return recipe
    names: Sequence[str] | None = getattr(getattr(task, "output", None), "names", None)
    if names is None:
        raise UsageError(
            f"training.label_weights is for labels, and task={task.name} has none"
        )
    if told == "balanced":
        found = examples.targets
        flat = np.asarray(found.flat[:] if isinstance(found, Ragged) else found)
        counts = np.bincount(flat[flat >= 0], minlength=len(names))
        occurs = counts > 0
        shares = counts.sum() / (occurs.sum() * np.maximum(1, counts))
        told = dict(zip(names, np.where(occurs, shares, 1.0).tolist(), strict=True))
    for name in told:
        if name not in names:
            raise UsageError(
                f"training.label_weights: {unknown('label', name, names)}"
                + (QUOTES if name in ("true", "false") else "")
            )
    return recipe.changed(training=recipe.training.changed(label_weights=told))


def weights_of(recipe: Recipe, names: Sequence[str]) -> Tensor | None:
    """Return the weights of labels (C,), 1 where none is told; None where all weigh alike."""
    told = recipe.training.label_weights
    if not isinstance(told, dict):
        return None
    return torch.tensor([told.get(name, 1.0) for name in names])
