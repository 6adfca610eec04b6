"""Models of equal size: the width at which each layer has so many parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unrolled.core.errors import UsageError, UserError
from unrolled.core.words import option
from unrolled.studies.trials import Trial

WIDEST = 2**15
HIDDEN = "model.hidden"


def with_equal_sizes(
    target: str, trials: list[Trial], parameters: int
) -> tuple[list[Trial], list[str]]:
    """Return runs with ``model.hidden`` such that their parameters are nearest to a number.

    Args:
        target: what is trained.
        trials: runs that do not set the width.
        parameters: how many each should have.

    Returns:
        The runs, and a line for each that cannot be given a size.

    Raises:
        UsageError: the narrowest model of a run has more, or a key is wrong.
    """
    widths: dict[str, int | None] = {}
    notes: list[str] = []
    sized = []
    for trial in trials:
        key = repr((trial.layer, trial.varied))
        if key not in widths:
            widths[key] = width_of(target, trial, parameters)
            if widths[key] is None:
                notes.append(
                    f"layer {trial.layer} has as many parameters at any {HIDDEN}: its size is as "
                    "it is"
                )
        width = widths[key]
        sized.append(trial if width is None else trial.with_changes({HIDDEN: width}))
    return sized, notes


def width_of(target: str, trial: Trial, parameters: int) -> int | None:
    """Return the width at which the parameters of a run are nearest; None where all have as many.

    Raises:
        UsageError: the narrowest model has more by a tenth.
    """
    count = counter(target, trial)
    step = _step(count)
    low = 1
    high = 2
    if count(low * step) == count(high * step):
        return None
    while _count(count, high * step) < parameters and high * step < WIDEST:
        low = high
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if _count(count, middle * step) < parameters:
            low = middle
        else:
            high = middle
    width = min(
        low * step, high * step, key=lambda w: abs(_count(count, w) - parameters)
    )
    least = _count(count, width)
    if width == step and least > 1.1 * parameters:
        raise UsageError(
            f"{option('params')} {parameters:,} is too small for layer {trial.layer}: with "
            f"{HIDDEN}={width} it has {least:,} (model.embedding, data.vocabulary and model.ngrams "
            "are the rest)"
        )
    return width


def counter(target: str, trial: Trial) -> Callable[[int], int | None]:
    """Return a function from a width to the parameters of the model of a run.

    It returns None of a width that the layer refuses.
    """
    from unrolled.nn.without_memory import without_memory
    from unrolled.runs.prepare import facts_again, prepare
    from unrolled.runs.recipes import requested
    from unrolled.runs.resolve import Machine, resolve

    first = requested(target, trial.changes)
    prepared = prepare(first)
    facts = facts_again(prepared)

    def count(width: int) -> int | None:
        changes: dict[str, Any] = {**trial.changes, HIDDEN: width}
        recipe = requested(target, changes)
        recipe = resolve(recipe, facts, Machine.of(recipe), prepared.pretrained)
        try:
            with without_memory():
                model = prepared.task.build(recipe)
        except UserError:
            return None
        return sum(parameter.numel() for parameter in model.parameters())

    return count


def _step(count: Callable[[int], int | None]) -> int:
    """Return a number whose multiples are all widths that a layer takes: heads divide it."""
    for step in (1, 2, 4, 8, 16, 32, 64):
        if all(count(step * factor) is not None for factor in (1, 2, 3)):
            return step
    return 128


def _count(count: Callable[[int], int | None], width: int) -> int:
    parameters = count(width)
    if parameters is None:
        raise UsageError(f"the layer cannot be built with {HIDDEN}={width}")
    return parameters


def check_sized(trials: list[Trial]) -> None:
    """Raise UsageError where the width is given, too."""
    if any(HIDDEN in trial.changes for trial in trials):
        raise UsageError(
            f"{option('params')} chooses {HIDDEN}; leave it out, or {option('params')}"
        )
